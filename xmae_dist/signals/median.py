"""The median of a few values, for code that takes it of every beat and every window.

`numpy.median` takes four times as long of ten values (27 µs against 6), for its axes, masks and NaNs.
"""

from __future__ import annotations

import numpy as np


def median(x_N: np.ndarray) -> np.ndarray:
    """Median over the first axis of finite values, of which there is at least one: what `numpy.median` gives."""
    low, high = (len(x_N) - 1) // 2, len(x_N) // 2
    ordered = np.partition(x_N, (low, high), axis=0)
    return (ordered[low] + ordered[high]) / 2
