"""Simulated cohorts in a corpus."""

from __future__ import annotations

import dataclasses

import pytest

from xmae_dist.cli.main import main
from xmae_dist.cli.simulate import Args, specification
from xmae_dist.core.errors import UsageError
from xmae_dist.ingest.simulated import simulate_into
from xmae_dist.simulate.cohorts import PRESETS, simulate_subject
from xmae_dist.storage.corpus import Corpus

SMALL = dataclasses.replace(PRESETS["patch_watch"], subjects=3, minutes=1.0)


def test_devices_worn_together_become_cohorts_of_their_own(store_url: str) -> None:
    report = simulate_into(store_url, SMALL)
    snapshot = Corpus.open(store_url).snapshot()
    assert snapshot.version == report.version == 1
    assert snapshot.cohorts() == ["patch_watch-chest_patch", "patch_watch-smartwatch"]
    assert len(snapshot.subjects()) == 3 and len(list(snapshot.recordings())) == 6
    for recording in simulate_subject(SMALL, 1):
        rows = [row for row in snapshot.rows() if row.recording_id == recording.recording_id]
        for row in rows:
            stored = snapshot.reader(row).read_raw(row.offset, row.offset + row.length)
            assert (stored == recording.channels[row.channel].raw).all()
            assert list(row.gaps) == list(recording.channels[row.channel].gaps)
            assert dict(row.labels) == recording.labels
            assert row.clock_id == recording.clock_id and row.start_time_ns == recording.start_time_ns


def test_the_same_again_does_nothing_and_more_subjects_are_added(store_url: str) -> None:
    simulate_into(store_url, SMALL)
    assert simulate_into(store_url, SMALL).version is None
    more = simulate_into(store_url, dataclasses.replace(SMALL, subjects=5))
    assert (more.version, more.subjects) == (2, 2)
    assert len(Corpus.open(store_url).snapshot().subjects()) == 5


def test_the_same_people_with_other_options_are_refused(store_url: str) -> None:
    simulate_into(store_url, SMALL)
    with pytest.raises(UsageError, match="--cohort"):
        simulate_into(store_url, dataclasses.replace(SMALL, minutes=2.0))


def test_parts_are_written_by_ray_tasks(store_url: str, ray_local: None) -> None:
    report = simulate_into(
        store_url, dataclasses.replace(PRESETS["bedside"], subjects=4, minutes=1.0), part_bytes=80_000
    )
    assert report.parts == 2 and report.version == 1
    assert Corpus.open(store_url).snapshot().cohorts() == ["bedside"]


def test_hours_become_subjects() -> None:
    spec = specification(Args(preset="bedside", corpus="x", hours=100, minutes=10, cohort="b2"))
    assert (spec.subjects, spec.name) == (600, "b2")


def test_wrong_options_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    for words in (["unknown"], ["ring", "--hours", "1", "--subjects", "2"], ["ring", "--subjects", "0"]):
        assert main(["simulate", *words, "--corpus", f"{tmp_path}/c"]) == 2
    assert "expected one of bedside" in capsys.readouterr().err
