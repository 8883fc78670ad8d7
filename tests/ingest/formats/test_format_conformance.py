"""WFDB records and tables do what every format must (EDF, MATLAB and others: in their own files)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import wfdb
from wfdb_files import pulse, write_record

from xmae_dist.ingest.formats import table_cells
from xmae_dist.ingest.formats import wfdb as wfdb_reader
from xmae_dist.ingest.formats.mapped import MappedFormat
from xmae_dist.ingest.formats.mapping import parse_mapping
from xmae_dist.ingest.formats.protocol import Format
from xmae_dist.ingest.formats.wfdb_files import WfdbFormat
from xmae_dist.testing.conformance_formats import FormatConformance, Sample

TABLE = """
layout = "columns"
files = "*.csv"
rate_hz = 100
[time]
column = "t"
unix = true
[[channels]]
name = "ppg"
column = "light"
[[channels]]
name = "ecg"
column = "heart"
unit = "uV"
"""


class TestWfdb(FormatConformance):
    @pytest.fixture
    def entry(self) -> Format:
        return WfdbFormat()

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Sample:
        ecg = pulse(3000, 1)
        ecg[700:900] = np.nan
        write_record(tmp_path / "in", "r1", {"II": ecg, "PLETH": pulse(3000, 2)})
        truth = wfdb.rdrecord(str(tmp_path / "in" / "r1"))
        return Sample(
            folder=tmp_path / "in",
            head="r1.hea",
            body="r1.dat",
            signals=dict(zip(truth.sig_name, truth.p_signal.T, strict=True)),
            rates_hz={"II": 100, "PLETH": 100},
            start_time_ns=None,
            recording_id="r1",
        )

    @pytest.fixture
    def longer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
        monkeypatch.setattr(wfdb_reader, "BLOCK_SAMPLES", 2**16)

        def written(times: int) -> Path:
            n = 200_000 * times
            return write_record(tmp_path / f"x{times}", "r", {"II": pulse(n, 1), "PLETH": pulse(n, 2)}).parent

        return written


class TestTable(FormatConformance):
    """With a column of times, which is held whole, since rate and gaps are told from all of it."""

    knows_its_length = False
    streams = False

    @pytest.fixture
    def entry(self) -> Format:
        return MappedFormat(mapping=parse_mapping(TABLE, "m.toml"))

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Sample:
        rows = np.delete(np.arange(3000), slice(1200, 1400))
        ppg, ecg = pulse(3000, 1), pulse(3000, 2)
        write_table(tmp_path / "in" / "r1.csv", rows, ppg, ecg)
        ppg[1200:1400] = ecg[1200:1400] = np.nan
        return Sample(
            folder=tmp_path / "in",
            head="r1.csv",
            signals={"light": ppg, "heart": ecg / 1000},
            rates_hz={"light": 100, "heart": 100},
            start_time_ns=1_900_000_000 * 10**9,
            recording_id="r1",
        )

    @pytest.fixture
    def longer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
        monkeypatch.setattr(table_cells, "_BATCH_BYTES", 2**18)

        def written(times: int) -> Path:
            n = 30_000 * times
            return write_table(tmp_path / f"x{times}" / "r.csv", np.arange(n), pulse(n, 1), pulse(n, 2)).parent

        return written


class TestTableWithoutTimes(TestTable):
    streams = True

    @pytest.fixture
    def entry(self) -> Format:
        without = TABLE.replace('[time]\ncolumn = "t"\nunix = true\n', "")
        return MappedFormat(mapping=parse_mapping(without, "m.toml"))

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Sample:
        write_table(tmp_path / "in" / "r1.csv", np.arange(3000), pulse(3000, 1), pulse(3000, 2))
        return Sample(
            folder=tmp_path / "in",
            head="r1.csv",
            signals={"light": pulse(3000, 1), "heart": pulse(3000, 2) / 1000},
            rates_hz={"light": 100, "heart": 100},
            start_time_ns=None,
            recording_id="r1",
        )


def write_table(path: Path, rows: np.ndarray, ppg: np.ndarray, ecg: np.ndarray) -> Path:
    path.parent.mkdir(parents=True)
    lines = [f"{1_900_000_000 + row / 100:.2f},{ppg[row]:.9f},{ecg[row]:.9f}" for row in rows]
    path.write_text("\n".join(["t,light,heart", *lines, ""]))
    return path
