"""Who was withdrawn does not come back with the next file, and does come back when readmitted."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import tarfile
import threading
from pathlib import Path

import pytest
from wfdb_files import pulse, write_record

from xmae_dist.cli.main import main
from xmae_dist.ingest import run as run_module
from xmae_dist.ingest.formats.mapping import parse_mapping
from xmae_dist.ingest.report import IngestReport
from xmae_dist.ingest.run import IngestRequest, Manifest, ingest
from xmae_dist.ingest.simulated import simulate_into
from xmae_dist.simulate.cohorts import PRESETS
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus

FROZEN = Path(__file__).parents[1] / "storage" / "frozen" / "corpora-before-withdrawn-table.tar.gz"


def request(folder: Path, corpus: str, **changes: object) -> IngestRequest:
    return dataclasses.replace(IngestRequest(inputs=(str(folder),), corpus_url=corpus, cohort="c"), **changes)  # type: ignore[arg-type]


def people(tmp_path: Path, **of: str) -> Manifest:
    path = tmp_path / "people.csv"
    path.write_text("record,who\n" + "".join(f"{record},{who}\n" for record, who in of.items()))
    return Manifest(url=str(path), subject_column="who")


def names(outcomes: tuple) -> list[str]:  # type: ignore[type-arg]
    return sorted(outcome.name for outcome in outcomes)


def recordings(corpus: Corpus) -> list[str]:
    return [recording.recording_id for recording in corpus.snapshot().recordings()]


def test_a_withdrawn_person_does_not_come_back_by_a_new_file_or_another_cohort(
    good_folder: Path, store_url: str, tmp_path: Path
) -> None:
    manifest = people(tmp_path, r0="p0", r1="p1", r2="p1", r3="p1", r4="p4")
    ingest(request(good_folder, store_url, manifest=manifest))
    corpus = Corpus.open(store_url)
    corpus.withdraw(["p1"])
    write_record(good_folder, "r3", {"II": pulse(1000, 3)})
    write_record(good_folder, "r4", {"II": pulse(1000, 4)})
    report = ingest(request(good_folder, store_url, manifest=manifest))
    assert (names(report.kept.first), names(report.left_out.first), report.exit_status) == (
        ["r4"],
        ["r1", "r2", "r3"],
        0,
    )
    other = ingest(request(good_folder, store_url, manifest=manifest, cohort="other"))
    assert (names(other.kept.first), names(other.left_out.first)) == (["r0", "r4"], ["r1", "r2", "r3"])
    assert corpus.snapshot().subjects().to_pylist() == ["p0", "p4"]
    stored = sum(row.length for row in corpus.snapshot().rows() if row.part == list(corpus.snapshot().rows())[-1].part)
    last = corpus.snapshot().reader(list(corpus.snapshot().rows())[-1])
    assert last.length * 2 >= stored  # no sample of theirs was written
    again = ingest(request(good_folder, store_url, manifest=manifest))
    assert (again.kept.count, names(again.left_out.first), again.known) == (0, ["r1", "r2", "r3"], 2)


def test_the_command_says_who_is_left_out(
    good_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = people(tmp_path, r0="p0", r1="p1", r2="p1")
    argv = ["ingest", str(good_folder), "--corpus", f"{tmp_path}/corpus", "--cohort", "c", "--labels", manifest.url]
    argv += ["--subject-column", "who"]
    assert main(argv) == 0
    assert main(["withdraw", f"{tmp_path}/corpus", "--subject", "p1", "--apply"]) == 0
    capsys.readouterr()
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "left out, of people who were withdrawn (`xmae readmit` lists them): r1, r2" in said
    assert main(["readmit", f"{tmp_path}/corpus", "--subject", "p1", "--apply"]) == 0
    assert main(argv) == 0
    assert "2 recordings kept" in capsys.readouterr().out
    assert recordings(Corpus.open(f"{tmp_path}/corpus")) == ["r0", "r1", "r2"]


def test_a_person_comes_back_by_readmission_as_often_as_it_happens(
    good_folder: Path, store_url: str, tmp_path: Path
) -> None:
    manifest = people(tmp_path, r0="p0", r1="p0", r2="p0")
    first = ingest(request(good_folder, store_url, manifest=manifest))
    corpus = Corpus.open(store_url)
    held, txns = corpus.snapshot().fingerprint, {first.txn}
    for _ in range(2):
        corpus.withdraw(["p0"])
        assert names(ingest(request(good_folder, store_url, manifest=manifest)).left_out.first) == ["r0", "r1", "r2"]
        corpus.readmit(["p0"])
        assert corpus.snapshot().subjects().to_pylist() == []
        report = ingest(request(good_folder, store_url, manifest=manifest))
        assert names(report.kept.first) == ["r0", "r1", "r2"] and report.version is not None
        assert corpus.snapshot().fingerprint == held
        txns.add(report.txn)
    assert len(txns) == 3
    assert ingest(request(good_folder, store_url, manifest=manifest)).known == 3


def test_a_changed_file_gets_in_by_the_way_that_its_refusal_names(good_folder: Path, tmp_path: Path) -> None:
    corpus_url, manifest = f"file://{tmp_path}/corpus", people(tmp_path, r0="p0", r1="p1", r2="p2")
    ingest(request(good_folder, corpus_url, manifest=manifest))
    write_record(good_folder, "r1", {"II": pulse(2500, 7)})
    refused = ingest(request(good_folder, corpus_url, manifest=manifest))
    reason = refused.rejected.first[0].reason
    assert names(refused.rejected.first) == ["r1"]
    assert reason.index("`xmae withdraw`") < reason.index("`xmae readmit`")
    assert main(["withdraw", corpus_url, "--subject", "p1", "--apply"]) == 0
    assert names(ingest(request(good_folder, corpus_url, manifest=manifest)).left_out.first) == ["r1"]
    assert main(["readmit", corpus_url, "--subject", "p1", "--apply"]) == 0
    report = ingest(request(good_folder, corpus_url, manifest=manifest))
    assert (names(report.kept.first), report.rejected.count, report.known) == (["r1"], 0, 2)
    lengths = {
        row.recording_id: row.length for row in Corpus.open(corpus_url).snapshot().rows() if row.channel == "ecg"
    }
    assert lengths == {"r0": 2000, "r1": 2500, "r2": 2000}


def test_of_a_file_of_several_people_only_the_readmitted_ones_come_back(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id,who,s\na1,p0,"1 2 3 4"\nb1,p1,"4 3 1"\nc1,p2,"5 5 6"\n')
    mapping = parse_mapping(
        'layout="rows"\nrate_hz=10\nrecording_column="id"\nsubject_column="who"\n'
        '[[channels]]\nname="ppg"\ncolumn="s"\n',
        "m.toml",
    )
    given = request(tmp_path / "t.csv", f"file://{tmp_path}/corpus", mapping=mapping)
    ingest(given)
    corpus = Corpus.open(given.corpus_url)
    corpus.withdraw(["p1", "p2"])
    assert ingest(given).known == 1
    corpus.readmit(["p2"])
    report = ingest(given)
    assert (names(report.kept.first), names(report.left_out.first)) == (["c1"], ["b1"])
    assert recordings(corpus) == ["a1", "c1"]
    assert ingest(given).kept.count == 0


def test_a_part_of_an_interrupted_run_brings_nobody_back(
    good_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = people(tmp_path, r0="p0", r1="p1", r2="p2")
    given = request(good_folder, f"file://{tmp_path}/corpus", manifest=manifest)

    def died(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run_module.Gathered, "commit", died)
        with pytest.raises(KeyboardInterrupt):
            ingest(given)
    Corpus.open(given.corpus_url).withdraw(["p1"])
    report = ingest(given)
    assert report.resumed_parts == 1
    assert (names(report.kept.first), names(report.left_out.first)) == (["r0", "r2"], ["r1"])
    assert Corpus.open(given.corpus_url).snapshot().subjects().to_pylist() == ["p0", "p2"]


@pytest.fixture
def old_corpus(tmp_path: Path) -> Path:
    """A corpus from before the list, with p1 withdrawn, and the records it was made of."""
    with tarfile.open(FROZEN) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


def test_an_old_corpus_keeps_out_whom_it_lost_and_takes_them_back(old_corpus: Path) -> None:
    manifest = Manifest(url=f"{old_corpus}/m.csv", subject_column="who")
    given = request(old_corpus / "raw", f"file://{old_corpus}/withdrawn", manifest=manifest)
    report = ingest(given)
    assert (report.version, report.known, names(report.left_out.first)) == (None, 1, ["r1", "r2"])
    again = ingest(dataclasses.replace(given, cohort="again"))
    assert (names(again.kept.first), names(again.left_out.first)) == (["r0"], ["r1", "r2"])
    Corpus.open(given.corpus_url).readmit(["p1"])
    assert names(ingest(given).kept.first) == ["r1", "r2"]


def test_people_whom_nobody_can_name_any_more_are_told(old_corpus: Path) -> None:
    url = f"file://{old_corpus}/withdrawn"
    Corpus.open(url).index.vacuum(retention_hours=0)  # as an earlier version did
    manifest = Manifest(url=f"{old_corpus}/m.csv", subject_column="who")
    report = ingest(request(old_corpus / "raw", url, manifest=manifest))
    assert any("1 people were withdrawn before" in note and "--absent" in note for note in report.notes)


def test_a_simulated_person_stays_out_until_readmitted(store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = dataclasses.replace(PRESETS["bedside"], subjects=2, minutes=1.0, recordings_per_subject=1)
    first = simulate_into(store_url, spec)
    corpus = Corpus.open(store_url)
    gone = corpus.snapshot().subjects()[0].as_py()
    held = corpus.snapshot().fingerprint
    corpus.withdraw([gone])
    report = simulate_into(store_url, spec)
    assert (report.version, report.left_out, report.subjects) == (None, (gone,), 0)
    corpus.readmit([gone])
    report = simulate_into(store_url, spec)
    assert (report.left_out, report.subjects) == ((), 1) and report.version != first.version
    assert corpus.snapshot().fingerprint == held


def test_two_ingests_of_overlapping_files_at_once_leave_a_corpus_that_reads(
    good_folder: Path, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have looked before either commits; the later one finds what it shares, and commits the rest."""
    other = tmp_path / "copied" / "other"  # not beside the first: then folders would tell the two apart
    for name in ("r1", "r2"):
        for suffix in (".hea", ".dat"):
            other.mkdir(parents=True, exist_ok=True)
            (other / f"{name}{suffix}").write_bytes((good_folder / f"{name}{suffix}").read_bytes())
    write_record(other, "r3", {"II": pulse(1000, 3)})
    Corpus.open_or_create(store_url)
    together = threading.Barrier(2)
    commit = Corpus.commit_part
    met = threading.local()

    def at_once(self: Corpus, rows: object, txn: str) -> int | None:
        if not getattr(met, "done", False):
            met.done = True
            together.wait(timeout=120)
        return commit(self, rows, txn)  # type: ignore[arg-type]

    monkeypatch.setattr(Corpus, "commit_part", at_once)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        done: list[IngestReport] = list(pool.map(lambda f: ingest(request(f, store_url)), (good_folder, other)))
    assert recordings(Corpus.open(store_url)) == ["r0", "r1", "r2", "r3"]
    kept = sorted(name for report in done for name in names(report.kept.first))
    assert kept == ["r0", "r1", "r2", "r3"] and sum(report.known for report in done) == 2
    assert all(report.exit_status == 0 and report.version is not None for report in done)
    monkeypatch.undo()
    for folder, files in ((good_folder, 3), (other, 3)):
        assert ingest(request(folder, store_url)).known == files
    assert not uri.list_urls(uri.join(store_url, "ingest", "c", "parts"))


def test_another_recording_of_the_same_name_is_still_refused(
    good_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus_url = f"file://{tmp_path}/corpus"
    ingest(request(good_folder, corpus_url))
    for one in (tmp_path / "corpus" / "ingest" / "c" / "runs").iterdir():
        one.unlink()  # as if another program had committed them
    write_record(good_folder, "r1", {"II": pulse(2500, 7)})
    argv = ["ingest", str(good_folder), "--corpus", corpus_url, "--cohort", "c"]
    assert main(argv) == 2
    assert "already in the corpus, such as 'r1'" in capsys.readouterr().err
    document = json.loads((tmp_path / "corpus" / "corpus.json").read_text())
    assert document["format"] == "xmae-corpus/v2"
