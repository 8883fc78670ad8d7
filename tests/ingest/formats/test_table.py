"""CSV and Parquet files as mapping files describe them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.mapping import Mapping, parse_mapping
from xmae_dist.ingest.formats.table import ColumnsRecording, rows_recordings
from xmae_dist.ingest.labels import read_label_files, read_manifest, split_kinds

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "mappings"
COLUMNS = """
layout = "columns"
rate_hz = 100.0
[time]
column = "t"
format = "{time_format}"
[[channels]]
name = "ppg"
column = "green"
unit = "V"
"""


def example(name: str) -> Mapping:
    return parse_mapping((EXAMPLES / f"{name}.toml").read_text(), f"{name}.toml")


def columns_mapping(time_format: str = "seconds") -> Mapping:
    return parse_mapping(COLUMNS.format(time_format=time_format), "test.toml")


def write_csv(path: Path, times: list[str], values: list[str]) -> Path:
    path.write_text("t,green\n" + "".join(f"{t},{v}\n" for t, v in zip(times, values, strict=True)))
    return path


def read(path: Path, mapping: Mapping) -> np.ndarray:
    return np.concatenate([block["green"] for block in ColumnsRecording(path, "x", mapping).blocks()])


@pytest.mark.recordings
def test_quoted_csv_with_clock_times(recordings_dir: Path) -> None:
    recording = ColumnsRecording(recordings_dir / "wrist" / "s1_walk.csv", "s1_walk", example("wrist"))
    (block,) = recording.blocks()
    assert recording.origin.subject_id == "s1"
    assert {channel.name for channel in recording.channels} >= {"ecg", "ppg", "acc_x", "gyro_z"}
    assert all(len(raw) == 15360 for raw in block.values())
    np.testing.assert_allclose(block["chest_ecg"][:2], [261.645, 429.622], rtol=1e-6)


@pytest.mark.recordings
def test_a_whole_signal_in_a_cell_and_labels_in_other_files(recordings_dir: Path) -> None:
    mapping = example("butppg")
    found = list(rows_recordings(recordings_dir / "butppg" / "myData.csv", mapping))
    assert len(found) == 51
    recording = found[-1]
    assert not isinstance(recording, tuple)
    assert recording.origin.subject_id == recording.origin.recording_id[:3]
    assert len(next(iter(recording.blocks()))["Signal"]) == 300
    book = read_label_files(f"file://{recordings_dir}/butppg", mapping.label_files)
    labels = book.of("112061")
    assert labels is not None
    assert labels.numbers["age_years"] == 43
    assert labels.text["blood_pressure_mmhg"] == "130/92"


def test_missing_rows_and_cells_are_missing_samples(tmp_path: Path) -> None:
    times = [at / 100 for at in range(300) if not 100 <= at < 140]
    values = ["" if at == 5 else f"{np.sin(at):.4f}" for at in range(len(times))]
    raw = read(write_csv(tmp_path / "a.csv", [f"{t:.2f}" for t in times], values), columns_mapping())
    assert len(raw) == 300
    assert np.flatnonzero(np.isnan(raw)).tolist() == [5, *range(100, 140)]


def test_units_become_canonical(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ["0", "0.01"], ["1", "2"])
    (channel,) = ColumnsRecording(path, "x", columns_mapping()).channels
    assert (channel.unit, channel.scale) == ("mV", 1000.0)


@pytest.mark.parametrize(
    ("time_format", "times"),
    [
        ("seconds", ["10.00", "10.01", "10.02"]),
        ("milliseconds", ["0", "10", "20"]),
        ("clock", ["0:59.990", "1:00.000", "1:00.010"]),
        ("clock", ["23:59:59.99", "24:00:00.00", "24:00:00.01"]),
        ("iso8601", ["2024-05-01T10:00:00.990", "2024-05-01T10:00:01.000", "2024-05-01T10:00:01.010"]),
    ],
)
def test_time_formats(tmp_path: Path, time_format: str, times: list[str]) -> None:
    raw = read(write_csv(tmp_path / "a.csv", times, ["1", "2", "3"]), columns_mapping(time_format))
    assert raw.tolist() == [1, 2, 3]


def test_wall_time_of_the_first_sample(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ["2024-05-01T10:00:00.500", "2024-05-01T10:00:00.510"], ["1", "2"])
    recording = ColumnsRecording(path, "x", columns_mapping("iso8601"))
    assert recording.origin.start_time_ns == 1714557600500000000


def _steady(n: int, rate_hz: float) -> list[str]:
    return [f"{at / rate_hz:.4f}" for at in range(n)]


@pytest.mark.parametrize(
    ("times", "values", "words"),
    [
        (["0", "0.02", "0.01"], ["1", "2", "3"], ["times of a.csv", "row 3", "increase"]),
        (["0", "soon"], ["1", "2"], ["times of a.csv"]),
        (["0", "9000"], ["1", "2"], ["9000 s", "longest_gap_s"]),
        (["0", "0.01"], ["1", "high"], ["a.csv", "high"]),
        (_steady(300, 90.0), ["1"] * 300, ["90.0", "samples per second", "100 as declared"]),
    ],
)
def test_contradictions_are_named(tmp_path: Path, times: list[str], values: list[str], words: list[str]) -> None:
    path = write_csv(tmp_path / "a.csv", times, values)
    with pytest.raises(InputError) as caught:
        read(path, columns_mapping())
    for word in words:
        assert word in str(caught.value)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t,red\n0,1\n")
    with pytest.raises(InputError, match=r"column 'green' of a\.csv: got not in the file; expected one of t, red"):
        ColumnsRecording(path, "x", columns_mapping())


def test_parquet_keeps_integers(tmp_path: Path) -> None:
    table = pa.table({"t": [0.0, 0.01, 0.02], "green": pa.array([5, None, -7], pa.int16())})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    mapping = parse_mapping('format = "parquet"\n' + COLUMNS.format(time_format="seconds"), "p.toml")
    recording = ColumnsRecording(tmp_path / "a.parquet", "x", mapping)
    assert recording.channels[0].dtype == "int16"
    assert read(tmp_path / "a.parquet", mapping).tolist() == [5, -32768, -7]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("rate_hz = 100.0", "rate_hz = 0"), ["rate_hz", "0"]),
        (("rate_hz = 100.0", ""), ["rate_hz", "missing"]),
        (("rate_hz = 100.0", 'rate_hz = "fast"'), ["rate_hz", "fast"]),
        (('unit = "V"', 'unit = "parsec"'), ["unit", "parsec"]),
        (('unit = "V"', 'units = "V"'), ["channels[0]", "units", "unknown"]),
        (('layout = "columns"', 'layout = "stripes"'), ["layout", "stripes", "columns"]),
        (('layout = "columns"', 'layout = "rows"'), ["recording_column"]),
        (("[time]", '[[channels]]\nname = "ir"\ncolumn = "green"\n[time]'), ["'green' for two channels"]),
        (("rate_hz = 100.0", 'rate_hz = 100.0\nsubject_column = "who"'), ["subject_column", "subject_pattern"]),
        (('name = "ppg"', 'name = "PPG 1"'), ["channel name", "PPG 1"]),
        (('format = "seconds"', 'format = "stardate"'), ["time.format", "stardate"]),
        (("rate_hz = 100.0", "rate_hz = = 1"), ["not parseable"]),
        (("rate_hz = 100.0", "rate_hz = 100.0\nsubject_pattern = 's1_'"), ["subject_pattern", "parentheses"]),
    ],
)
def test_faults_of_a_mapping_file_are_named(change: tuple[str, str], words: list[str]) -> None:
    text = COLUMNS.format(time_format="seconds").replace(*change)
    with pytest.raises(InputError) as caught:
        parse_mapping(text, "m.toml")
    for word in ["m.toml" if "parsec" not in change[1] else "unit", *words]:
        assert word in str(caught.value)


def test_a_mapping_may_be_json() -> None:
    text = '{"layout": "columns", "rate_hz": 50, "channels": [{"name": "ppg", "column": "x"}]}'
    assert parse_mapping(text, "m.json").channels[0].column == "x"


def test_manifest_columns_become_labels(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("record,who,age,rhythm,note\na,p1,50,AF,\nb,p1,,sinus,7\nc,p2,61.5,AF,x\n")
    book = read_manifest(f"file://{path}", "record", "who")
    assert book.names_subjects
    found = {name: book.of(name) for name in "abc"}
    assert [found[name].subject_id for name in "abc"] == ["p1", "p1", "p2"]  # type: ignore[union-attr]
    assert found["a"].numbers == {"age": 50.0} and found["a"].text == {"rhythm": "AF"}  # type: ignore[union-attr]
    # `note` has a word in one row, so it is text throughout.
    assert found["b"].numbers == {} and found["b"].text == {"rhythm": "sinus", "note": "7"}  # type: ignore[union-attr]


@pytest.mark.parametrize(("column", "subject"), [("recording", "who"), ("record", "whom")])
def test_a_manifest_without_the_column_is_refused(tmp_path: Path, column: str, subject: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text("record,who\na,p1\n")
    with pytest.raises(InputError, match="expected one of record, who"):
        read_manifest(f"file://{path}", column, subject)


def test_empty_cells_are_no_labels() -> None:
    assert split_kinds({"a": "", "b": None, "c": "nan", "d": " 3 ", "e": "inf"}) == ({"d": 3.0}, {"e": "inf"})
