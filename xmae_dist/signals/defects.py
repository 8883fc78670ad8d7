"""Per-sample defects of a raw channel: missing, flat, saturated. All vectorised over the whole channel."""

from __future__ import annotations

import numpy as np

FLAT_RUN_S = 0.4  # equal values this long are no physiology, whatever the resolution
RAIL_RUN_S = 0.06  # longer than a smooth crest stays at one value of a coarse converter
RAIL_TOLERANCE = 1e-3  # of the range
_MIN_RUN = 4  # samples, for slow devices


def fill_gaps(x_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (`x_T` as float64 with NaN and infinities interpolated linearly, mask of what was missing).

    Ends are held; a channel without one finite sample comes back as zeros.
    """
    x_T = np.asarray(x_T, dtype=np.float64)
    missing_T = ~np.isfinite(x_T)
    if not missing_T.any():
        return x_T, missing_T
    if missing_T.all():
        return np.zeros_like(x_T), missing_T
    index = np.arange(x_T.size)
    filled_T = x_T.copy()
    filled_T[missing_T] = np.interp(index[missing_T], index[~missing_T], x_T[~missing_T])
    return filled_T, missing_T


def long_runs(mask_T: np.ndarray, min_run: int) -> np.ndarray:
    """Keep only the runs of True in `mask_T` that are at least `min_run` samples long."""
    if not mask_T.any():
        return np.zeros(mask_T.size, dtype=bool)
    edge = np.diff(np.concatenate([[0], mask_T.view(np.int8), [0]]))
    start, stop = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    keep = stop - start >= min_run
    change = np.zeros(mask_T.size + 1, dtype=np.int32)
    change[start[keep]] = 1
    change[stop[keep]] = -1
    return np.cumsum(change[:-1]).astype(bool)


def flat_mask(x_T: np.ndarray, rate_hz: float) -> np.ndarray:
    """True where the value has stood still for FLAT_RUN_S or more. `x_T` finite."""
    if x_T.size < 2:
        return np.zeros(x_T.size, dtype=bool)
    still = np.diff(x_T) == 0
    run = long_runs(still, max(_MIN_RUN, int(FLAT_RUN_S * rate_hz)) - 1)
    return np.concatenate([run, [False]]) | np.concatenate([[False], run])


def saturated_mask(x_T: np.ndarray, rate_hz: float) -> np.ndarray:
    """True where the value sticks to an extreme of the channel (a rail of the converter). `x_T` finite.

    Standing still is asked for too: a clean diastole lies near the minimum for long, but it moves.
    """
    if x_T.size < 2 or (low := x_T.min()) == (high := x_T.max()):
        return np.zeros(x_T.size, dtype=bool)
    still = np.diff(x_T) == 0
    still_T = np.concatenate([still, [False]]) | np.concatenate([[False], still])
    tolerance = RAIL_TOLERANCE * (high - low)
    min_run = max(_MIN_RUN, int(RAIL_RUN_S * rate_hz))
    return long_runs(still_T & (x_T >= high - tolerance), min_run) | long_runs(
        still_T & (x_T <= low + tolerance), min_run
    )


def fraction_between(mask_T: np.ndarray, start_B: np.ndarray, stop_B: np.ndarray) -> np.ndarray:
    """Fraction of True in mask_T[start:stop] for each of B spans; what lies outside the array counts as True."""
    total = np.zeros(mask_T.size + 1, np.int64)
    np.cumsum(mask_T, out=total[1:])
    low, high = (np.minimum(np.maximum(at_B, 0), mask_T.size) for at_B in (start_B, stop_B))
    outside = (stop_B - start_B) - (high - low)
    return (total[high] - total[low] + outside) / np.maximum(stop_B - start_B, 1)
