"""What the beats of a pair of windows say in three numbers, each window by itself.

Shapes: B windows, L samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xmae_dist.signals.arrival import arrival_s
from xmae_dist.signals.beats import pulse_feet, r_peaks

STATISTICS = ("log_mean_rr", "log_rmssd", "median_arrival_s")
"""Logarithms of the mean RR interval and of the RMSSD, both in seconds; median time from R peak to pulse foot."""

_LEAST_RMSSD_S = 1e-3
"""Finer than R peaks are found at 100 Hz; a metronome's RMSSD has a logarithm, too."""
_FEWEST_PEAKS = (3, 4)
"""For the mean RR interval, for the RMSSD."""


def beat_statistics(ecg_BL: NDArray[np.floating], ppg_BL: NDArray[np.floating], rate_hz: float) -> NDArray[np.float64]:
    """`STATISTICS` of each window, (B, 3), from cleaned windows of at least 2 s and 50 Hz.

    NaN where beats are too few, and all of a window that misses a sample of either signal. About 3.5 ms of CPU a window
    of 10 s.
    """
    found = np.full((len(ecg_BL), len(STATISTICS)), np.nan)
    whole_B = np.isfinite(ecg_BL).all(axis=1) & np.isfinite(ppg_BL).all(axis=1)
    for i in np.flatnonzero(whole_B):
        found[i] = _of_window(np.asarray(ecg_BL[i], float), np.asarray(ppg_BL[i], float), rate_hz)
    return found


def _of_window(ecg_L: NDArray[np.float64], ppg_L: NDArray[np.float64], rate_hz: float) -> tuple[float, float, float]:
    r_s = r_peaks(ecg_L, rate_hz)
    rr_s = np.diff(r_s)
    mean_rr = float(np.log(rr_s.mean())) if len(r_s) >= _FEWEST_PEAKS[0] else np.nan
    rmssd = np.nan
    if len(r_s) >= _FEWEST_PEAKS[1]:
        rmssd = float(np.log(max(np.sqrt(np.mean(np.diff(rr_s) ** 2)), _LEAST_RMSSD_S)))
    median_s, _ = arrival_s(r_s, pulse_feet(ppg_L, rate_hz), np.zeros(1), len(ecg_L) / rate_hz)
    return mean_rr, rmssd, float(median_s[0])
