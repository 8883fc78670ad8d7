"""Morphology of the simulated ECG, measured on the stored samples."""

from __future__ import annotations

import numpy as np
from examples import ECTOPIC, FIBRILLATING, SINUS_ONLY, around, find, physical, recording
from hypothesis import given, settings
from hypothesis import strategies as st

from xmae_dist.simulate.heart import scatter_add
from xmae_dist.simulate.rhythm import VENTRICULAR


def _p_wave_mv(found) -> float:
    """Height of the average beat 100 to 190 ms before R, above what comes before and after it."""
    ecg = found.channels["ecg"]
    beats = around(physical(ecg), ecg.rate_hz, found.truth.r_device_s[5:-5], 0.30, 0.0).mean(axis=0)
    at = np.arange(beats.size) / ecg.rate_hz - 0.30
    return float(
        beats[(at > -0.20) & (at < -0.09)].max() - np.median(beats[(at < -0.24) | ((at > -0.07) & (at < -0.05))])
    )


def test_p_wave_is_there_in_sinus_rhythm_and_missing_in_fibrillation() -> None:
    calm = [_p_wave_mv(recording(SINUS_ONLY, index)) for index in range(8)]
    fibrillating = [r for index in range(30) if (r := recording(FIBRILLATING, index)).labels["af_fraction"] == 1.0]
    assert np.median(calm) > 0.06
    assert np.median([_p_wave_mv(found) for found in fibrillating[:8]]) < 0.03


def test_f_waves_fill_the_band_that_sinus_rhythm_leaves_quiet_between_t_and_q() -> None:
    def power(found) -> float:
        ecg = found.channels["ecg"]
        late = found.truth.r_device_s[1:][found.truth.rr_before_s[1:] > 0.75]
        rest = around(physical(ecg), ecg.rate_hz, late, 0.30, -0.06)
        return float(np.median(np.var(rest - rest.mean(axis=0), axis=1)))

    fibrillating = [r for index in range(30) if (r := recording(FIBRILLATING, index)).labels["af_fraction"] == 1.0]
    loud = [power(found) for found in fibrillating if np.sum(found.truth.rr_before_s > 0.75) > 20]
    calm = [power(recording(SINUS_ONLY, index)) for index in range(8)]
    assert np.median(loud) > 1.5 * np.median(calm)


def test_qt_follows_the_rate() -> None:
    """The top of T comes later after R in slow hearts."""
    peak, interval = [], []
    for index in range(30):
        found = recording(SINUS_ONLY, index)
        ecg = found.channels["ecg"]
        beat = around(physical(ecg), ecg.rate_hz, found.truth.r_device_s[5:-5], 0.0, 0.45).mean(axis=0)
        after = int(0.16 * ecg.rate_hz)
        peak.append((after + np.argmax(np.abs(beat[after:] - np.median(beat)))) / ecg.rate_hz)
        interval.append(60.0 / found.labels["heart_rate_bpm"])
    assert np.corrcoef(np.cbrt(interval), peak)[0, 1] > 0.6


def test_ventricular_beats_are_wide() -> None:
    def width_s(found, times) -> float:
        ecg = found.channels["ecg"]
        beats = around(physical(ecg), ecg.rate_hz, times, 0.12, 0.12)
        steep = np.abs(np.diff(np.median(beats, axis=0)))
        return float(np.count_nonzero(steep > 0.15 * steep.max()) / ecg.rate_hz)

    ratios = []
    for index in range(40):
        found = recording(ECTOPIC, index)
        ectopic = found.truth.kind == VENTRICULAR
        if ectopic.sum() >= 5:
            sinus = found.truth.r_device_s[found.truth.kind == 0]
            ratios.append(width_s(found, found.truth.r_device_s[ectopic]) / width_s(found, sinus))
    assert len(ratios) >= 4 and np.median(ratios) > 1.6


def test_another_lead_sees_another_heart() -> None:
    found = find(SINUS_ONLY, "heart_rate_bpm", 50.0, 90.0)
    other = recording(SINUS_ONLY, 3)
    shapes = []
    for each in (found, other):
        ecg = each.channels["ecg"]
        shapes.append(around(physical(ecg), ecg.rate_hz, each.truth.r_device_s[5:-5], 0.2, 0.4).mean(axis=0))
    assert not np.allclose(shapes[0], shapes[1], atol=0.02)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-40, 140), min_size=1, max_size=30), st.integers(1, 25), st.integers(0, 2**31))
def test_scatter_add_equals_a_loop(starts: list[int], width: int, seed: int) -> None:
    first = np.sort(np.array(starts))
    values = np.random.default_rng(seed).integers(-5, 6, (first.size, width)).astype(np.float32)
    expected = np.zeros(100, dtype=np.float32)
    for start, row in zip(first, values, strict=True):
        for offset, value in enumerate(row):
            if 0 <= start + offset < 100:
                expected[start + offset] += value
    signal = np.zeros(100, dtype=np.float32)
    scatter_add(signal, first, values)
    assert np.array_equal(signal, expected)
