"""Zero-phase band-pass cleaning.

Forward-backward Butterworth sections delay no frequency, so the time from R peak to pulse foot, which the
model learns from, is the same before and after cleaning.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy

_SETTLE_CYCLES = 1.5  # padding at each end, in periods of the lowest corner


@lru_cache(maxsize=64)
def _sections(rate_hz: float, low_hz: float, high_hz: float, order: int) -> np.ndarray:
    if high_hz < 0.49 * rate_hz:
        return scipy.signal.butter(order, (low_hz, high_hz), btype="bandpass", fs=rate_hz, output="sos")
    return scipy.signal.butter(order, low_hz, btype="highpass", fs=rate_hz, output="sos")


def bandpass(x_T: np.ndarray, rate_hz: float, band_hz: tuple[float, float], order: int = 2) -> np.ndarray:
    """Band-pass a finite signal (last axis is time) with zero phase; returns float64 of the same shape.

    The gain is -6 dB at the corners (two passes). An upper corner at or beyond Nyquist is left out.
    """
    x_T = np.asarray(x_T, dtype=np.float64)
    samples = x_T.shape[-1]
    if samples < 2:
        return np.zeros_like(x_T)
    pad = min(int(_SETTLE_CYCLES * rate_hz / band_hz[0]), samples - 1)
    return scipy.signal.sosfiltfilt(_sections(rate_hz, band_hz[0], band_hz[1], order), x_T, axis=-1, padlen=pad)
