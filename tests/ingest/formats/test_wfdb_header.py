"""Headers and samples as `wfdb` itself reads them, for every header at hand and every kind of line."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
import wfdb
from wfdb.io.header import HeaderSyntaxError
from wfdb_files import pulse, write_record

from xmae_dist.ingest.formats.wfdb_header import read_header, read_samples

HEADERS = [
    "r 2 250 1000\nr.dat 16 200 12 0 1 2 0 ECG\nr.dat 16 200 12 0 1 2 0 PPG\n",
    "r 1 360.5/1(0.5) 1000 12:30:01.25 01/02/1999\nr.dat 212x2:3+24 0(-5)/uV 11 1024 995 -22131 0 MLII\n# age: 69\n",
    "r 1 125 1000 30.5\nr.dat 80 1.5e3 8 128\n",
    "r 1\nr.dat 16\n",
    "r 0 100 0\n",
    "r 1 100 10 1:02 3/4/2001\n#only\nr.dat 24 3(7)/mmHg 24 0 0 0 0 arterial pressure, left\n",
]


def same(one: object, other: object) -> None:
    assert type(one) is type(other)
    assert vars(one) == vars(other)


@pytest.mark.parametrize("text", HEADERS)
def test_every_kind_of_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.hea").write_text(text)
    same(read_header(tmp_path / "r.hea"), wfdb.rdheader(str(tmp_path / "r")))


def test_segments(tmp_path: Path) -> None:
    (tmp_path / "r.hea").write_text("r/2 1 100 20\nr1 10\n~ 10\n")
    found = read_header(tmp_path / "r.hea")
    assert (found.seg_name, found.seg_len) == (["r1", "~"], [10, 10])


@pytest.mark.parametrize("text", ["", "# nothing\n", "two words\n", "r 1 100 10\n!\n"])
def test_what_is_no_header(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.hea").write_text(text)
    with pytest.raises((HeaderSyntaxError, ValueError)):
        read_header(tmp_path / "r.hea")


@pytest.mark.recordings
def test_all_real_headers(recordings_dir: Path) -> None:
    headers = sorted(recordings_dir.rglob("*.hea"))
    assert len(headers) > 100
    for header in headers:
        if "/" not in header.read_text().split()[0]:
            same(read_header(header), wfdb.rdheader(str(header.with_suffix(""))))


@pytest.mark.parametrize("fmt", ["16", "24", "32", "80", "212"])
@pytest.mark.parametrize("length", ["stated", "not stated"])
def test_samples_of_every_format(tmp_path: Path, fmt: str, length: str) -> None:
    gain = 20.0 if fmt == "80" else 200.0
    header = write_record(tmp_path, "r", {"II": pulse(600, 1), "PLETH": pulse(600, 2)}, gain=gain, fmt=fmt)
    if length == "not stated":
        header.write_text(header.read_text().replace(" 100 600", " 100", 1))
    record = read_header(header)
    truth = wfdb.rdrecord(str(tmp_path / "r"), physical=False, smooth_frames=False, return_res=32)
    found = [read_samples(tmp_path / "r", record, 600, start, start + 200, 32) for start in (0, 200, 400)]
    for at in range(2):
        np.testing.assert_array_equal(np.concatenate([piece[at] for piece in found]), truth.e_d_signal[at][:600])


def test_the_date_is_a_date(tmp_path: Path) -> None:
    (tmp_path / "r.hea").write_text(HEADERS[1])
    assert read_header(tmp_path / "r.hea").base_date == datetime.date(1999, 2, 1)
