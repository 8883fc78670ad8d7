"""Who a label means, labels that change, and recordings that are reached from several folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from wfdb_files import pulse, write_record

from xmae_dist.cli.main import main
from xmae_dist.core.errors import InputError, UsageError
from xmae_dist.ingest.formats.mapping import parse_mapping
from xmae_dist.ingest.labels import check_unambiguous, read_manifest
from xmae_dist.ingest.run import IngestRequest, Manifest, ingest, update_labels
from xmae_dist.storage.corpus import Corpus


def _clinics(folder: Path) -> Path:
    for at, clinic in enumerate(("clinicA", "clinicB")):
        write_record(folder / clinic, "001", {"II": pulse(1000, at)})
    return folder


def _manifest(path: Path, *lines: str) -> Manifest:
    path.write_text("\n".join(["record,who,age", *lines]) + "\n")
    return Manifest(url=str(path), subject_column="who")


def _request(folder: Path, corpus: Path, **changes: object) -> IngestRequest:
    return IngestRequest(inputs=(str(folder),), corpus_url=f"file://{corpus}", cohort="c", **changes)  # type: ignore[arg-type]


def _subjects(corpus: Path) -> dict[str, str]:
    recordings = list(Corpus.open(f"file://{corpus}").snapshot().recordings())
    return {recording.recording_id: recording.subject_id for recording in recordings}


def test_one_row_for_two_recordings_is_an_error_before_anything_is_read(tmp_path: Path) -> None:
    request = _request(_clinics(tmp_path / "in"), tmp_path / "c", manifest=_manifest(tmp_path / "m.csv", "001,p1,50"))
    with pytest.raises(InputError, match=r"'001': got ambiguous.*clinicA/001, clinicB/001"):
        ingest(request)
    assert not list(Corpus.open(f"file://{tmp_path}/c").snapshot().recordings())


def test_the_end_of_a_path_decides(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path / "m.csv", "clinicA/001.hea,p1,50", "./clinicB/001,p2,60")
    report = ingest(_request(_clinics(tmp_path / "in"), tmp_path / "c", manifest=manifest))
    assert report.exit_status == 0
    assert sorted(_subjects(tmp_path / "c").values()) == ["p1", "p2"]


def test_a_row_that_an_earlier_run_used_is_not_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_record(folder / "clinicA", "001", {"II": pulse(1000, 0)})
    manifest = _manifest(tmp_path / "m.csv", "001,p1,50")
    assert ingest(_request(folder, tmp_path / "c", manifest=manifest)).exit_status == 0
    write_record(folder / "clinicB", "001", {"II": pulse(1000, 1)})
    with pytest.raises(InputError, match="ambiguous"):
        ingest(_request(folder, tmp_path / "c", manifest=manifest))
    assert _subjects(tmp_path / "c") == {"clinicA/001": "p1"}


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "n/a", "None", "null", " ", "<NA>"])
def test_a_word_for_nothing_is_no_subject(tmp_path: Path, word: str) -> None:
    manifest = _manifest(tmp_path / "m.csv", f"clinicA/001,{word},50", f"clinicB/001,{word},60")
    report = ingest(_request(_clinics(tmp_path / "in"), tmp_path / "c", manifest=manifest))
    assert report.exit_status == 2 and report.rejected.count == 2
    assert all("no subject" in outcome.reason for outcome in report.rejected.first)


def test_a_word_for_nothing_in_a_table_of_recordings_is_no_subject(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id,who,s\na,nan,"1 2 3"\nb,nan,"3 2 1"\nc,p,"4 2 1"\n')
    mapping = parse_mapping(
        'layout="rows"\nrate_hz=10\nrecording_column="id"\nsubject_column="who"\n[[channels]]\nname="ppg"\ncolumn="s"\n',
        "m.toml",
    )
    ingest(_request(tmp_path / "t.csv", tmp_path / "c", mapping=mapping))
    assert _subjects(tmp_path / "c") == {"a": "a", "b": "b", "c": "p"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("record,who,age\na,p1\n", ["2 cells in line 2", "expected 3"]),
        ("record,who,age\na,p1,50,x\n", ["4 cells in line 2"]),
        ("record,age,who,age\na,1,p1,50\n", ["column 'age' twice"]),
        ("record,who,age\na,p1,1\na,p2,1\n", ["record 'a' twice"]),
        ("record,who,age\na.hea,p1,1\na,p2,1\n", ["record 'a' twice"]),
        ("", ["no rows"]),
    ],
)
def test_faults_of_a_manifest_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        read_manifest(f"file://{tmp_path}/m.csv", "record", "who")
    assert all(word in str(caught.value) for word in words)


def test_a_word_that_makes_a_label_text_is_noted(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('record,bp,note\na,120,x\nb,"120,5",y\nc,118,\n')
    book = read_manifest(f"file://{tmp_path}/m.csv", "record", None)
    assert book.notes == ("label 'bp' is kept as text: 1 of its cells are no numbers, such as '120,5' of 'b' in m.csv",)


def test_a_row_may_mean_recordings_of_two_books_but_not_of_one(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("record,age\nx/a,1\na,2\n")
    book = read_manifest(f"file://{tmp_path}/m.csv", "record", None)
    check_unambiguous([book], ["x/a", "y/a"])
    assert book.of("x/a").numbers == {"age": 1.0} and book.of("y/a").numbers == {"age": 2.0}  # type: ignore[union-attr]
    with pytest.raises(InputError, match="ambiguous"):
        check_unambiguous([book], ["x/a", "y/a", "z/a"])


def test_changed_labels_are_said_and_taken_over_in_one_commit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, corpus = _clinics(tmp_path / "in"), tmp_path / "c"
    manifest = _manifest(tmp_path / "m.csv", "clinicA/001,p1,50", "clinicB/001,p2,60")
    first = ingest(_request(folder, corpus, manifest=manifest))
    digests = {row.digest for row in Corpus.open(f"file://{corpus}").snapshot().rows()}
    _manifest(tmp_path / "m.csv", "clinicA/001,p1,51", "clinicB/001,p9,")
    again = ingest(_request(folder, corpus, manifest=manifest))
    assert again.version is None and "--update-labels" in again.notes[0] and "another subject" in again.notes[1]
    shutil.rmtree(folder)  # no signal is read
    words = ["ingest", "--update-labels", "--corpus", str(corpus), "--cohort", "c", "--labels", str(tmp_path / "m.csv")]
    assert main([*words, "--subject-column", "who", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["changed"] == ["clinicA/001", "clinicB/001"] and told["other_subjects"] == ["clinicB/001"]
    opened = Corpus.open(f"file://{corpus}")
    snapshot = opened.snapshot()
    assert told["version"] == snapshot.version == (first.version or 0) + 1
    labels = {one.recording_id: dict(one.labels) for one in snapshot.recordings()}
    assert labels == {"clinicA/001": {"age": 51.0}, "clinicB/001": {}}
    assert _subjects(corpus) == {"clinicA/001": "p1", "clinicB/001": "p2"}
    assert {row.digest for row in snapshot.rows()} == digests
    before = {one.recording_id: dict(one.labels) for one in opened.snapshot(first.version).recordings()}
    assert before["clinicA/001"] == {"age": 50.0}
    assert main([*words, "--subject-column", "who", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] is None


def test_labels_that_come_later_join_those_that_are_there(tmp_path: Path) -> None:
    folder, corpus = _clinics(tmp_path / "in"), tmp_path / "c"
    manifest = _manifest(tmp_path / "m.csv", "clinicA/001,p1,50", "clinicB/001,p2,60")
    ingest(_request(folder, corpus, manifest=manifest))
    (tmp_path / "later.csv").write_text("record,rhythm\nclinicA/001,AF\n")
    report = update_labels(
        IngestRequest(
            inputs=(), corpus_url=f"file://{corpus}", cohort="c", manifest=Manifest(url=str(tmp_path / "later.csv"))
        )
    )
    assert report.changed.first == ("clinicA/001",) and report.without_a_row == 1
    found = {one.recording_id: one for one in Corpus.open(f"file://{corpus}").snapshot().recordings()}
    assert dict(found["clinicA/001"].labels) == {"age": 50.0}
    assert dict(found["clinicA/001"].label_text) == {"rhythm": "AF"}
    with pytest.raises(UsageError, match="no table of labels"):
        update_labels(IngestRequest(inputs=(), corpus_url=f"file://{corpus}", cohort="c"))


def _people(folder: Path) -> Path:
    for at in range(3):
        place = folder / f"subject_0{at}"
        place.mkdir(parents=True)
        values = "\n".join(f"{value:.4f}" for value in pulse(600, at))
        (place / "PPG.csv").write_text(f"G\n{values}\n")
    return folder


PEOPLE = (
    "layout='columns'\nrate_hz=30\nfiles='*/PPG.csv'\nsubject_pattern='^subject_(.+)/'\n"
    "[[channels]]\nname='ppg'\ncolumn='G'\n"
)


@pytest.mark.parametrize("first", [".", "subject_01", "subject_01/PPG.csv"])
def test_a_recording_has_one_name_from_whatever_folder(tmp_path: Path, first: str) -> None:
    data, mapping = _people(tmp_path / "data"), parse_mapping(PEOPLE, "m.toml")
    for place in (first, ".", "subject_02", "subject_01/PPG.csv"):
        ingest(_request(data / place, tmp_path / "c", mapping=mapping))
    assert _subjects(tmp_path / "c") == {f"subject_0{at}/PPG": f"0{at}" for at in range(3)}


def _person(folder: Path, name: str, phase: float) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    values = "\n".join(f"{value:.4f}" for value in pulse(600, phase))
    (folder / name / "PPG.csv").write_text(f"G\n{values}\n")


PLACES = parse_mapping(PEOPLE.replace("subject_pattern='^subject_(.+)/'\n", "").replace("*/PPG", "*PPG"), "m.toml")


def test_a_neighbour_that_arrives_later_changes_no_name(tmp_path: Path) -> None:
    data, corpus = tmp_path / "data", tmp_path / "c"
    _person(data, "subject_01", 1)
    assert ingest(_request(data / "subject_01", corpus, mapping=PLACES)).kept.first[0].name == "PPG"
    _person(data, "subject_02", 2)
    _person(data, "subject_01", 3)  # and the file is another one now: it must not become a second recording
    report = ingest(_request(data, corpus, mapping=PLACES))
    assert [one.name for one in report.kept.first] == ["subject_02/PPG"]
    assert [one.name for one in report.rejected.first] == ["PPG"] and "changed" in report.rejected.first[0].reason
    _person(data, "subject_03", 4)
    assert [one.name for one in ingest(_request(data / "subject_03", corpus, mapping=PLACES)).kept.first] == [
        "subject_03/PPG"
    ]
    assert sorted(_subjects(corpus)) == ["PPG", "subject_02/PPG", "subject_03/PPG"]


def test_a_neighbour_that_is_gone_keeps_its_name(tmp_path: Path) -> None:
    """Folders that come one at a time: the first has no neighbour, nor has any other when it is named."""
    data, corpus = tmp_path / "data", tmp_path / "c"
    for at, name in enumerate(("subject_01", "subject_02", "subject_03")):
        _person(data, name, at)
        report = ingest(_request(data / name, corpus, mapping=PLACES))
        assert (report.kept.count, report.rejected.count) == (1, 0)
        shutil.rmtree(data / name)
    assert sorted(_subjects(corpus)) == ["PPG", "subject_02/PPG", "subject_03/PPG"]


def test_a_folder_below_one_that_was_named_keeps_its_names(tmp_path: Path) -> None:
    data, corpus = tmp_path / "all" / "data", tmp_path / "c"
    for at in (1, 2):
        _person(data, f"subject_0{at}", at)
    ingest(_request(data, corpus, mapping=PLACES))
    shutil.rmtree(data / "subject_02")
    _person(data, "subject_01", 7)  # alone now, and changed: still known by the name that it had
    report = ingest(_request(data / "subject_01", corpus, mapping=PLACES))
    assert [one.name for one in report.rejected.first] == ["subject_01/PPG"]
    _person(tmp_path / "all" / "data2", "subject_01", 8)
    report = ingest(_request(tmp_path / "all", corpus, mapping=PLACES))
    assert [one.name for one in report.kept.first] == ["data2/subject_01/PPG"]
    assert sorted(_subjects(corpus)) == ["data2/subject_01/PPG", "subject_01/PPG", "subject_02/PPG"]


def test_a_corpus_does_not_tell_where_its_files_lay(tmp_path: Path) -> None:
    _person(tmp_path / "private-place", "subject_01", 1)
    ingest(_request(tmp_path / "private-place" / "subject_01", tmp_path / "c", mapping=PLACES))
    runs = list((tmp_path / "c" / "ingest" / "c" / "runs").iterdir())
    assert runs and not any("private-place" in one.read_text() for one in runs)


def test_a_subject_pattern_for_records(tmp_path: Path) -> None:
    for at, name in enumerate(("p000999-2183-04-28", "p000999-2183-06-01", "p001000-2183-06-01")):
        write_record(tmp_path / "in" / name[:7], name, {"II": pulse(1000, at)})
    request = _request(tmp_path / "in", tmp_path / "c", subject_pattern=r"(p\d{6})-")
    ingest(request)
    assert sorted(_subjects(tmp_path / "c").values()) == ["p000999", "p000999", "p001000"]
    with pytest.raises(InputError, match="--subject-pattern"):
        ingest(_request(tmp_path / "in", tmp_path / "d", subject_pattern="p("))


def test_one_file_under_two_names_is_told(tmp_path: Path) -> None:
    write_record(tmp_path / "in", "rec_07", {"II": pulse(1000, 1)})
    for suffix in (".hea", ".dat"):
        shutil.copy(tmp_path / "in" / f"rec_07{suffix}", tmp_path / "in" / f"rec_07b{suffix}")
    header = tmp_path / "in" / "rec_07b.hea"
    header.write_text(header.read_text().replace("rec_07", "rec_07b"))
    report = ingest(_request(tmp_path / "in", tmp_path / "c"))
    assert report.same.groups == (("rec_07", "rec_07b"),)


def test_what_is_noted_of_a_recording_is_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path / "in", "r", {"II": np.round(900 * pulse(1000, 1), 1)}, gain=10.0)
    assert main(["ingest", str(tmp_path / "in"), "--corpus", str(tmp_path / "c"), "--cohort", "c", "--json"]) == 0
    (kept,) = json.loads(capsys.readouterr().out)["kept"]
    assert "likely in uV" in kept["notes"][0]
    assert main(["inspect", str(tmp_path / "c"), "--picture", "None"]) == 0
    assert "likely in uV" in capsys.readouterr().out.replace("\n", " ")
