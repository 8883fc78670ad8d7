"""Public data sets in their own formats: signals, rates, units, people and labels, through the command and alone."""

from __future__ import annotations

from pathlib import Path

import archive_files as files
import numpy as np
import pytest

from xmae_dist.cli.main import main
from xmae_dist.core.errors import UsageError
from xmae_dist.ingest.datasets.catalogue import ARCHIVES, archive
from xmae_dist.ingest.discover import discover
from xmae_dist.ingest.formats.source import HeldRecording, is_missing
from xmae_dist.storage.corpus import Corpus


def read(name: str, folder: Path) -> list[HeldRecording]:
    found = discover([str(folder)], archive(name))
    return [r for item in found.items() for r in archive(name).recordings(item, folder)]


def rates(recording: HeldRecording) -> dict[str | None, float]:
    return {channel.name: channel.rate_hz for channel in recording.channels}


def values(recording: HeldRecording, name: str) -> np.ndarray:
    key = next(c.key for c in recording.channels if c.name == name)
    (block,) = recording.blocks()
    return block[key]


def test_bidmc(tmp_path: Path) -> None:
    files.bidmc(tmp_path)
    (recording,) = read("bidmc", tmp_path)
    assert rates(recording) == {"ppg": 125, "resp": 125, "ecg_v": 125, "ecg_avr": 125, "ecg": 125}
    assert recording.origin.subject_id == "bidmc_01"
    assert recording.origin.labels == pytest.approx(
        {"heart_rate_bpm": 70.5, "respiration_rate_bpm": 20, "spo2_percent": 97, "age": 90, "sex": 0}
    )
    np.testing.assert_allclose(values(recording, "ppg"), files.pulse(60, 125), atol=1e-4)


def test_mimic_perform_af(tmp_path: Path) -> None:
    files.mimic_perform_af(tmp_path, af=True)
    files.mimic_perform_af(tmp_path, af=False)
    with_af, without = read("mimic_perform_af", tmp_path)
    assert (with_af.origin.labels["af"], without.origin.labels["af"]) == (1, 0)
    assert with_af.origin.subject_id != without.origin.subject_id
    assert np.isnan(values(with_af, "resp")).all() and rates(with_af)["ecg"] == 125


def test_dreamt(tmp_path: Path) -> None:
    files.dreamt(tmp_path)
    (recording,) = read("dreamt", tmp_path)
    assert recording.origin.label_text == {"sleep_stages": "-2R"}
    assert recording.origin.labels == {"age": 43, "sex": 1, "bmi": 31.2, "ahi_per_h": 12.5}
    assert recording.origin.subject_id == "S002" and rates(recording)["ppg"] == 64
    scale = next(c.scale for c in recording.channels if c.name == "acc_x")
    assert values(recording, "acc_x")[0] * scale == 1.0, "64 counts are 1 g"


@pytest.mark.parametrize("protocol", [2, 4])
def test_wesad(tmp_path: Path, protocol: int) -> None:
    files.wesad(tmp_path, protocol=protocol)
    (recording,) = read("wesad", tmp_path)
    assert rates(recording) == {"ppg": 64, "ecg": 700, "acc_x": 32, "acc_y": 32, "acc_z": 32}
    assert recording.origin.label_text == {"states": "0120"}
    labels = recording.origin.labels
    assert (labels["age"], labels["sex"], labels["height_m"]) == (27, 1, 1.75)
    assert labels["bmi"] == pytest.approx(80 / 1.75**2)
    assert {c.body_site for c in recording.channels} == {"wrist", "chest"}


def test_ppg_dalia(tmp_path: Path) -> None:
    files.ppg_dalia(tmp_path)
    (recording,) = read("ppg_dalia", tmp_path)
    assert recording.origin.label_text == {"activities": "111113333377777"}
    assert recording.origin.labels["heart_rate_bpm"] == 72 and recording.origin.labels["sex"] == 1
    np.testing.assert_allclose(values(recording, "ecg"), files.pulse(120, 700), atol=1e-6)


@pytest.mark.parametrize("segments", [1, 3])
def test_pulsedb(tmp_path: Path, segments: int) -> None:
    files.pulsedb(tmp_path, segments=segments)
    found = read("pulsedb", tmp_path)
    assert [r.origin.labels["sbp_mmhg"] for r in found] == [110.0 + i for i in range(segments)]
    assert {r.origin.subject_id for r in found} == {"vital-p000001"}
    assert len({r.origin.recording_id for r in found}) == segments
    assert rates(found[-1]) == {"ppg": 125, "ecg": 125, "abp": 125} and len(values(found[-1], "ppg")) == 1250
    assert found[-1].origin.labels["sex"] == 0 and ("bmi" in found[0].origin.labels) == (segments == 1)
    assert values(found[-1], "ppg").mean() == pytest.approx(segments - 1, abs=0.01)


def test_vitaldb(tmp_path: Path) -> None:
    files.vital(tmp_path)
    (recording,) = read("vitaldb", tmp_path)
    assert rates(recording) == {"ppg": 100, "ecg": 100, "abp": 100}
    assert recording.origin.subject_id == "5955" and recording.origin.start_time_ns == 1000 * 10**9
    labels = recording.origin.labels
    assert labels == {"age": 77, "sex": 1, "bmi": 26.3, "hypertension": 1, "haemoglobin_g_dl": 14.1}
    ppg = values(recording, "ppg")
    channel = next(c for c in recording.channels if c.name == "ppg")
    assert (channel.dtype, channel.scale, channel.offset, channel.source_name) == ("int16", 0.01, 3.0, "SNUADC/PLETH")
    assert len(ppg) == 2000 and np.flatnonzero(is_missing(ppg)).tolist() == list(range(800, 1000))
    np.testing.assert_allclose(values(recording, "ecg"), files.pulse(20, 100), atol=1e-6)
    whole = (tmp_path / "vital_files" / "0007.vital").read_bytes()
    (tmp_path / "vital_files" / "0007.vital").write_bytes(whole[:-200])
    ((name, error),) = read("vitaldb", tmp_path)
    assert name == "vital_files/0007" and "copy the file again" in str(error)


def test_the_command_takes_a_download_in_and_refuses_a_name_it_does_not_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        files.bidmc(tmp_path / "raw", number)
    (tmp_path / "raw" / "bidmc_csv" / "bidmc_03_Signals.csv").write_text("Time [s], RESP\n0,1\n")
    command = ["ingest", str(tmp_path / "raw"), "--corpus", f"file://{tmp_path}/corpus", "--cohort", "icu"]
    assert main([*command, "--adapter", "bidmc"]) == 1, "one recording is rejected, the others are kept"
    rows = Corpus.open(f"file://{tmp_path}/corpus").index.read().to_pylist()
    assert {row["subject_id"] for row in rows} == {"bidmc_01", "bidmc_02"}
    assert {row["channel"] for row in rows} >= {"ppg", "ecg", "resp"}
    assert dict(rows[0]["labels"])["respiration_rate_bpm"] == 20
    assert main([*command, "--adapter", "bidmc"]) == 1
    assert len(Corpus.open(f"file://{tmp_path}/corpus").index.read()) == len(rows), "nothing is taken in twice"
    capsys.readouterr()
    assert main([*command, "--adapter", "mimic"]) == 2
    assert "ppg_dalia" in capsys.readouterr().err
    with pytest.raises(UsageError):
        archive("nothing")
    assert all(name == known.name for name, known in ARCHIVES.items())
