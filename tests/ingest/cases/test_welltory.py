"""Camera PPG with irregular frame times, as published, by the mapping of the documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from case_files import column

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.mapping import parse_mapping
from xmae_dist.ingest.formats.table import ColumnsRecording
from xmae_dist.ingest.run import IngestRequest, ingest
from xmae_dist.signals.beats import pulse_feet, rate_bpm
from xmae_dist.signals.defects import fill_gaps
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.resample import resample
from xmae_dist.storage.corpus import Corpus

MAPPING = (Path(__file__).resolve().parents[3] / "docs" / "mappings" / "welltory.toml").read_text()


@pytest.mark.recordings
def test_all_recordings_on_a_true_grid(recordings_dir: Path, tmp_path: Path) -> None:
    folder = recordings_dir / "welltory" / "data"
    mapping = parse_mapping(MAPPING, "welltory.toml")
    report = ingest(IngestRequest(inputs=(str(folder),), corpus_url=f"file://{tmp_path}", cohort="w", mapping=mapping))
    assert (report.kept.count, report.exit_status) == (21, 0)
    assert all("resampled from" in outcome.notes[-1] for outcome in report.kept.first)
    for recording in Corpus.open(f"file://{tmp_path}").snapshot().recordings():
        file = folder / f"{recording.recording_id}.csv"
        times_s = column(file, "time") / 1e3
        chosen = recording.channels["ppg"].source_name
        assert chosen == ("G" if len(set(column(file, "G"))) > 1 else "R")
        got = recording.read("ppg")
        assert len(got) == int(times_s[-1] * 30 + 1e-6) + 1
        at_s = np.arange(len(got)) / 30
        straight = np.interp(at_s, times_s, column(file, chosen))
        here = np.isfinite(got)
        assert np.corrcoef(got[here], -straight[here])[0, 1] > 0.99
        # What is missing lies in steps that are too long to bridge.
        after = np.searchsorted(times_s, at_s[~here])
        assert np.all(times_s[after] - times_s[after - 1] > mapping.bridge_s)


@pytest.mark.recordings
def test_the_wave_rises_with_blood_so_that_its_feet_are_beats(recordings_dir: Path, tmp_path: Path) -> None:
    """The rate of pulse feet in ten seconds is that of the strap; of the wave as the camera gives it, it is not."""
    folder = recordings_dir / "welltory" / "data"
    mapping = parse_mapping(MAPPING, "welltory.toml")
    ingest(IngestRequest(inputs=(str(folder),), corpus_url=f"file://{tmp_path}", cohort="w", mapping=mapping))
    error_bpm: dict[int, list[float]] = {1: [], -1: []}
    for recording in Corpus.open(f"file://{tmp_path}").snapshot().recordings():
        rr_s = np.loadtxt(folder / recording.recording_id.removesuffix("PPG") / "RR.txt").ravel() / 1e3
        wave = bandpass(resample(fill_gaps(recording.read("ppg"))[0], 30.0, 100.0), 100.0, (0.5, 8.0))
        start_s = np.arange(0, len(wave) / 100 - 10, 5.0)
        ends_s = np.cumsum(rr_s)
        for sign, errors in error_bpm.items():
            found = rate_bpm(pulse_feet(sign * wave, 100.0), start_s, 10.0)
            for at_s, bpm in zip(start_s, found, strict=True):
                inside = (ends_s - rr_s >= at_s) & (ends_s <= at_s + 10)
                if inside.sum() >= 4 and np.isfinite(bpm):
                    errors.append(abs(bpm - 60 / rr_s[inside].mean()))
    assert np.median(error_bpm[1]) < 2 and np.mean(np.array(error_bpm[1]) <= 5) > 0.8
    assert np.mean(np.array(error_bpm[-1]) <= 5) < 0.2


@pytest.mark.recordings
@pytest.mark.parametrize("declared", [25.0, 28.26, 30.0])
@pytest.mark.parametrize("number", ["01", "08", "09", "18", "19"])
def test_without_resampling_irregular_times_are_refused(recordings_dir: Path, number: str, declared: float) -> None:
    text = MAPPING.replace("resample = true", "").replace("rate_hz = 30.0", f"rate_hz = {declared}")
    file = recordings_dir / "welltory" / "data" / f"subject_{number}" / "PPG.csv"
    with pytest.raises(InputError, match=r"irregular.*nine of ten between.*resample = true"):
        list(ColumnsRecording(file, "x", parse_mapping(text, "w.toml")).blocks())
