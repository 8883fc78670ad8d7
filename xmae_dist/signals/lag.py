"""Where one beat train may lie against another: candidate paths of their lag over time.

All differences between the beats of two devices, counted per stretch of a few minutes, are the cross-correlation
of the trains: high at the true lag, and at every whole number of beats beside it as far as the heart is regular.
A clock drifts by little from one stretch to the next, so the best sums along slowly moving paths (Viterbi) lie far
above what single stretches show. Several paths are returned: telling the right one from its neighbours one beat
away needs the finer fit of `align`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

_BIN_S = 0.01
_BLUR_S = 0.03  # arrival time wanders this much within a stretch
_STRETCH_S = 300.0
_MIN_STRETCHES = 3
_APART_S = 0.2  # the shortest interval between beats: nearer candidates are one


@dataclass(frozen=True, kw_only=True)
class LagPath:
    """A candidate. Arrays (S,), one entry per stretch."""

    at_s: np.ndarray
    """Middle of the stretch, on the other device's clock."""
    lag_s: np.ndarray
    """Beat on the other device's clock minus the same beat on the reference clock."""
    score: float
    """Share of the beats that meet at this lag, beyond chance (about)."""


def lag_paths(
    reference_s: np.ndarray, other_s: np.ndarray, *, max_lag_s: float, max_drift_ppm: float, most: int
) -> list[LagPath]:
    """Up to `most` paths of the lag within +-max_lag_s, best first; both trains ascending and not empty."""
    span_s = float(other_s[-1] - other_s[0])
    stretches = max(_MIN_STRETCHES, round(span_s / _STRETCH_S))
    stretch_s = span_s / stretches
    correlation_SK = _correlation(reference_s, other_s, stretches, max_lag_s)
    reach = int(np.ceil((max_drift_ppm * 1e-6 * stretch_s + 0.01) / _BIN_S))
    total_SK = correlation_SK.copy()
    for row in range(1, stretches):
        total_SK[row] += scipy.ndimage.maximum_filter1d(total_SK[row - 1], 2 * reach + 1)
    peak, _ = scipy.signal.find_peaks(total_SK[-1], distance=max(1, int(_APART_S / _BIN_S)))
    peak = peak[np.argsort(-total_SK[-1, peak])][:most]
    at_s = other_s[0] + (np.arange(stretches) + 0.5) * stretch_s
    return [
        LagPath(
            at_s=at_s,
            lag_s=_trace(total_SK, int(end), reach) * _BIN_S - max_lag_s,
            score=float(total_SK[-1, end] / stretches),
        )
        for end in peak
    ]


def _correlation(reference_s: np.ndarray, other_s: np.ndarray, stretches: int, max_lag_s: float) -> np.ndarray:
    """Smoothed counts of beat differences above their mean (S stretches, K lags), relative to the beats that could
    meet.
    """
    bins = int(round(2 * max_lag_s / _BIN_S)) + 1
    first = np.searchsorted(reference_s, other_s - max_lag_s)
    count = np.searchsorted(reference_s, other_s + max_lag_s) - first
    other = np.repeat(np.arange(other_s.size), count)
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    difference_s = other_s[other] - reference_s[first[other] + step]
    stretch = np.minimum((other_s - other_s[0]) / (other_s[-1] - other_s[0]) * stretches, stretches - 1).astype(int)
    lag = np.clip(np.round((difference_s + max_lag_s) / _BIN_S).astype(int), 0, bins - 1)
    counted_SK = np.bincount(stretch[other] * bins + lag, minlength=stretches * bins).reshape(stretches, bins)
    blur = _BLUR_S / _BIN_S
    smooth_SK = scipy.ndimage.gaussian_filter1d(counted_SK.astype(np.float64), blur, axis=1, mode="constant")
    smooth_SK *= blur * np.sqrt(2 * np.pi)  # a beat that meets counts one
    beats_S = np.maximum(np.bincount(stretch, minlength=stretches), 1)
    return (smooth_SK - smooth_SK.mean(axis=1, keepdims=True)) / beats_S[:, None]


def _trace(total_SK: np.ndarray, end: int, reach: int) -> np.ndarray:
    """Bins (S,) of the best path that ends in the bin `end`."""
    path = np.empty(total_SK.shape[0], dtype=np.int64)
    path[-1] = end
    for row in range(total_SK.shape[0] - 2, -1, -1):
        low = max(0, path[row + 1] - reach)
        path[row] = low + np.argmax(total_SK[row, low : path[row + 1] + reach + 1])
    return path
