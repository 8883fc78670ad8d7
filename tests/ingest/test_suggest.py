"""Drafts of mappings: what they find is right, what they cannot tell they say, and an ingest can use them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from wfdb_files import pulse

from xmae_dist.cli.main import main
from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.mapped import MappedFormat
from xmae_dist.ingest.formats.mapping import Mapping, parse_mapping
from xmae_dist.ingest.suggest import suggest
from xmae_dist.testing.conformance_formats import one_recording, read_whole

N = 4000


def drafted(path: Path) -> tuple[str, Mapping]:
    text = suggest(path)
    return text, parse_mapping(text, "draft.toml")


def table(path: Path, header: str, cells: list[list[str]], delimiter: str = ",") -> Path:
    path.write_text("\n".join([*([header] if header else []), *(delimiter.join(row) for row in cells), ""]))
    return path


def waves() -> list[list[str]]:
    return [[f"{a:.6f}", f"{b:.6f}"] for a, b in zip(pulse(N, 1), pulse(N, 2), strict=True)]


@pytest.mark.parametrize(
    ("times", "kind", "unix"),
    [
        (np.arange(N) / 100, "seconds", False),
        (np.arange(N) * 10, "milliseconds", False),
        (1_800_000_000_000 + np.arange(N) * 10, "milliseconds", True),
        (1_800_000_000 + np.arange(N) / 100, "seconds", True),
        (1_800_000_000_000_000 + np.arange(N) * 10_000, "microseconds", True),
        (1_800_000_000_000_000_000 + np.arange(N) * 10_000_000, "nanoseconds", True),
    ],
)
def test_times_give_rate_and_unit(tmp_path: Path, times: np.ndarray, kind: str, unix: bool) -> None:
    name = {"seconds": "t_s", "milliseconds": "t_ms"}.get(kind, "t")
    rows = [[f"{time:.2f}" if kind == "seconds" else str(time), *row] for time, row in zip(times, waves(), strict=True)]
    path = table(tmp_path / "r.csv", f"{name},PPG,ECG [uV]", rows)
    text, mapping = drafted(path)
    assert mapping.rate_hz == 100 and mapping.time is not None
    assert (mapping.time.column, mapping.time.format, mapping.time.unix) == (name, kind, unix)
    assert [(c.name, c.column, c.unit) for c in mapping.channels] == [("ppg", "PPG", "nu"), ("ecg", "ECG [uV]", "uV")]
    assert "# could not tell: the unit of 'PPG'" in text and "unit of 'ECG" not in text
    recording = one_recording(MappedFormat(mapping=mapping), tmp_path)
    np.testing.assert_allclose(read_whole(recording)["PPG"], pulse(N, 1), atol=1e-5)


def test_a_device_with_lines_above_a_row_of_units_and_decimal_commas(tmp_path: Path) -> None:
    rows = [
        [f"{at / 50:.2f}".replace(".", ","), *(cell.replace(".", ",") for cell in row)]
        for at, row in enumerate(waves())
    ]
    path = table(tmp_path / "r.txt", "Device X\nSerial; 1\nTime;PPG;ECG\ns;;mV", rows, ";")
    _, mapping = drafted(path)
    assert (mapping.delimiter, mapping.decimal, mapping.skip_rows, mapping.rows_after_header) == (";", ",", 2, 1)
    assert mapping.rate_hz == 50 and mapping.channels[1].unit == "mV"
    recording = one_recording(MappedFormat(mapping=mapping), tmp_path)
    np.testing.assert_allclose(read_whole(recording)["ECG"], pulse(N, 2), atol=1e-5)


def test_what_is_not_in_the_file_is_said_and_no_ingest_takes_it(tmp_path: Path) -> None:
    path = table(tmp_path / "r.csv", "", waves())
    text = suggest(path)
    assert "# could not tell: rate_hz" in text and "# could not tell: names of the columns" in text
    with pytest.raises(InputError, match="rate_hz"):
        parse_mapping(text, "draft.toml")
    mapping = parse_mapping(text.replace("rate_hz = 0", "rate_hz = 100"), "draft.toml")
    assert [len(values) for values in read_whole(one_recording(MappedFormat(mapping=mapping), tmp_path)).values()] == [
        N,
        N,
    ]


def test_gaps_and_irregular_times_are_said(tmp_path: Path) -> None:
    times = np.arange(N) / 100
    times[2000:] += 30
    rows = [[f"{time:.2f}", *row] for time, row in zip(times, waves(), strict=True)]
    text, mapping = drafted(table(tmp_path / "r.csv", "time,PPG,ECG", rows))
    assert mapping.rate_hz == 100 and "what became of 30 s without rows" in text
    rng = np.random.default_rng(1)
    rows = [
        [f"{time:.4f}", *row] for time, row in zip(np.arange(N) / 50 + rng.uniform(0, 0.019, N), waves(), strict=True)
    ]
    text, mapping = drafted(table(tmp_path / "j.csv", "t_s,PPG,ECG", rows))
    assert mapping.rate_hz == 50 and "whether rows are even" in text and "without rows" not in text


def test_rounded_times_give_no_false_rate(tmp_path: Path) -> None:
    """64 Hz in whole milliseconds: most steps are 16 ms, which would be 62.5 Hz."""
    times = 1_800_000_000_000 + np.round(np.arange(N) * 1000 / 64).astype(np.int64)
    rows = [[str(time), *row] for time, row in zip(times, waves(), strict=True)]
    text, mapping = drafted(table(tmp_path / "r.csv", "ts,PPG,ECG", rows))
    assert mapping.rate_hz == 64 and "even" not in text and "without rows" not in text
    rows = [row for at, row in enumerate(rows) for _ in range(2 if at % 100 == 7 else 1)]
    text, mapping = drafted(table(tmp_path / "r.csv", "ts,PPG,ECG", rows))
    assert mapping.rate_hz == 64 and "are those before again" in text
    rows[500:600], rows[600:700] = rows[600:700], rows[500:600]
    text = suggest(table(tmp_path / "r.csv", "ts,PPG,ECG", rows))
    assert "step back" in text and "rate_hz = 0" in text and 'column = "ts"' not in text


def test_times_of_packets_and_of_arrival(tmp_path: Path) -> None:
    packets = 1_800_000_000_000 + np.arange(N) // 73 * 73_000 // 130
    rows = [[str(time), *row] for time, row in zip(packets, waves(), strict=True)]
    text, mapping = drafted(table(tmp_path / "r.csv", "ts,PPG,ECG", rows))
    assert mapping.rate_hz == 130 and "time of their packet" in text
    rng = np.random.default_rng(2)
    arrivals = 1_800_000_000_000 + np.maximum.accumulate(np.arange(N) * 20 + rng.integers(0, 40, N))
    rows = [[str(time), *row] for time, row in zip(arrivals, waves(), strict=True)]
    text, mapping = drafted(table(tmp_path / "r.csv", "ts,PPG,ECG", rows))
    assert mapping.rate_hz == 50 and "whether rows are even" in text


def test_iso_times_and_columns_of_texts(tmp_path: Path) -> None:
    stamps = np.datetime64("2031-05-06T21:30:00.000") + (np.arange(N) * 8).astype("timedelta64[ms]")
    rows = [[f"{stamp}Z", "walk", *row] for stamp, row in zip(stamps, waves(), strict=True)]
    text, mapping = drafted(table(tmp_path / "r.csv", "when,what,PPG,ECG", rows))
    assert mapping.rate_hz == 125 and mapping.time is not None and mapping.time.format == "iso8601"
    assert "left out: what" in text


def test_parquet_and_hdf5(tmp_path: Path) -> None:
    pq.write_table(pa.table({"ts": np.arange(N) * 20, "Pleth": pulse(N, 1)}), tmp_path / "r.parquet")
    _, mapping = drafted(tmp_path / "r.parquet")
    assert (mapping.format, mapping.rate_hz, mapping.channels[0].name) == ("parquet", 50, "ppg")
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["a/ECG II"] = pulse(N, 1)
        file["a/ECG II"].attrs["fs"] = 250
        file["b"] = np.stack([pulse(N, 1), pulse(N, 2)], axis=1)
        file["age"] = 61.0
    text = suggest(tmp_path / "r.h5")
    assert "could not tell: rate_hz" in text
    mapping = parse_mapping(text.replace("rate_hz = 0\n", "rate_hz = 100\n"), "draft.toml")
    assert [(c.name, c.column, c.rate_hz) for c in mapping.channels] == [
        ("ecg", "a/ECG II", 250), ("b_0", "b[0]", None), ("b_1", "b[1]", None),
    ]  # fmt: skip
    assert set(read_whole(one_recording(MappedFormat(mapping=mapping), tmp_path))) == {"a/ECG II", "b[0]", "b[1]"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "r.csv", "PPG,ECG", waves())
    assert main(["ingest", "--suggest", str(path)]) == 0
    assert "[[channels]]" in capsys.readouterr().out
    assert main(["ingest", "--suggest", str(tmp_path / "none.csv")]) == 2
    assert main(["ingest", str(tmp_path), "--cohort", "c"]) == 2
    assert "--corpus" in capsys.readouterr().err
    (tmp_path / "words.csv").write_text("a,b\nc,d\ne,f\ng,h\n")
    with pytest.raises(InputError, match="no row of numbers"):
        suggest(tmp_path / "words.csv")
