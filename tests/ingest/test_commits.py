"""Commits as a run goes on: lots in order, exactly once, whatever is killed; and strays that break nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wfdb_files import pulse, write_record

from xmae_dist.cluster import fanout
from xmae_dist.core.errors import InputError
from xmae_dist.ingest import commits as commits_module
from xmae_dist.ingest import noted
from xmae_dist.ingest import run as run_module
from xmae_dist.ingest.commits import Commits
from xmae_dist.ingest.convert import PartTask, Wear
from xmae_dist.ingest.discover import discover
from xmae_dist.ingest.formats.mapping import parse_mapping
from xmae_dist.ingest.gather import Gathered
from xmae_dist.ingest.labels import Meanings
from xmae_dist.ingest.noted import NotedTask, write_noted
from xmae_dist.ingest.outcomes import OutcomeLog, read_outcomes
from xmae_dist.ingest.register import Register
from xmae_dist.ingest.run import IngestRequest, Manifest, ingest
from xmae_dist.ingest.twins import Twins
from xmae_dist.ingest.written import Note
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus

ROWS = parse_mapping(
    'layout="rows"\nrate_hz=10\nrecording_column="id"\nfiles="*.csv"\n[[channels]]\nname="ppg"\ncolumn="s"\n', "m.toml"
)


def given(folder: Path, corpus: Path, **changes: object) -> IngestRequest:
    return IngestRequest(inputs=(str(folder),), corpus_url=f"file://{corpus}", cohort="c", **changes)  # type: ignore[arg-type]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are written by this process, one after another and none ahead, whether or not a Ray is attached."""

    def stream(work: Callable[[Any], Iterator[Any]], tasks: Iterable[Any]) -> Iterator[Any]:
        return (event for task in tasks for event in work(task))

    monkeypatch.setattr(fanout, "stream", stream)


@pytest.fixture
def eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: None) -> Path:
    """Eight records, a part each, two to a commit."""
    for at in range(8):
        write_record(tmp_path / "in", f"r{at}", {"II": pulse(500, at)})
    monkeypatch.setattr(commits_module, "MOST_RECORDINGS", 2)
    monkeypatch.setattr(noted, "PART_S", 0.0)
    return tmp_path / "in"


def present(corpus: Path) -> list[str]:
    return [one.recording_id for one in Corpus.open(f"file://{corpus}").snapshot().recordings()]


def test_a_run_commits_as_it_goes(eight: Path, tmp_path: Path) -> None:
    report = ingest(given(eight, tmp_path / "c"))
    assert (report.commits, report.version, report.kept.count, report.parts) == (4, 4, 8, 8)
    assert present(tmp_path / "c") == [f"r{at}" for at in range(8)]
    rows = Corpus.open(f"file://{tmp_path}/c").index.read(2, columns=["recording_id"])["recording_id"].to_pylist()
    assert sorted(rows) == ["r0", "r1", "r2", "r3"]
    told = json.loads(uri.read_bytes(report.url))
    assert told["format"] == "xmae-ingest-report/v2" and told["commits"] == 4 and len(told["outcomes"]) == 4
    assert [one.name for url in told["outcomes"] for one in read_outcomes(url)] == [f"r{at}" for at in range(8)]
    assert ingest(given(eight, tmp_path / "c")).known == 8


