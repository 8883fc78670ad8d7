"""Whole ingest runs: what ends up in a corpus, once, whatever happens on the way."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from wfdb_files import pulse, write_record

from xmae_dist.cli.main import main
from xmae_dist.ingest.convert import PartTask, Wear, write_part
from xmae_dist.ingest.discover import discover
from xmae_dist.ingest.formats.mapping import parse_mapping
from xmae_dist.ingest.register import Register
from xmae_dist.ingest.run import IngestRequest, Manifest, ingest
from xmae_dist.ingest.written import WrittenPart
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.testing.s3_server import S3Server


def request(folder: Path | str, corpus: str, **changes: object) -> IngestRequest:
    return dataclasses.replace(IngestRequest(inputs=(str(folder),), corpus_url=corpus, cohort="c"), **changes)  # type: ignore[arg-type]


def test_what_was_recorded_is_what_is_read(good_folder: Path, store_url: str) -> None:
    report = ingest(request(good_folder, store_url, device="monitor", body_sites={"ppg": "finger", "": "chest"}))
    assert report.exit_status == 0 and report.kept.count == 3
    recordings = list(Corpus.open(store_url).snapshot().recordings())
    assert [recording.recording_id for recording in recordings] == ["r0", "r1", "r2"]
    for at, recording in enumerate(recordings):
        np.testing.assert_allclose(recording.read("ecg"), pulse(2000, at), atol=6e-4)
        np.testing.assert_allclose(recording.read("ppg"), pulse(2000, at + 0.5), atol=6e-4)
    row = recordings[0].channels["ppg"]
    assert (row.source_name, row.unit, row.rate_hz, row.body_site, row.device) == (
        "PLETH", "mV", 100.0, "finger", "monitor",
    )  # fmt: skip
    assert recordings[0].channels["ecg"].body_site == "chest"


def test_integers_of_the_first_gain_are_kept_and_others_are_physical_values(good_folder: Path, tmp_path: Path) -> None:
    ingest(request(good_folder, f"file://{tmp_path}/same"))
    snapshot = Corpus.open(f"file://{tmp_path}/same").snapshot()
    assert {str(snapshot.reader(row).dtype) for row in snapshot.rows()} == {"int16"}
    for at, gain in enumerate((321.0, 654.0, 987.0)):
        write_record(good_folder, f"s{at}", {"II": pulse(2000, 9 + at), "PLETH": pulse(2000, 8 + at)}, gain=gain)
    ingest(request(good_folder, f"file://{tmp_path}/mixed"))
    snapshot = Corpus.open(f"file://{tmp_path}/mixed").snapshot()
    stored = {row.recording_id: str(snapshot.reader(row).dtype) for row in snapshot.rows()}
    assert stored == {name: "int16" if name < "s" else "float32" for name in ("r0", "r1", "r2", "s0", "s1", "s2")}
    # However many gains there are, a channel has two arrays.
    assert len({row.array_path for row in snapshot.rows()}) == 4
    for at, recording in enumerate(list(snapshot.recordings())[3:]):
        np.testing.assert_allclose(recording.read("ecg"), pulse(2000, 9 + at), atol=2e-3)


def test_bad_files_are_named_and_the_rest_is_kept(mixed_folder: Path, store_url: str) -> None:
    report = ingest(request(mixed_folder, store_url))
    assert report.exit_status == 1
    lost = {outcome.name: set(outcome.dropped) for outcome in report.kept.first}
    assert lost == {
        "r0": set(), "r1": set(), "r2": set(), "ecg_only": set(),
        "nan_channel": {"II"}, "flat_channel": {"PLETH"}, "damaged": {"II"},
    }  # fmt: skip
    why = {outcome.name: outcome.reason for outcome in report.rejected.first}
    for name, word in {
        "truncated": "truncated", "no_header": "no_header.hea", "no_signal": "no_signal.dat",
        "bad_header": "unreadable", "all_flat": "flat",
    }.items():  # fmt: skip
        assert word in why.pop(name)
    assert not why
    recordings = {r.recording_id: r for r in Corpus.open(store_url).snapshot().recordings()}
    assert set(recordings["ecg_only"].channels) == {"ecg"}
    # Lead II held nothing, so V is the best lead there is.
    assert set(recordings["nan_channel"].channels) == {"ecg", "ppg"}
    assert recordings["nan_channel"].channels["ecg"].source_name == "V"
    assert set(recordings["flat_channel"].channels) == {"ecg"}
    stored = json.loads(uri.read_bytes(report.url))
    assert stored["recordings"] == {"kept": 7, "rejected": 5, "known": 0, "left_out": 0}


def test_the_same_command_again_finds_nothing_and_new_files_are_added(good_folder: Path, store_url: str) -> None:
    first = ingest(request(good_folder, store_url))
    again = ingest(request(good_folder, store_url))
    assert (again.version, again.kept.count, again.known, again.exit_status) == (None, 0, 3, 0)
    write_record(good_folder, "r3", {"II": pulse(1000, 3)})
    more = ingest(request(good_folder, store_url))
    assert [outcome.name for outcome in more.kept.first] == ["r3"]
    snapshot = Corpus.open(store_url).snapshot()
    assert snapshot.version == more.version != first.version
    assert len(list(snapshot.recordings())) == 4


def test_a_file_that_was_mended_is_taken_in_later(mixed_folder: Path, tmp_path: Path) -> None:
    corpus = f"file://{tmp_path}/corpus"
    ingest(request(mixed_folder, corpus))
    write_record(mixed_folder, "truncated", {"II": pulse(2000, 5), "PLETH": pulse(2000, 6)})
    report = ingest(request(mixed_folder, corpus))
    assert [outcome.name for outcome in report.kept.first] == ["truncated"]
    assert report.exit_status == 1 and report.known == 7


def test_a_committed_recording_is_never_rewritten(good_folder: Path, tmp_path: Path) -> None:
    corpus = f"file://{tmp_path}/corpus"
    ingest(request(good_folder, corpus))
    write_record(good_folder, "r1", {"II": pulse(2500, 7)})
    report = ingest(request(good_folder, corpus))
    assert report.version is None
    assert [outcome.name for outcome in report.rejected.first] == ["r1"]
    assert "changed since" in report.rejected.first[0].reason


def _write_first_part(folder: Path, corpus: Corpus, count: int) -> WrittenPart:
    """What a run that is killed after its first part leaves behind."""
    register = Register(corpus, "c", [None, Wear()])
    items = tuple(itertools.islice(discover([str(folder)], None).items(), count))
    task = PartTask(corpus_url=corpus.url, cohort="c", part_id=register.part_id(items), items=items)
    *_, written = write_part(task)
    assert isinstance(written, WrittenPart)
    register.keep(written)
    return written


def test_parts_of_an_interrupted_run_are_not_read_again(good_folder: Path, store_url: str) -> None:
    corpus = Corpus.open_or_create(store_url)
    _write_first_part(good_folder, corpus, 2)
    # Same size, other content: if these files were read again their checksums would not hold.
    for name in ("r0", "r1"):
        path = good_folder / f"{name}.dat"
        path.write_bytes(bytes(len(path.read_bytes())))
    report = ingest(request(good_folder, store_url))
    assert report.resumed_parts == 1 and report.exit_status == 0
    recordings = list(corpus.snapshot().recordings())
    assert len(recordings) == 3
    np.testing.assert_allclose(recordings[0].read("ecg"), pulse(2000, 0), atol=6e-4)
    assert not uri.list_urls(uri.join(store_url, "ingest", "c", "parts"))


def test_a_run_that_died_right_after_its_commit_is_completed(good_folder: Path, tmp_path: Path) -> None:
    corpus = Corpus.open_or_create(f"file://{tmp_path}/corpus")
    written = _write_first_part(good_folder, corpus, 3)
    rows = [dataclasses.replace(row, subject_id=row.recording_id) for row in written.rows]
    version = corpus.commit_part(rows, "some-run")
    write_record(good_folder, "r3", {"II": pulse(1000, 3)})
    report = ingest(request(good_folder, corpus.url))
    assert [outcome.name for outcome in report.kept.first] == ["r3"] and report.known == 3
    assert version is not None and len(list(corpus.snapshot().recordings())) == 4


def test_other_settings_do_not_take_over_an_interrupted_run(good_folder: Path, tmp_path: Path) -> None:
    corpus = Corpus.open_or_create(f"file://{tmp_path}/corpus")
    _write_first_part(good_folder, corpus, 2)
    report = ingest(request(good_folder, corpus.url, device="another"))
    assert report.resumed_parts == 0
    assert {row.device for row in corpus.snapshot().rows()} == {"another"}


def test_two_runs_at_once_commit_once(good_folder: Path, store_url: str) -> None:
    Corpus.open_or_create(store_url)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(ingest, [request(good_folder, store_url)] * 2))
    assert sorted(report.version is not None for report in reports) == [False, True]
    assert len(list(Corpus.open(store_url).snapshot().recordings())) == 3


def test_groups_of_files_are_written_by_ray_tasks(good_folder: Path, store_url: str, ray_local: None) -> None:
    report = ingest(request(good_folder, store_url, part_bytes=9000))
    assert report.parts == 3
    snapshot = Corpus.open(store_url).snapshot()
    assert snapshot.version == report.version == 1
    assert len({row.part for row in snapshot.rows()}) == 3


def test_labels_and_subjects_come_from_the_manifest(good_folder: Path, tmp_path: Path) -> None:
    corpus, manifest = f"file://{tmp_path}/corpus", tmp_path / "m.csv"
    manifest.write_text("record,who,age,rhythm\nr0,p1,50,AF\nr1,p1,50,sinus\n")
    given = Manifest(url=str(manifest), subject_column="who")
    report = ingest(request(good_folder, corpus, manifest=given, subject_prefix="site7-"))
    assert report.exit_status == 1
    assert [outcome.name for outcome in report.rejected.first] == ["r2"] and "no subject" in report.rejected.first[
        0
    ].reason
    recordings = list(Corpus.open(corpus).snapshot().recordings())
    assert {recording.subject_id for recording in recordings} == {"site7-p1"}
    assert dict(recordings[0].labels) == {"age": 50.0} and dict(recordings[0].label_text) == {"rhythm": "AF"}
    manifest.write_text(manifest.read_text() + "r2,p2,40,AF\n")
    assert ingest(request(good_folder, corpus, manifest=given)).exit_status == 0
    assert len(list(Corpus.open(corpus).snapshot().recordings())) == 3


def test_a_folder_on_object_storage(good_folder: Path, store_url: str) -> None:
    uri.upload_tree(good_folder, uri.join(store_url, "raw"))
    report = ingest(request(uri.join(store_url, "raw"), uri.join(store_url, "corpus")))
    assert report.kept.count == 3 and report.exit_status == 0


def test_rows_of_a_table_fail_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id,s\na1,"1 2 3 4"\nb1,"1 two 3"\nc1,"5 5 5"\nd1,"2 1"\n')
    mapping = parse_mapping(
        'layout="rows"\nrate_hz=10\nrecording_column="id"\n[[channels]]\nname="ppg"\ncolumn="s"\n', "m.toml"
    )
    report = ingest(request(tmp_path / "t.csv", f"file://{tmp_path}/corpus", mapping=mapping))
    assert [outcome.name for outcome in report.kept.first] == ["a1", "d1"]
    assert {outcome.name: "two" in outcome.reason or "flat" in outcome.reason for outcome in report.rejected.first} == {
        "b1": True, "c1": True,
    }  # fmt: skip


def run_cli(*words: str) -> int:
    return main(["ingest", *words])


def test_exit_statuses_of_the_command(mixed_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = f"{tmp_path}/corpus"
    assert run_cli(str(mixed_folder), "--corpus", corpus, "--cohort", "c") == 1
    shown = capsys.readouterr().out
    assert "truncated" in shown and "5 rejected" in shown
    assert run_cli(f"{mixed_folder}/r0", "--corpus", corpus, "--cohort", "single") == 0
    assert run_cli(f"{mixed_folder}/truncated", "--corpus", corpus, "--cohort", "none") == 2
    assert run_cli(f"{tmp_path}/nowhere", "--corpus", corpus, "--cohort", "c") == 2
    assert run_cli(str(mixed_folder), "--corpus", corpus, "--cohort", "a/b") == 2
    assert run_cli(str(mixed_folder), "--corpus", corpus, "--cohort", "c", "--subject-column", "x") == 2
    assert run_cli(str(mixed_folder), "--corpus", corpus, "--cohort", "c", "--body-site", "=x") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_wrong_mapping_column_leaves_nothing_usable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.toml").write_text(
        'layout="columns"\nfiles="*.csv"\nrate_hz=10\n[[channels]]\nname="ppg"\ncolumn="red"\n'
    )
    (tmp_path / "a.csv").write_text("green\n1\n2\n")
    status = run_cli(
        str(tmp_path), "--corpus", f"{tmp_path}/corpus", "--cohort", "c", "--mapping", f"{tmp_path}/m.toml"
    )
    assert status == 2
    assert "'red'" in capsys.readouterr().out


@pytest.mark.recordings
def test_all_bedside_recordings_reach_object_storage(recordings_dir: Path, s3: S3Server) -> None:
    folder = recordings_dir / "challenge2015"
    manifest = Manifest(url=str(folder / "manifest.csv"), subject_column="patient_proxy")
    given = request(folder, uri.join(s3.bucket_url(), "corpus"), manifest=manifest)
    report = ingest(given)
    assert (report.kept.count, report.rejected.count, report.exit_status) == (126, 0, 0)
    # Seven flat and four never recorded pressures, and two flat leads.
    dropped = [name for outcome in report.kept.first for name in outcome.dropped]
    assert (dropped.count("ABP"), dropped.count("V"), len(dropped)) == (11, 2, 13)
    snapshot = Corpus.open(given.corpus_url).snapshot()
    recordings = {recording.recording_id: recording for recording in snapshot.recordings()}
    assert all({"ecg", "ppg"} <= set(recording.channels) for recording in recordings.values())
    assert recordings["v101l"].subject_id == recordings["v102s"].subject_id == "v100s"
    assert recordings["v101l"].labels["lag_ms"] == 530.2
    assert ingest(given).version is None
