"""Beats: R peaks of an ECG, feet of a pulse wave, and their rates and delays per window.

R peaks: envelope of the QRS band (5-22 Hz) against a threshold that follows the local level (median of
block maxima), then the nearest extremum of the dominant polarity, refined by a parabola. The idea is that
of Pan & Tompkins (1985), without their sequential thresholds, so that a whole recording is a handful of
array operations.

Pulse feet: steepest upslopes against a local level, then intersecting tangents (Chiu et al. 1991): the
tangent at the steepest point meets the level of the minimum before it.
"""

from __future__ import annotations

import numpy as np
import scipy

from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.median import median

_BLOCK_S = 1.5  # every block holds a beat down to 40 / min
_LEVEL_BLOCKS = 11  # local level: median over about 16 s
_ROUNDING = 1e-9  # of the largest value: below it filters leave only rounding, which has peaks too


def _local_level(x_T: np.ndarray, rate_hz: float) -> np.ndarray:
    """Height of typical peaks around each sample: block maxima, median over neighbours, interpolated."""
    block = max(1, int(_BLOCK_S * rate_hz))
    padded = np.concatenate([x_T, np.zeros(-x_T.size % block)])
    height = scipy.ndimage.median_filter(padded.reshape(-1, block).max(axis=1), size=_LEVEL_BLOCKS, mode="nearest")
    centre = (np.arange(height.size) + 0.5) * block
    return np.interp(np.arange(x_T.size), centre, height)


