"""ECG- and PPG-like signals with beats at known times, for tests of signal processing."""

from __future__ import annotations

import numpy as np


def beat_times(duration_s: float, bpm: float = 72.0, jitter_s: float = 0.02, seed: int = 0) -> np.ndarray:
    """Regular beats with a little jitter, first at 0.5 s."""
    base = np.arange(0.5, duration_s, 60.0 / bpm)
    return base + np.random.default_rng(seed).uniform(-jitter_s, jitter_s, base.size)


def ecg_at(time_s: np.ndarray, beat_s: np.ndarray) -> np.ndarray:
    """QRS (R peak exactly on the beat), T wave; mV."""
    x = np.zeros(time_s.size)
    for centre, width, height in (
        (0.0, 0.012, 1.0),
        (-0.03, 0.012, -0.12),
        (0.03, 0.012, -0.2),
        (0.26, 0.045, 0.25),
    ):
        x += _sum_of_bumps(time_s, beat_s + centre, width, height)
    return x


def ppg_at(time_s: np.ndarray, beat_s: np.ndarray, delay_s: float = 0.25) -> np.ndarray:
    """A pulse `delay_s` (centre of its upstroke) after each beat, with a dicrotic wave; arbitrary units."""
    crest = beat_s + delay_s + 0.1
    return _sum_of_bumps(time_s, crest, 0.09, 1.0) + _sum_of_bumps(time_s, crest + 0.28, 0.09, 0.35)


def _sum_of_bumps(time_s: np.ndarray, centre_s: np.ndarray, width_s: float, height: float) -> np.ndarray:
    x = np.zeros(time_s.size)
    for centre in centre_s:
        a, b = np.searchsorted(time_s, (centre - 6 * width_s, centre + 6 * width_s))
        x[a:b] += height * np.exp(-0.5 * ((time_s[a:b] - centre) / width_s) ** 2)
    return x
