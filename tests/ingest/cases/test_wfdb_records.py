"""WFDB records as archives have them, compared with what was written and with the `wfdb` package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb
from numpy.typing import NDArray
from wfdb_files import RATE_HZ, pulse, write_record

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.check import look
from xmae_dist.ingest.formats.source import is_missing, physical
from xmae_dist.ingest.formats.wfdb import WfdbRecording
from xmae_dist.ingest.naming import channel_names, names_of

N = 1000


def values(recording: WfdbRecording) -> dict[str, NDArray[np.float32]]:
    """Corpus name -> physical values of the channels that a look keeps."""
    seen = look(recording)
    blocks = list(seen.blocks(recording))
    return {
        name: np.concatenate([physical(block[channel.key], channel) for block in blocks])
        for channel, name in zip(seen.usable, names_of(seen.usable), strict=True)
    }


def _with_first_line(folder: Path, name: str, first: str) -> Path:
    """A record of one lead whose header begins with `first`."""
    header = write_record(folder, name, {"II": pulse(N, 1)})
    _, *others = header.read_text().splitlines()
    header.write_text("\n".join([first, *others]) + "\n")
    return header


@pytest.mark.parametrize(
    ("first", "start"),
    [
        ("r 1 100 1000 12-May-2020 12:33:59", "2020-05-12T12:33:59"),
        ("r.mat 1 100 1000 05-May-2020 09:49:17", "2020-05-05T09:49:17"),
        ("r 1 100 1000 2014-05-08 05:05:15", "2014-05-08T05:05:15"),
        ("r 1 100 1000 05:05:15 1/05/2000", "2000-05-01T05:05:15"),
        ("r 1 100 1000 21:45:00 02/01/89", "1989-01-02T21:45:00"),
        ("old/place/r 1 100 1000", None),
        ("r 1 100 1000 2006", None),
        ("r 1 100 1000 23:59:30", None),
        ("r 1 100 1000 10:00:00 10/10/2896", None),
    ],
)
def test_headers_that_stray_keep_their_signal(tmp_path: Path, first: str, start: str | None) -> None:
    recording = WfdbRecording(_with_first_line(tmp_path, "r", first), "r")
    np.testing.assert_allclose(values(recording)["ecg"], pulse(N, 1), atol=6e-4)
    told = recording.origin.start_time_ns
    assert told == (None if start is None else np.datetime64(start, "ns").astype(int))
    plain = start is None and first.endswith(("1000", "23:59:30")) and "/" not in first
    assert bool(recording.origin.notes) == (not plain and first != "r 1 100 1000 05:05:15 1/05/2000")


def test_a_place_in_the_names_of_files_that_lie_beside(tmp_path: Path) -> None:
    header = write_record(tmp_path, "r", {"II": pulse(N, 1)})
    header.write_text(header.read_text().replace("r.dat", "made/elsewhere/r.dat"))
    recording = WfdbRecording(header, "r")
    np.testing.assert_allclose(values(recording)["ecg"], pulse(N, 1), atol=6e-4)
    assert "made/elsewhere" in recording.origin.notes[0]


def test_signal_files_in_a_folder_below_are_read_and_none_outside(tmp_path: Path) -> None:
    header = write_record(tmp_path / "in", "r", {"II": pulse(N, 1)})
    (tmp_path / "in" / "signals").mkdir()
    (tmp_path / "in" / "r.dat").rename(tmp_path / "in" / "signals" / "r.dat")
    text = header.read_text()
    header.write_text(text.replace("r.dat", "signals/r.dat"))
    np.testing.assert_allclose(values(WfdbRecording(header, "r"))["ecg"], pulse(N, 1), atol=6e-4)
    (tmp_path / "in" / "signals" / "r.dat").rename(tmp_path / "r.dat")
    header.write_text(text.replace("r.dat", "../r.dat"))
    with pytest.raises(InputError, match="stays below"):
        WfdbRecording(header, "r")


def test_sums_of_nought_are_no_sums(tmp_path: Path) -> None:
    header = write_record(tmp_path, "r", {"II": pulse(N, 1), "V": pulse(N, 2)})
    lines = [line.split() for line in header.read_text().splitlines()]
    for words in lines[1:]:
        words[6] = "0"
    header.write_text("\n".join(" ".join(words) for words in lines) + "\n")
    recording = WfdbRecording(header, "r")
    assert set(values(recording)) == {"ecg", "ecg_v"}
    assert "not checked" in recording.origin.notes[0]
    lines[1][6] = "77"
    header.write_text("\n".join(" ".join(words) for words in lines) + "\n")
    assert not values(WfdbRecording(header, "r"))  # one that is stated is compared


@pytest.mark.parametrize("fmt", ["16", "61", "32", "24", "80", "212"])
def test_each_format_as_the_library_reads_it(tmp_path: Path, fmt: str) -> None:
    folder = tmp_path / fmt
    if fmt == "61":
        header = write_record(folder, "r", {"II": pulse(N, 1)})
        np.fromfile(folder / "r.dat", "<i2").astype(">i2").tofile(folder / "r.dat")
        header.write_text(header.read_text().replace("r.dat 16", "r.dat 61"))
    else:
        header = write_record(folder, "r", {"II": pulse(N, 1)}, gain=50.0, fmt=fmt)
    found = values(WfdbRecording(header, "r"))["ecg"]
    np.testing.assert_allclose(found, wfdb.rdrecord(str(folder / "r")).p_signal[:, 0], atol=1e-6)


@pytest.mark.parametrize("told", ["m/3 1 100 3000", "m/2 1 100 3000"])
def test_fewer_segments_than_the_header_says_are_refused(tmp_path: Path, told: str) -> None:
    write_record(tmp_path, "m_0001", {"II": pulse(N, 1)})
    (tmp_path / "m.hea").write_text(f"{told}\nm_0001 1000\n~ 1000\n")
    with pytest.raises(InputError, match=r"2 segments of 2000 samples in all; expected [23] segments of 3000"):
        WfdbRecording(tmp_path / "m.hea", "m")


def test_fewer_signals_than_the_header_says_are_refused(tmp_path: Path) -> None:
    header = write_record(tmp_path, "r", {"II": pulse(N, 1), "V": pulse(N, 2)})
    header.write_text("\n".join(header.read_text().splitlines()[:2]) + "\n")
    with pytest.raises(InputError, match=r"1 signal lines; expected 2|unreadable"):
        WfdbRecording(header, "r")


def test_a_signal_file_that_goes_on_is_noted(tmp_path: Path) -> None:
    header = write_record(tmp_path, "r", {"II": pulse(N, 1)})
    with (tmp_path / "r.dat").open("ab") as file:
        file.write(np.zeros(500, "<i2").tobytes())
    assert "500 samples after" in WfdbRecording(header, "r").origin.notes[0]


def test_missing_samples_stay_missing_beside_a_wider_format(tmp_path: Path) -> None:
    """Segments whose 16-bit lead has another gain, each with a 32-bit lead in a file of its own."""
    for at, gain in enumerate((1000, 500)):
        lead = np.round(pulse(N, at) * gain).astype("<i2")
        lead[200:400] = -32768
        wide = np.round(pulse(N, at + 2) * 100 * gain).astype("<i4")
        lead.tofile(tmp_path / f"x_{at}.dat")
        wide.tofile(tmp_path / f"x_{at}b.dat")
        sums = [int(one.astype(np.int64).sum()) & 0xFFFF for one in (lead, wide)]
        (tmp_path / f"x_{at}.hea").write_text(
            f"x_{at} 2 {RATE_HZ} {N}\nx_{at}.dat 16 {gain}/mV 16 0 {lead[0]} {sums[0]} 0 II\n"
            f"x_{at}b.dat 32 {100 * gain}/mV 32 0 {wide[0]} {sums[1]} 0 V5\n"
        )
    (tmp_path / "x.hea").write_text(f"x/2 2 {RATE_HZ} {2 * N}\nx_0 {N}\nx_1 {N}\n")
    found = values(WfdbRecording(tmp_path / "x.hea", "x"))
    missing = np.flatnonzero(np.isnan(found["ecg"]))
    assert missing.tolist() == [*range(200, 400), *range(N + 200, N + 400)]
    assert np.nanmin(found["ecg"]) > -2
    np.testing.assert_allclose(found["ecg_v5"][N:], pulse(N, 3), atol=1e-4)
    assert not is_missing(found["ecg_v5"]).any()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (["ECG HR", "BVP"], ["hr_ecg", "ppg"]),
        (["ecg", "pleth_1", "pleth_2", "a_x"], ["ecg", "ppg", "ppg_2", "a_x"]),
        (["IR", "RED"], ["ppg", "red"]),
        (["PULS"], ["ppg"]),
        (["IR", "PLETH"], ["ppg_ir", "ppg"]),
        (["II", "RESP RATE", "RESP"], ["ecg", "resp_rate", "resp"]),
    ],
)
def test_names_that_devices_give(source: list[str], names: list[str]) -> None:
    assert channel_names(source) == names


def test_unit_and_rate_tell_a_number_from_a_wave(tmp_path: Path) -> None:
    (tmp_path / "n.hea").write_text(
        "n 3 1 100\nn.dat 16 1/bpm 16 0 0 0 0 PULSE\nn.dat 16 1/mmHg 16 0 0 0 0 ABP\nn.dat 16 10/mV 16 0 0 0 0 II\n"
    )
    rng = np.random.default_rng(0)
    rng.integers(50, 100, 300).astype("<i2").tofile(tmp_path / "n.dat")
    names = names_of(WfdbRecording(tmp_path / "n.hea", "n").channels)
    assert names == ["pulse_number", "abp_number", "ii"]


def test_a_unit_off_by_a_thousand_is_named(tmp_path: Path) -> None:
    recording = WfdbRecording(write_record(tmp_path, "r", {"II": 900 * pulse(N, 1)}, gain=10.0), "r")
    (doubt,) = look(recording).doubts
    assert "implausible for ECG" in doubt and "likely in uV" in doubt
