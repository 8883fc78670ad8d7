from __future__ import annotations

import numpy as np

from tests.signals.synthetic import beat_times, ppg_at
from xmae_dist.signals.beats import pulse_feet
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.quality import beat_correlation, window_quality


def _quality(x: np.ndarray, starts: np.ndarray) -> np.ndarray:
    clean = bandpass(x, 100.0, (0.5, 8.0))
    feet = pulse_feet(clean, 100.0)
    return window_quality(feet, beat_correlation(clean, 100.0, feet), starts, 10.0)


def test_clean_is_near_one_and_motion_is_low() -> None:
    t = np.arange(12_000) / 100
    x = ppg_at(t, beat_times(120.0))
    starts = np.arange(0.0, 110.0, 10.0)
    assert _quality(x, starts).min() > 0.95
    x[5000:6000] = np.random.default_rng(0).normal(0, 1, 1000)
    quality = _quality(x, starts)
    assert quality[5] < 0.6
    assert np.delete(quality, [4, 5, 6]).min() > 0.9


def test_no_beats_is_zero_and_few_beats_do_not_fail() -> None:
    starts = np.arange(0.0, 20.0, 10.0)
    assert window_quality(np.zeros(0), np.zeros(0), starts, 10.0).tolist() == [0.0, 0.0]
    assert np.isnan(beat_correlation(np.zeros(3000), 100.0, np.array([1.0, 2.0]))).all()


def test_flat_beats_have_no_correlation() -> None:
    assert beat_correlation(np.zeros(3000), 100.0, np.arange(1.0, 25.0)).tolist() == [0.0] * 24