@pytest.mark.parametrize("where", ["before a commit", "after a commit"])
def test_what_a_killed_run_leaves_is_a_prefix_and_the_next_one_goes_on(
    eight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    commit, done = Corpus.commit_part, []

    def killed(self: Corpus, rows: object, txn: str) -> int | None:
        if len(done) == 2 and where == "before a commit":
            raise KeyboardInterrupt
        version = commit(self, rows, txn)  # type: ignore[arg-type]
        done.append(txn)
        if len(done) == 3:  # the index has it, the register has not
            raise KeyboardInterrupt
        return version

    with monkeypatch.context() as patched:
        patched.setattr(Corpus, "commit_part", killed)
        with pytest.raises(KeyboardInterrupt):
            ingest(given(eight, tmp_path / "c"))
    before = 4 if where == "before a commit" else 6
    assert present(tmp_path / "c") == [f"r{at}" for at in range(before)]
    for at in range(6):  # their samples are in the corpus, or in parts that are noted: they are not read again
        path = eight / f"r{at}.dat"
        path.write_bytes(bytes(path.stat().st_size))
    report = ingest(given(eight, tmp_path / "c"))
    assert (report.known, report.kept.count, report.rejected.count) == (before, 8 - before, 0)
    assert report.resumed_parts == 6 - before
    assert present(tmp_path / "c") == [f"r{at}" for at in range(8)]
    assert not uri.list_urls(f"file://{tmp_path}/c/ingest/c/parts")


def test_parts_that_finish_out_of_order_are_committed_in_order(eight: Path, tmp_path: Path) -> None:
    corpus = Corpus.open_or_create(f"file://{tmp_path}/c")
    register = Register(corpus, "c", [None, Wear()])
    notes: list[Note] = []
    for number, item in enumerate(discover([str(eight)], None).items()):
        part = PartTask(corpus_url=corpus.url, cohort="c", part_id=register.part_id([item]), items=(item,))
        task = NotedTask(part=part, notes_url=register.notes_url, settings=register.settings, number=number)
        notes += [event for event in write_noted(task) if isinstance(event, Note)]
    log = OutcomeLog(corpus.url, "c")
    commits = Commits(register, lambda there: Gathered((), Meanings(()), "", there=there), log, Twins())
    for number in (3, 1, 2, 7, 5, 4):
        commits.add(notes[number])
    assert present(tmp_path / "c") == []
    commits.add(notes[0])
    assert present(tmp_path / "c") == [f"r{at}" for at in range(6)]  # 6 is not there yet, and 7 waits for it
    commits.add(notes[6])
    commits.finish()
    assert present(tmp_path / "c") == [f"r{at}" for at in range(8)] and log.kept.count == 8


def test_a_part_is_closed_when_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(3):
        write_record(tmp_path / "in", f"r{at}", {"II": pulse(500, at)})
    corpus = Corpus.open_or_create(f"file://{tmp_path}/c")
    items = tuple(discover([f"{tmp_path}/in"], None).items())
    monkeypatch.setattr(noted, "PART_S", 0.0)
    part = PartTask(corpus_url=corpus.url, cohort="c", part_id="part-1", items=items)
    notes = [
        event
        for event in write_noted(NotedTask(part=part, notes_url=f"{corpus.url}/notes", settings="s", number=5))
        if isinstance(event, Note)
    ]
    assert [(note.first, note.task, note.last) for note in notes] == [
        ("r0", 5, False),
        ("r1", 5, False),
        ("r2", 5, True),
    ]
    assert [note.part for note in notes] == ["part-1", "part-1-2", "part-1-3"]


def test_a_row_of_labels_means_one_recording_across_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: None
) -> None:
    """Names of recordings within tables are known when they are read: after the first commit, here."""
    folder = tmp_path / "in"
    folder.mkdir()
    for at, clinic in enumerate("AB"):
        (folder / f"{clinic}.csv").write_text(f'id,s\nclinic{clinic}/001,"1 2 {at} 4"\n{clinic}{clinic},"{at} 3 1"\n')
    (tmp_path / "m.csv").write_text("record,who\n001,p1\nAA,p2\nBB,p3\n")
    monkeypatch.setattr(commits_module, "MOST_RECORDINGS", 1)
    monkeypatch.setattr(noted, "PART_S", 0.0)
    manifest = Manifest(url=f"{tmp_path}/m.csv", subject_column="who")
    report = ingest(given(folder, tmp_path / "c", mapping=ROWS, manifest=manifest))
    assert report.commits == 2 and [one.name for one in report.rejected.first] == ["clinicB/001"]
    assert "ambiguous: it means clinicA/001 too" in report.rejected.first[0].reason
    assert sorted(present(tmp_path / "c")) == ["AA", "BB", "clinicA/001"]


def test_one_row_for_two_records_is_an_error_before_the_first_commit(eight: Path, tmp_path: Path) -> None:
    for clinic in ("x", "z"):
        write_record(eight / clinic, "r9", {"II": pulse(500, 9)})
    (tmp_path / "m.csv").write_text("record,age\nr0,1\nr9,2\n")
    with pytest.raises(InputError, match=r"'r9': got ambiguous: it means 2 recordings, x/r9, z/r9"):
        ingest(given(eight, tmp_path / "c", manifest=Manifest(url=f"{tmp_path}/m.csv")))
    assert present(tmp_path / "c") == []


def test_strays_among_runs_and_parts_break_nothing(eight: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module.Commits, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        patched.setattr(commits_module, "MOST_RECORDINGS", 10**6)
        with pytest.raises(KeyboardInterrupt):
            ingest(given(eight, tmp_path / "c"))
    for kind in ("runs", "parts"):
        place = tmp_path / "c" / "ingest" / "c" / kind
        (place / "folder.json").mkdir(parents=True)
        (place / "folder.json" / "deep.json").write_text("{}")
        for name, text in {
            ".DS_Store": "x", ".cut.json": "{", "notes.txt": "x", "cut.json": '{"format": "xmae-in', "list.json": "[1]",
            "other.json": '{"format": "another/v1", "items": {}}', "half.json": '{"format": "xmae-ingest-part/v2"}',
            "null.json": "null", "bytes.json": "\udcff",
        }.items():  # fmt: skip
            (place / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    report = ingest(given(eight, tmp_path / "c"))
    assert (report.kept.count, report.resumed_parts, report.rejected.count) == (8, 8, 0)
    told = [note for note in report.notes if "was not read" in note]
    assert len(told) == 12 and all(".json was not read" in note for note in told)
    again = ingest(given(eight, tmp_path / "c"))
    assert (again.known, again.version) == (8, None)
    assert (tmp_path / "c" / "ingest" / "c" / "parts" / "cut.json").exists()  # what we did not write stays


def test_of_two_commits_of_one_file_the_newer_tells_of_it(tmp_path: Path) -> None:
    """A file that was changed, withdrawn, readmitted and taken in again is known by its newer content, in whatever
    order the names of the commits happen to be.
    """
    folder = tmp_path / "in"
    for at in range(4):
        write_record(folder, "r", {"II": pulse(500, at)})
        corpus = tmp_path / "c"
        if at:
            Corpus.open(f"file://{corpus}").withdraw(["r"])
            Corpus.open(f"file://{corpus}").readmit(["r"])
        assert ingest(given(folder, corpus)).kept.count == 1
        again = ingest(given(folder, corpus))
        assert (again.known, again.rejected.count) == (1, 0)
