"""Recordings of one person on two clocks: paired, judged, brought onto one clock, kept beside the corpus."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import WATCH, WORN
from tests.data.corpora import corpus_of
from xmae_dist.cli.main import main
from xmae_dist.core.errors import StorageError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.data.clocks import record
from xmae_dist.data.clocks.alignment import AlignedPair, PairEstimate, aligned, beats_of_pair, estimate
from xmae_dist.data.clocks.pairing import UNKNOWN_START, Candidate, PairConfig, apart_s, candidates
from xmae_dist.data.clocks.record import StoredEstimates, estimates, fingerprint_v1, from_dict, pair_id, to_dict
from xmae_dist.signals.align import AlignSpec
from xmae_dist.signals.beats import pulse_feet
from xmae_dist.signals.defects import fill_gaps
from xmae_dist.signals.filter import bandpass
from xmae_dist.simulate.cohorts import simulate_subject
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.snapshot import Recording

CONFIG = PairConfig()


@pytest.fixture(scope="module")
def pairs(worn_url: str) -> list[Candidate]:
    return candidates(list(Corpus.open(worn_url).snapshot().recordings()), CONFIG)


@pytest.fixture(scope="module")
def ready(worn_url: str, pairs: list[Candidate]) -> list[AlignedPair]:
    found = estimates(Corpus.open(worn_url), pairs)
    return [one for pair, it in zip(pairs, found, strict=True) if (one := aligned(pair, it)) is not None]


def _starting(recording: Recording, start_time_ns: int | None) -> Recording:
    rows = {name: dataclasses.replace(row, start_time_ns=start_time_ns) for name, row in recording.channels.items()}
    return dataclasses.replace(recording, channels=rows)


def test_devices_worn_together_are_paired_and_brought_onto_one_clock(ready: list[AlignedPair]) -> None:
    assert len(ready) == WORN.subjects
    for index, one in enumerate(ready):
        patch, watch = simulate_subject(WORN, index)
        assert one.pair.target.recording_id == patch.recording_id
        assert one.pair.source.recording_id == watch.recording_id
        true_s = np.linspace(20.0, 1180.0, 100)
        told_s = one.estimate.found.to_reference(watch.truth.clock.device_s(true_s) + one.estimate.shift_s)
        error_s = told_s - patch.truth.clock.device_s(true_s)
        assert np.abs(error_s - np.median(error_s)).max() < 0.025  # the constant is the prior's, the rest must hold
        assert abs(np.median(error_s)) < 0.25
        assert one.estimate.arrival_time_absolute is False


def test_the_samples_of_the_source_move_as_its_beats_do(ready: list[AlignedPair]) -> None:
    one = ready[0]
    start_s, stop_s = one.span_s
    grid_T = one.source_on_target(start_s, stop_s, 100.0)
    assert grid_T.size == round((stop_s - start_s) * 100)
    moved_s = pulse_feet(bandpass(fill_gaps(grid_T)[0], 100.0, (0.5, 8.0)), 100.0) + start_s
    told_s = one.estimate.found.to_reference(beats_of_pair(one.pair).source_s)
    told_s = told_s[(told_s > start_s + 5) & (told_s < stop_s - 5)]
    nearest_s = np.abs(moved_s[:, None] - told_s).min(axis=0)
    assert np.median(nearest_s) < 0.002
    assert np.quantile(nearest_s, 0.95) < 0.02  # the grid falls elsewhere between samples, so damaged beats differ


def test_what_was_not_recorded_is_missing_on_the_common_clock_too(ready: list[AlignedPair]) -> None:
    one = ready[0]
    row = one.pair.source_row
    end_s = float(one.estimate.found.to_reference(np.array([one.estimate.shift_s + row.duration_s]))[0])
    assert np.isnan(one.source_on_target(end_s + 0.1, end_s + 50.0, 50.0)).all()
    gap = (row.length // 2, row.length // 2 + 20 * int(row.rate_hz))
    holed = dataclasses.replace(one.pair.source, channels={"ppg": dataclasses.replace(row, gaps=(*row.gaps, gap))})
    torn = AlignedPair(pair=dataclasses.replace(one.pair, source=holed), estimate=one.estimate)
    gap_s = np.array(gap) / row.rate_hz + one.estimate.shift_s
    from_s, to_s = one.estimate.found.to_reference(gap_s)
    assert np.isnan(torn.source_on_target(from_s + 0.1, to_s - 0.1, 50.0)).all()
    assert np.isfinite(torn.source_on_target(from_s - 1.0, from_s - 0.1, 50.0)).all()


def test_unrelated_people_are_rejected_and_cannot_be_used(pairs: list[Candidate]) -> None:
    for one, two in zip(pairs, pairs[1:] + pairs[:1], strict=True):
        found = estimate(dataclasses.replace(one, source=two.source))
        assert not found.found.accepted
        assert found.found.reason
        assert aligned(one, found) is None
        with pytest.raises(ValueError, match=found.found.reason):
            AlignedPair(pair=one, estimate=found)


def test_only_overlapping_times_of_one_subject_on_two_clocks_are_paired(pairs: list[Candidate]) -> None:
    patch, watch = pairs[0].target, pairs[0].source
    start_ns = pairs[0].target_row.start_time_ns
    assert start_ns is not None

    def count(*recordings: Recording) -> int:
        return len(candidates(recordings, CONFIG))

    after_ns = start_ns + int(1e9 * pairs[0].target_row.duration_s)
    assert count(patch, watch) == 1
    assert count(patch, _starting(watch, after_ns + 129 * 10**9)) == 1
    assert count(patch, _starting(watch, after_ns + 131 * 10**9)) == 0
    assert count(patch, dataclasses.replace(watch, subject_id="someone else")) == 0
    assert apart_s([patch, dataclasses.replace(watch, subject_id="someone else")], CONFIG) == []
    hours_later = _starting(watch, after_ns + 7200 * 10**9)
    assert apart_s([patch, _starting(patch, 0), hours_later], CONFIG) == [pytest.approx(7200, abs=1e-6)]
    assert apart_s([patch, hours_later, _starting(watch, None)], CONFIG) == [pytest.approx(7200, abs=1e-6)]
    assert apart_s([patch, watch], CONFIG) == []
    both = dataclasses.replace(
        patch,
        channels={
            **patch.channels,
            "ppg": dataclasses.replace(pairs[0].source_row, clock_id=pairs[0].target_row.clock_id),
        },
    )
    assert count(both) == 0
    assert count(dataclasses.replace(patch, channels={**patch.channels, **watch.channels})) == 1


def test_an_unknown_wall_time_is_a_reason_not_a_guess(pairs: list[Candidate]) -> None:
    (pair,) = candidates([pairs[0].target, _starting(pairs[0].source, None)], CONFIG)
    found = estimate(pair)
    assert found.found.reason == UNKNOWN_START
    assert from_dict(json.loads(json.dumps(to_dict(found), allow_nan=False))).found.reason == UNKNOWN_START


def test_estimates_are_kept_in_the_corpus_and_found_again(
    worn_url: str, pairs: list[Candidate], ready: list[AlignedPair], tmp_path: Path
) -> None:
    corpus = Corpus.open(worn_url)
    kept = stored(corpus, {WATCH}, tmp_path / "kept")
    assert [kept[pair_id(pair)] for pair in pairs] == [one.estimate for one in ready]
    assert stored(corpus, {"another"}, tmp_path / "none") == {}
    one = to_dict(ready[0].estimate)
    assert one["arrival_time_absolute"] is False
    assert 0 < one["found"]["lag_std_s"] < 0.02
    assert one["found"]["drift_std_ppm"] > 0
    version = corpus.alignments.version()
    assert estimates(corpus, pairs) == [one.estimate for one in ready]
    assert corpus.alignments.version() == version  # nothing was made again
    other = PairConfig(align=AlignSpec(max_offset_s=130.0, arrival_prior_s=0.2))
    assert pair_id(dataclasses.replace(pairs[0], config=other)) != pair_id(pairs[0])


def stored(corpus: Corpus, cohorts: set[str], folder: Path) -> dict[str, PairEstimate]:
    folder.mkdir()
    people = list(StoredEstimates(corpus, cohorts, str(folder)))
    assert [subject for subject, _ in people] == sorted({subject for subject, _ in people})
    return {name: found for _, own in people for name, found in own.items()}


def test_the_name_of_pairs_in_old_stores_is_that_of_their_list() -> None:
    ids = ["00ff", "a1", "zz"]
    for some in (ids, ids[:1], []):
        assert fingerprint_v1(iter(some)) == digest_json(some)


def test_a_job_that_failed_goes_on_where_it_was(
    pairs: list[Candidate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Estimates are committed as they are made; only those that are missing are made."""
    corpus = Corpus.create(f"{tmp_path}/c")
    monkeypatch.setattr(record, "_COMMIT_EVERY_S", 0.0)
    lost = dataclasses.replace(pairs[2].source_row, array_path="signals/not/there/ppg")
    torn = dataclasses.replace(pairs[2], source=dataclasses.replace(pairs[2].source, channels={"ppg": lost}))
    with pytest.raises(StorageError, match="not/there"):
        estimates(corpus, [*pairs[:2], torn])
    assert set(stored(corpus, {WATCH}, tmp_path / "stored")) == {pair_id(pair) for pair in pairs[:2]}
    version = corpus.alignments.version()
    assert len(estimates(corpus, pairs)) == 3
    assert corpus.alignments.version() == version + 1
    assert corpus.alignments.read().num_rows == 3


