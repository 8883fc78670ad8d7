"""Many small files: bounded parts, headers read once, few events, and what a run says of itself and of its files."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from wfdb_files import pulse, write_record

from xmae_dist.core.progress import Progress
from xmae_dist.ingest import noted
from xmae_dist.ingest.convert import PartTask
from xmae_dist.ingest.discover import discover
from xmae_dist.ingest.formats import wfdb as wfdb_reader
from xmae_dist.ingest.formats.items import Item
from xmae_dist.ingest.grouping import MOST_FILES, groups
from xmae_dist.ingest.noted import Done, NotedTask, write_noted
from xmae_dist.ingest.report import show
from xmae_dist.ingest.run import IngestRequest, ingest
from xmae_dist.ingest.written import Note, read_note
from xmae_dist.storage.corpus import Corpus


def given(folder: Path, corpus: Path, cohort: str = "c") -> IngestRequest:
    return IngestRequest(inputs=(str(folder),), corpus_url=f"file://{corpus}", cohort=cohort)


@pytest.mark.parametrize(("count", "size"), [(1, 10), (1000, 10), (1001, 10), (25_000, 10), (3000, 2**20), (0, 0)])
def test_a_part_has_a_bounded_number_of_files(count: int, size: int) -> None:
    items = [
        Item(name=f"{at:06d}", folder_url="", head="", files=(), bytes=size, fingerprint="") for at in range(count)
    ]
    grouped = list(groups(items, count * size, 512 * 2**20, 2))
    assert [item for group in grouped for item in group] == items
    assert all(0 < len(group) <= MOST_FILES for group in grouped)
    assert len(grouped) <= count // MOST_FILES + count * size // 2**29 + 4


def test_every_header_is_parsed_once(good_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    real = wfdb_reader.read_header
    monkeypatch.setattr(wfdb_reader, "read_header", lambda header: parsed.append(header.name) or real(header))
    corpus = Corpus.open_or_create(f"file://{tmp_path}/c")
    part = PartTask(
        corpus_url=corpus.url, cohort="c", part_id="part-1", items=tuple(discover([str(good_folder)], None).items())
    )
    list(write_noted(NotedTask(part=part, notes_url=f"{corpus.url}/notes", settings="s")))
    assert sorted(parsed) == ["r0.hea", "r1.hea", "r2.hea"]


def test_a_worker_tells_now_and_then_and_notes_its_part(
    good_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noted, "TELL_EVERY_S", 60.0)
    corpus = Corpus.open_or_create(f"file://{tmp_path}/c")
    items = tuple(discover([str(good_folder)], None).items())
    part = PartTask(corpus_url=corpus.url, cohort="c", part_id="part-1", items=items)
    events = list(write_noted(NotedTask(part=part, notes_url=f"{corpus.url}/notes", settings="s")))
    assert [type(event) for event in events] == [Done, Note]
    assert events[0] == Done(recordings=3, last="r2")
    settings, written = read_note(events[1].url)
    assert settings == "s" and [outcome.name for outcome in written.outcomes] == ["r0", "r1", "r2"]
    assert len(written.rows) == 6


def test_the_time_left_is_told_when_there_is_something_to_tell_it_from(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("work", 1000, "files", every_s=0.0)
    shown.advance(1)
    assert "s left" not in capsys.readouterr().err
    shown.advance(99)
    assert "s left" in capsys.readouterr().err


def test_looking_at_files_is_told_too(good_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ingest(given(good_folder, tmp_path / "c"))
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("ingest c: looking: 3 files")


def test_a_note_is_printed_once(good_folder: Path, tmp_path: Path) -> None:
    request = given(good_folder, tmp_path / "c")
    assert shown_lines(ingest(request)).count("count as a subject of their own") == 1
    assert "nothing new" in shown_lines(ingest(request))


def test_files_that_nothing_reads_are_counted_by_kind(good_folder: Path, tmp_path: Path) -> None:
    for name in ("notes.txt", "a.csv", "b.CSV", "LICENSE", "r0.atr"):
        (good_folder / name).write_text("x,y\n1,2\n")
    report = ingest(given(good_folder, tmp_path / "c"))
    assert dict(report.unread) == {".atr": 1, ".csv": 2, ".txt": 1, "without suffix": 1}
    said = shown_lines(report)
    assert "files that were not read: 2 .csv" in said and "--suggest" in said


def test_a_file_that_is_there_twice_is_named(good_folder: Path, tmp_path: Path) -> None:
    for suffix in (".hea", ".dat"):
        shutil.copy(good_folder / f"r1{suffix}", good_folder / f"copy{suffix}")
    header = good_folder / "copy.hea"
    header.write_text(header.read_text().replace("r1", "copy"))
    report = ingest(given(good_folder, tmp_path / "c"))
    assert report.same.groups == (("copy", "r1"),) and "same samples: copy, r1" in shown_lines(report)
    # The same file again, later and as another cohort.
    other = tmp_path / "other"
    write_record(other, "x", {"II": pulse(2000, 2), "PLETH": pulse(2000, 2.5)})
    write_record(other, "y", {"II": pulse(2000, 77), "PLETH": pulse(2000, 78)})
    assert ingest(given(other, tmp_path / "c", "later")).same.groups == (("c/r2", "x"),)


def shown_lines(report: object) -> str:
    from rich.console import Console

    console = Console(record=True, width=200, file=io.StringIO())
    show(report, console)  # type: ignore[arg-type]
    return console.export_text()


def test_a_note_from_a_task_that_was_run_twice_is_dropped(good_folder: Path, tmp_path: Path) -> None:
    request = given(good_folder, tmp_path / "c")
    report = ingest(request)
    corpus = Corpus.open(f"file://{tmp_path}/c")
    items = tuple(discover([str(good_folder)], None).items())
    part = PartTask(corpus_url=corpus.url, cohort="c", part_id="part-again", items=items)
    notes = tmp_path / "c" / "ingest" / "c" / "parts"
    list(write_noted(NotedTask(part=part, notes_url=f"file://{notes}", settings="s")))
    assert len(list(notes.glob("*.json"))) == 1
    again = ingest(request)
    assert (again.version, again.known) == (None, 3) and not list(notes.glob("*.json"))
    assert report.version == corpus.snapshot().version


def test_rows_lie_in_a_file_of_the_index_by_subject_and_recording(good_folder: Path, tmp_path: Path) -> None:
    ingest(given(good_folder, tmp_path / "c"))
    table = Corpus.open(f"file://{tmp_path}/c").index.read(columns=["subject_id", "recording_id", "digest"])
    names = list(zip(table["subject_id"].to_pylist(), table["recording_id"].to_pylist(), strict=True))
    assert names == sorted(names)
    assert np.unique(table["digest"].to_pylist()).size == 6
