"""Signal quality by template: how well each beat correlates with the median beat around it.

Artefacts are unlike each other, beats are alike; so the mean correlation of the beats of a window with the
median beat of its minute is near 1 for a clean signal and near 0 for noise (Orphanidou et al. 2015 use the
same idea with the mean beat). The median beat is that of a block of a minute, so slow changes of posture do
not count against a signal.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from xmae_dist.signals.beats import in_windows
from xmae_dist.signals.median import median

_BLOCK_S = 60.0
_MIN_BEATS = 3
_BEFORE, _AFTER = 0.3, 0.5  # extent of a beat around its mark, as fractions of the block's median interval


def beat_correlation(x_T: np.ndarray, rate_hz: float, beat_s: np.ndarray) -> np.ndarray:
    """Correlation in [-1, 1] of each beat with the median beat of its block; NaN where it cannot be measured."""
    correlation = np.full(beat_s.size, np.nan)
    for chosen in _blocks(beat_s):
        interval_s = min(max(float(median(np.diff(beat_s[chosen]))), 0.3), 1.5)
        correlation[chosen] = _against_median(x_T, beat_s[chosen] * rate_hz, interval_s * rate_hz)
    return correlation


def _blocks(beat_s: np.ndarray) -> list[slice]:
    """Slices of beats, a block of about a minute each; a short last block joins the one before."""
    if beat_s.size < _MIN_BEATS:
        return []
    count = max(1, round(float(beat_s[-1] - beat_s[0]) / _BLOCK_S))
    edges = np.searchsorted(beat_s, np.linspace(beat_s[0], beat_s[-1], count + 1)[1:-1])
    bounds = [0, *edges.tolist(), beat_s.size]
    return [slice(a, b) for a, b in pairwise(bounds) if b - a >= _MIN_BEATS]


def _against_median(x_T: np.ndarray, mark: np.ndarray, interval: float) -> np.ndarray:
    """Correlate the beats marked at fractional sample positions `mark` with their median beat."""
    before, after = int(_BEFORE * interval), int(_AFTER * interval)
    index = np.round(mark).astype(np.int64)
    whole = (index >= before) & (index + after < x_T.size)
    result = np.full(mark.size, np.nan)
    if whole.sum() < _MIN_BEATS:
        return result
    beat_NW = x_T[index[whole][:, None] + np.arange(-before, after + 1)]
    beat_NW = beat_NW - beat_NW.mean(axis=1, keepdims=True)
    template_W = median(beat_NW)
    template_W = template_W - template_W.mean()
    power = np.sqrt((beat_NW**2).sum(axis=1) * (template_W**2).sum())
    result[whole] = np.where(power > 0, beat_NW @ template_W / np.where(power > 0, power, 1.0), 0.0)
    return result


def window_quality(beat_s: np.ndarray, correlation: np.ndarray, start_s_B: np.ndarray, window_s: float) -> np.ndarray:
    """Mean beat correlation of each window, clipped to [0, 1]; 0 for a window without a measured beat."""
    value_BM = in_windows(beat_s, correlation, start_s_B, window_s)
    known_BM = np.isfinite(value_BM)
    total_B = np.where(known_BM, value_BM, 0.0).sum(axis=1)
    return np.clip(total_B / np.maximum(known_BM.sum(axis=1), 1), 0.0, 1.0)
