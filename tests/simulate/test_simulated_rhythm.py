"""The rhythm that comes out of the signals is the rhythm that the labels state."""

from __future__ import annotations

import numpy as np
import pytest
from examples import ECTOPIC, FIBRILLATING, SINUS_ONLY, YOUNG, find, physical, recording
from scipy.signal import find_peaks, lombscargle

from xmae_dist.simulate.rhythm import ATRIAL, VENTRICULAR


@pytest.mark.parametrize("index", range(6))
def test_peaks_in_the_ecg_are_the_true_r_peaks_and_give_the_labelled_rate(index: int) -> None:
    found = recording(SINUS_ONLY, index)
    ecg = found.channels["ecg"]
    # The derivative is tall at the QRS alone, whatever the height of T.
    steep = np.abs(np.gradient(physical(ecg)))
    envelope = np.convolve(steep, np.ones(20) / 20, mode="same")
    peaks, _ = find_peaks(envelope, height=0.4 * np.percentile(envelope, 99.5), distance=int(0.35 * ecg.rate_hz))
    time = peaks / ecg.rate_hz
    nearest = np.abs(found.truth.r_device_s[:, None] - time[None]).min(axis=1)
    assert np.mean(nearest < 0.03) > 0.985
    assert 60.0 / np.mean(np.diff(time)) == pytest.approx(found.labels["heart_rate_bpm"], abs=0.8)


@pytest.mark.parametrize("index", range(6))
def test_rr_varies_with_the_breath_at_the_labelled_rate(index: int) -> None:
    found = recording(YOUNG, index)
    time, interval = found.truth.r_true_s[1:], found.truth.rr_before_s[1:]
    frequency = np.linspace(0.16, 0.45, 600)
    power = lombscargle(time, interval - interval.mean(), 2 * np.pi * frequency)
    expected = found.labels["respiration_rate_bpm"] / 60.0
    near = np.abs(frequency - expected) < 0.035
    assert power[near].max() > 3.0 * np.median(power)
    assert power[near].mean() > 2.0 * power[~near].mean()


def test_fibrillation_is_irregular_and_sinus_rhythm_is_not() -> None:
    def irregularity(found) -> float:
        interval = found.truth.rr_before_s
        return float(np.sqrt(np.mean(np.diff(interval) ** 2)) / interval.mean())

    sinus = [irregularity(recording(SINUS_ONLY, index)) for index in range(8)]
    fibrillating = [irregularity(find_af) for find_af in _fibrillating(5)]
    assert max(sinus) < 0.17 < 0.20 < min(fibrillating)


def test_intervals_in_fibrillation_have_no_memory() -> None:
    for found in _fibrillating(3):
        interval = found.truth.rr_before_s[1:]
        assert abs(np.corrcoef(interval[:-1], interval[1:])[0, 1]) < 0.2


def test_ventricular_pause_compensates_and_atrial_pause_does_not() -> None:
    pauses: dict[int, list[float]] = {VENTRICULAR: [], ATRIAL: []}
    for index in range(25):
        truth = recording(ECTOPIC, index).truth
        for beat in np.flatnonzero(np.isin(truth.kind, (VENTRICULAR, ATRIAL))):
            if 3 <= beat < truth.kind.size - 2:
                both = truth.rr_before_s[beat] + truth.rr_before_s[beat + 1]
                pauses[int(truth.kind[beat])].append(both / (2.0 * truth.rr_before_s[beat - 2 : beat].mean()))
    assert len(pauses[VENTRICULAR]) > 40 and len(pauses[ATRIAL]) > 40
    assert np.median(pauses[VENTRICULAR]) == pytest.approx(1.0, abs=0.02)
    assert np.median(pauses[ATRIAL]) < 0.95


def test_counted_ectopy_is_the_label() -> None:
    found = find(ECTOPIC, "ectopy_per_min", 2.0)
    ectopic = np.isin(found.truth.kind, (VENTRICULAR, ATRIAL))
    assert found.labels["ectopy_per_min"] == pytest.approx(ectopic.sum() / 5.0)
    assert found.labels["ectopy_per_min"] >= found.labels["pvc_per_min"]
    assert np.all(np.diff(np.flatnonzero(ectopic)) >= 2)
    # Two sinus beats after a premature one at most: an ectopic beat comes early.
    usual = np.median(found.truth.rr_before_s)
    assert np.all(found.truth.rr_before_s[ectopic] < 0.97 * usual * 1.25)


def _fibrillating(count: int) -> list:
    found = [r for index in range(30) if (r := recording(FIBRILLATING, index)).labels["af_fraction"] == 1.0]
    return found[:count]