def _parabola_shift(x_T: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Offset in samples (within half a sample) of the extremum of the parabola through index - 1, index,
    index + 1.
    """
    left, middle, right = x_T[index - 1], x_T[index], x_T[index + 1]
    curvature = left - 2 * middle + right
    safe = np.where(curvature == 0, 1.0, curvature)
    return np.where(curvature == 0, 0.0, np.clip(0.5 * (left - right) / safe, -0.5, 0.5))


def _around(x_T: np.ndarray, index: np.ndarray, before: int, after: int) -> np.ndarray:
    """Gather x_T[i - before : i + after + 1] for each i, edges held: shape (len(index), before + after + 1)."""
    at = index[:, None] + np.arange(-before, after + 1)
    return x_T[np.minimum(np.maximum(at, 0), x_T.size - 1)]


def r_peaks(ecg_T: np.ndarray, rate_hz: float) -> np.ndarray:
    """Times in seconds of the R peaks of a cleaned, finite ECG of at least 50 Hz; ascending, sub-sample."""
    if ecg_T.size < 2 * rate_hz:
        return np.zeros(0)
    qrs_T = bandpass(ecg_T, rate_hz, (5.0, 22.0))
    envelope_T = np.sqrt(np.maximum(scipy.ndimage.uniform_filter1d(qrs_T**2, max(3, int(0.11 * rate_hz))), 0.0))
    level_T = _local_level(envelope_T, rate_hz)
    peak, _ = scipy.signal.find_peaks(envelope_T, distance=max(1, int(0.24 * rate_hz)))
    peak = peak[envelope_T[peak] > np.maximum(0.4 * level_T[peak], _ROUNDING * np.abs(ecg_T).max())]
    peak = _without_t_waves(peak, envelope_T, rate_hz)
    return _extremum_times(ecg_T, qrs_T, peak, rate_hz)


def _without_t_waves(peak: np.ndarray, envelope_T: np.ndarray, rate_hz: float) -> np.ndarray:
    """Drop a peak that follows another within 0.36 s and is much lower: a T wave, not a beat."""
    if peak.size < 2:
        return peak
    close = np.diff(peak) < 0.36 * rate_hz
    lower = envelope_T[peak[1:]] < 0.6 * envelope_T[peak[:-1]]
    return peak[np.concatenate([[True], ~(close & lower)])]


def _extremum_times(ecg_T: np.ndarray, qrs_T: np.ndarray, peak: np.ndarray, rate_hz: float) -> np.ndarray:
    """Move each envelope peak to the extremum, of the polarity that dominates the recording, of the wave
    nearby.
    """
    if peak.size == 0:
        return np.zeros(0)
    reach = max(1, int(0.08 * rate_hz))
    near = _around(qrs_T, peak, reach, reach)
    upright = median(near.max(axis=1)) >= 0.8 * median(-near.min(axis=1))
    signed_T = qrs_T if upright else -qrs_T
    index = peak - reach + np.argmax(_around(signed_T, peak, reach, reach), axis=1)
    index = np.unique(np.clip(index, 1, ecg_T.size - 2))
    return (index + _parabola_shift(signed_T, index)) / rate_hz


def pulse_feet(ppg_T: np.ndarray, rate_hz: float) -> np.ndarray:
    """Times in seconds of the feet of the pulses of a cleaned, finite PPG (blood volume upwards); ascending."""
    if ppg_T.size < 2 * rate_hz:
        return np.zeros(0)
    slope_T = np.gradient(ppg_T) * rate_hz
    level_T = _local_level(slope_T, rate_hz)
    steep, _ = scipy.signal.find_peaks(slope_T, distance=max(1, int(0.27 * rate_hz)))
    steep = steep[slope_T[steep] > np.maximum(0.4 * level_T[steep], _ROUNDING * np.abs(ppg_T).max())]
    if steep.size == 0:
        return np.zeros(0)
    lowest = _lowest_before(ppg_T, steep, max(1, int(0.35 * rate_hz)))
    highest = _around(ppg_T, steep, 0, max(1, int(0.35 * rate_hz))).max(axis=1)
    foot_s = steep / rate_hz - (ppg_T[steep] - lowest) / slope_T[steep]
    return np.unique(np.maximum(foot_s[_systolic(steep / rate_hz, lowest, highest)], 0.0))


def _lowest_before(x_T: np.ndarray, index: np.ndarray, reach: int) -> np.ndarray:
    """Minimum of x_T over the `reach` samples up to each index, not looking past the index before it."""
    near = _around(x_T, index, reach, 0)
    since = np.diff(index, prepend=index[0] - reach - 1)
    return np.where(np.arange(reach, -1, -1) < since[:, None], near, np.inf).min(axis=1)


def _systolic(steep_s: np.ndarray, lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """False for a rise soon after another that starts well above that one's foot: a dicrotic wave."""
    soon = np.diff(steep_s) < 0.45
    high = lowest[1:] - lowest[:-1] > 0.35 * (highest[:-1] - lowest[:-1])
    return np.concatenate([[True], ~(soon & high)])


def in_windows(at_s: np.ndarray, value: np.ndarray, start_s_B: np.ndarray, window_s: float) -> np.ndarray:
    """Values whose time falls into each window: (B, M), padded with NaN to the fullest window (M >= 1).

    `at_s` ascending; windows may overlap.
    """
    first = np.searchsorted(at_s, start_s_B, side="left")
    count = np.searchsorted(at_s, start_s_B + window_s, side="left") - first
    widest = max(1, int(count.max(initial=0)))
    column = np.arange(widest)
    inside = column < count[:, None]
    index = np.minimum(first[:, None] + column, max(at_s.size - 1, 0))
    if at_s.size == 0:
        return np.full((start_s_B.size, widest), np.nan)
    return np.where(inside, value[index], np.nan)


def quantile_rows(value_BM: np.ndarray, q: float) -> np.ndarray:
    """Quantile of the finite values of each row, linear interpolation, NaN for an empty row (fast
    nanquantile).
    """
    ordered = np.sort(value_BM, axis=1)  # NaN last
    count = np.isfinite(ordered).sum(axis=1)
    position = q * np.maximum(count - 1, 0)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    row = np.arange(ordered.shape[0])
    weight = position - low
    return ordered[row, low] * (1 - weight) + ordered[row, high] * weight


def rate_bpm(beat_s: np.ndarray, start_s_B: np.ndarray, window_s: float) -> np.ndarray:
    """Beats per minute in each window, from the median interval that lies in it; NaN with fewer than two
    beats.
    """
    if beat_s.size < 2:
        return np.full(start_s_B.size, np.nan)
    # An interval belongs to the window that holds both its ends.
    interval_BM = in_windows(beat_s[:-1], np.diff(beat_s), start_s_B, window_s)
    end_BM = in_windows(beat_s[:-1], beat_s[1:], start_s_B, window_s)
    inside_BM = np.where(end_BM < (start_s_B + window_s)[:, None], interval_BM, np.nan)
    return 60.0 / quantile_rows(inside_BM, 0.5)
