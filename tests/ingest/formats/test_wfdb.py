"""WFDB records as they are on disk against what the `wfdb` package makes of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import wfdb
from wfdb_files import pulse, write_record

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.check import look
from xmae_dist.ingest.formats import wfdb as reader
from xmae_dist.ingest.formats.source import physical
from xmae_dist.ingest.formats.wfdb import WfdbRecording


def _physical(recording: WfdbRecording) -> dict[str, np.ndarray]:
    blocks = list(recording.blocks())
    return {
        channel.key: np.concatenate([physical(block[channel.key], channel) for block in blocks])
        for channel in recording.channels
    }


@pytest.mark.recordings
def test_a_record_with_one_rate(recordings_dir: Path) -> None:
    recording = WfdbRecording(recordings_dir / "wfdb" / "a103l.hea", "a103l")
    truth = wfdb.rdrecord(str(recordings_dir / "wfdb" / "a103l"))
    for column, name in enumerate(truth.sig_name):
        np.testing.assert_allclose(_physical(recording)[name], truth.p_signal[:, column], rtol=1e-6, atol=1e-7)


@pytest.mark.recordings
def test_segments_of_several_rates_are_one_recording(recordings_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small blocks, so that segments are read in pieces.
    monkeypatch.setattr(reader, "BLOCK_SAMPLES", 3000)
    folder = recordings_dir / "wfdb" / "041s"
    recording = WfdbRecording(folder / "041s.hea", "041s")
    rates = {channel.key: channel.rate_hz for channel in recording.channels}
    assert rates == {"III": 500, "I": 500, "V": 500, "ABP": 125, "PAP": 125, "PLETH": 125, "RESP": 125}
    found = _physical(recording)
    for at, name in enumerate(rates):
        segments = [
            wfdb.rdrecord(str(folder / part), smooth_frames=False).e_p_signal[at] for part in ("041s01", "041s02")
        ]
        np.testing.assert_allclose(found[name], np.concatenate(segments), rtol=1e-6, atol=1e-7)
    assert recording.origin.start_time_ns == 783159964 * 10**9
    assert not look(recording).dropped


@pytest.mark.recordings
def test_every_stated_checksum_of_the_real_recordings_holds(recordings_dir: Path) -> None:
    for header in sorted((recordings_dir / "challenge2015").glob("v1*.hea")):
        dropped = look(WfdbRecording(header, header.stem)).dropped
        assert not [reason for reason in dropped.values() if "checksum" in reason]


@pytest.mark.parametrize("fmt", ["16", "24", "32", "80", "212"])
def test_missing_samples_of_every_format(tmp_path: Path, fmt: str) -> None:
    signal = pulse(500, 0.0)
    signal[100:130] = np.nan
    header = write_record(tmp_path, "gap", {"II": signal}, gain=50, fmt=fmt)
    recording = WfdbRecording(header, "gap")
    found = _physical(recording)["II"]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(signal))
    np.testing.assert_allclose(found[~np.isnan(found)], signal[~np.isnan(signal)], atol=0.011)
    assert not look(recording).dropped


def test_a_segment_that_was_not_recorded_is_a_gap(tmp_path: Path) -> None:
    write_record(tmp_path, "m_1", {"II": pulse(300, 0), "PLETH": pulse(300, 1)})
    write_record(tmp_path, "m_2", {"PLETH": pulse(200, 2)})
    (tmp_path / "m.hea").write_text("m/3 2 100 600\nm_1 300\n~ 100\nm_2 200\n")
    found = _physical(WfdbRecording(tmp_path / "m.hea", "m"))
    assert {name: len(signal) for name, signal in found.items()} == {"II": 600, "PLETH": 600}
    np.testing.assert_array_equal(np.isnan(found["PLETH"]).nonzero()[0], np.arange(300, 400))
    np.testing.assert_array_equal(np.isnan(found["II"]).nonzero()[0], np.arange(300, 600))


def test_segments_of_different_gain_become_physical(tmp_path: Path) -> None:
    write_record(tmp_path, "m_1", {"II": pulse(300, 0)}, gain=1000)
    write_record(tmp_path, "m_2", {"II": pulse(200, 2)}, gain=500)
    (tmp_path / "m.hea").write_text("m/2 1 100 500\nm_1 300\nm_2 200\n")
    recording = WfdbRecording(tmp_path / "m.hea", "m")
    assert recording.channels[0].dtype == "float32"
    expected = np.concatenate((pulse(300, 0), pulse(200, 2)))
    np.testing.assert_allclose(_physical(recording)["II"], expected, atol=0.0011)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("truncated", ["truncated.dat", "4000 bytes (truncated)", "8000 bytes"]),
        ("no_header", ["no_header.hea", "no such file"]),
        ("no_signal", ["no_signal.dat", "no such file", "restore"]),
        ("bad_header", ["bad_header.hea", "unreadable"]),
    ],
)
def test_unreadable_records_say_what_is_wrong(mixed_folder: Path, name: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        WfdbRecording(mixed_folder / f"{name}.hea", name)
    for word in words:
        assert word in str(caught.value)


def test_a_header_without_length_takes_it_from_the_file(good_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(good_folder, tmp_path / "copy")
    header = tmp_path / "copy" / "r0.hea"
    lines = header.read_text().splitlines()
    lines[0] = "r0 2 100"
    header.write_text("\n".join(lines) + "\n")
    assert len(_physical(WfdbRecording(header, "r0"))["II"]) == 2000
