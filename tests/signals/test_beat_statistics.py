"""Three numbers of a pair of windows against what the simulator knows of their beats."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy

from xmae_dist.signals.beat_statistics import STATISTICS, beat_statistics
from xmae_dist.signals.filter import bandpass
from xmae_dist.simulate.cohorts import PRESETS, SimulatedRecording, simulate_subject

RATE_HZ, WINDOW_S, WINDOWS = 100.0, 10.0, 11


def windows(recording: SimulatedRecording) -> tuple[np.ndarray, np.ndarray]:
    """ECG and PPG of one recording as the window stores cut them, but for the scale."""
    found = []
    for name, band_hz, up, down in (("ecg", (0.5, 40.0), 2, 5), ("ppg", (0.5, 8.0), 4, 5)):
        channel = recording.channels[name]
        clean = bandpass(channel.raw * channel.scale, channel.rate_hz, band_hz)
        found.append(scipy.signal.resample_poly(clean, up, down)[: WINDOWS * 1000].reshape(WINDOWS, 1000))
    return found[0], found[1]


def truths(recording: SimulatedRecording) -> np.ndarray:
    truth, found = recording.truth, []
    for i in range(WINDOWS):
        here = (truth.r_device_s >= WINDOW_S * i) & (truth.r_device_s < WINDOW_S * (i + 1))
        rr_s = np.diff(truth.r_device_s[here])
        rmssd_s = np.sqrt(np.mean(np.diff(rr_s) ** 2))
        delay_s = np.median((truth.arrival_device_s - truth.r_device_s)[here])
        found.append([np.log(rr_s.mean()), np.log(rmssd_s), delay_s])
    return np.array(found)


def test_they_are_those_of_the_true_beats() -> None:
    spec = dataclasses.replace(PRESETS["bedside"], subjects=5, minutes=2.0)
    recordings = [simulate_subject(spec, i)[0] for i in range(5)]
    found = np.concatenate([beat_statistics(*windows(recording), RATE_HZ) for recording in recordings])
    error = found - np.concatenate([truths(recording) for recording in recordings])
    assert np.isfinite(found).all()
    typical = dict(zip(STATISTICS, np.median(np.abs(error - np.median(error, axis=0)), axis=0), strict=True))
    assert typical["log_mean_rr"] < 0.001 and typical["log_rmssd"] < 0.02 and typical["median_arrival_s"] < 0.006
    # The device's filters add some 20 ms between the arrival of a pulse and the foot that is seen.
    assert np.median(error, axis=0) == pytest.approx([0, 0, 0.02], abs=0.01)


def test_what_is_not_there_is_not_known() -> None:
    spec = dataclasses.replace(PRESETS["bedside"], subjects=1, minutes=2.0)
    ecg_BL, ppg_BL = (x.copy() for x in windows(simulate_subject(spec, 0)[0]))
    ecg_BL[0, 3] = np.nan
    ppg_BL[1] = np.nan
    ecg_BL[2] = 0.0
    ppg_BL[3] = 0.0
    known = np.isfinite(beat_statistics(ecg_BL, ppg_BL, RATE_HZ))
    assert known[:4].tolist() == [[False] * 3, [False] * 3, [False] * 3, [True, True, False]]
    assert known[4:].all()


def test_a_metronome_has_a_finite_logarithm() -> None:
    time_L = np.arange(1000) / RATE_HZ
    beat_BL = (np.cos(np.pi * (time_L - 0.5)) ** 60)[None]
    mean_rr, rmssd, _ = beat_statistics(beat_BL, beat_BL, RATE_HZ)[0]
    assert mean_rr == pytest.approx(0.0, abs=1e-3) and rmssd == pytest.approx(np.log(1e-3))