def test_the_command_shows_pairs_and_draws_them(
    worn_url: str, ready: list[AlignedPair], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["align", "--corpus", worn_url, "--out", str(tmp_path / "pictures"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["accepted"] == WORN.subjects
    assert shown["rejected"] == {}
    assert [Path(name).read_bytes()[1:4] for name in shown["pictures"]] == [b"PNG"]
    # Clocks that are a minute apart cannot be found within a second: each pair is told, and drawn, as rejected.
    narrow = ["--max-offset-s", "1", "--out", str(tmp_path / "narrow")]
    assert main(["align", "--corpus", worn_url, *narrow]) == 0
    assert f"0 of {WORN.subjects} pairs accepted; rejected: " in capsys.readouterr().out
    assert len(list((tmp_path / "narrow").glob("rejected-*.png"))) == WORN.subjects


def test_a_corpus_without_pairs_is_a_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus_of(f"{tmp_path}/c", subjects=1, recordings=1)
    assert main(["align", "--corpus", f"{tmp_path}/c"]) == 2
    assert "different clocks" in capsys.readouterr().err


def test_devices_whose_wall_times_are_hours_apart_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As where one wrote local time: no pair is made of them, and that is not passed over."""
    corpus = Corpus.create(url := f"{tmp_path}/c")
    _worn_at(corpus, "a", {"patch": 0, "watch": 7200})
    assert main(["align", "--corpus", url]) == 2
    told = "recordings with ppg that meet no ecg of their subject: 1; by wall time the nearest is 1.98 h away"
    assert told in capsys.readouterr().err
    _worn_at(corpus, "b", {"patch": 0, "watch": 5})
    assert main(["align", "--corpus", url]) == 0
    shown = capsys.readouterr().out
    assert "0 of 1 pairs accepted" in shown and told in shown
    assert main(["align", "--corpus", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["apart"] == {"recordings": 1, "nearest_s": pytest.approx(7140)}


def _worn_at(corpus: Corpus, subject: str, start_s: dict[str, int]) -> None:
    """A minute of ECG of a patch and one of PPG of a watch, at these wall times."""
    rows = []
    with corpus.begin_part(subject, "part") as part:
        for device, channel in (("patch", "ecg"), ("watch", "ppg")):
            writer = part.channel(channel, dtype=np.float32, rate_hz=50.0, unit="nu")
            row = writer.add(
                np.zeros(3000, np.float32),
                subject_id=subject,
                recording_id=f"{subject}-{device}",
                clock_id=f"{subject}-{device}",
                start_time_ns=start_s[device] * 10**9,
            )
            rows.append(row)
    corpus.commit_part(rows, f"worn:{subject}")
