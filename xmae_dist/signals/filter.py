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
def _sections(rate_hz: float, low_hz: float, high_hz: float, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Second-order sections (S, 6), and the state (S, 2) in which they are at rest at a constant 1."""
    if high_hz < 0.49 * rate_hz:
        sections = scipy.signal.butter(order, (low_hz, high_hz), btype="bandpass", fs=rate_hz, output="sos")
    else:
        sections = scipy.signal.butter(order, low_hz, btype="highpass", fs=rate_hz, output="sos")
    return sections, scipy.signal.sosfilt_zi(sections)


def bandpass(x_T: np.ndarray, rate_hz: float, band_hz: tuple[float, float], order: int = 2) -> np.ndarray:
    """Band-pass a finite signal (last axis is time) with zero phase; returns float64 of the same shape.

    The gain is -6 dB at the corners (two passes). An upper corner at or beyond Nyquist is left out.
    """
    x_T = np.asarray(x_T, dtype=np.float64)
    samples = x_T.shape[-1]
    if samples < 2:
        return np.zeros_like(x_T)
    pad = min(int(_SETTLE_CYCLES * rate_hz / band_hz[0]), samples - 1)
    sections, rest = _sections(rate_hz, band_hz[0], band_hz[1], order)
    # What `scipy.signal.sosfiltfilt` does, to the last bit; it finds the state at rest anew in every call, which takes
    # nearly twice as long as the filtering of ten seconds.
    before_T = 2 * x_T[..., :1] - x_T[..., pad:0:-1]
    after_T = 2 * x_T[..., -1:] - x_T[..., -2 : -pad - 2 : -1]
    forward_T = _from_rest(sections, rest, np.concatenate([before_T, x_T, after_T], axis=-1))
    return _from_rest(sections, rest, forward_T[..., ::-1])[..., ::-1][..., pad : pad + samples]


def _from_rest(sections: np.ndarray, rest: np.ndarray, x_T: np.ndarray) -> np.ndarray:
    """`x_T` through the sections, as if it had been at its first value for ever."""
    state = rest.reshape(len(rest), *[1] * (x_T.ndim - 1), 2) * x_T[..., :1]
    return scipy.signal.sosfilt(sections, x_T, axis=-1, zi=state)[0]
