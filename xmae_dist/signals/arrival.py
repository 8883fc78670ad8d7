"""The delay from an R peak to the foot of its own pulse, also where a device shows the pulse whole beats late.

Many bedside monitors delay the pulse wave by about a second, so the next foot after an R peak is that of a beat before:
its delay is the true one less a whole interval, and follows the heart rate instead of the arteries. Which foot is the
beat's own shows in how little the delay varies: counted to another beat's foot, it takes that beat's interval with it.
Where intervals are too alike to tell, the delay is not known.

Shapes: B windows.
"""

from __future__ import annotations

import numpy as np

from xmae_dist.signals.beats import in_windows, quantile_rows

_MOST_BEATS_LATE = 3
_LONGEST_S = 2.5
_CLEARLY = 0.8  # the spread that is taken must be below this share of the next
_FEWEST_BEATS = 30
_FEWEST_IN_WINDOW = 5


def arrival_s(
    r_s: np.ndarray,
    foot_s: np.ndarray,
    start_s_B: np.ndarray,
    window_s: float,
    *,
    typical_s: float | None = None,
    longest_s: float = 0.7,
) -> tuple[np.ndarray, np.ndarray]:
    """Median delay from an R peak to its pulse foot in each window, and its inter-quartile range (B,), seconds.

    `typical_s`: about when its own foot comes (`own_pulse_s`); not known, it is the next one, unless that is later than
    `longest_s` or than the next R peak. NaN where fewer than three beats could be paired.
    """
    if r_s.size == 0 or foot_s.size == 0:
        return np.full(start_s_B.size, np.nan), np.full(start_s_B.size, np.nan)
    delay = _next_delays(r_s, foot_s, longest_s) if typical_s is None else _around(r_s, foot_s, typical_s)
    delay_BM = in_windows(r_s, delay, start_s_B, window_s)
    enough = np.isfinite(delay_BM).sum(axis=1) >= 3
    return np.where(enough, quantile_rows(delay_BM, 0.5), np.nan), np.where(enough, _spread(delay_BM), np.nan)


def own_pulse_s(r_s: np.ndarray, foot_s: np.ndarray, window_s: float = 10.0) -> float | None:
    """About how long after an R peak the foot of its own pulse comes: the delay that varies least within windows.

    None where a delay of one beat more or less varies nearly as little, as with a metronome, or where there are fewer
    than 30 beats.
    """
    if min(r_s.size, foot_s.size) < _FEWEST_BEATS:
        return None
    start_s_B = np.arange(r_s[0], r_s[-1], window_s)
    found: list[tuple[float, float]] = []
    for later in range(_MOST_BEATS_LATE + 1):
        delay = _around(r_s, foot_s, _typical_s(r_s, foot_s, later))
        delay_BM = in_windows(r_s, delay, start_s_B, window_s)
        full_B = np.isfinite(delay_BM).sum(axis=1) >= _FEWEST_IN_WINDOW
        if not full_B.any() or np.nanmedian(delay) > _LONGEST_S:
            break
        paired = max(float(np.isfinite(delay).mean()), 0.1)  # beats without a foot count against it
        found.append((float(np.median(_spread(delay_BM[full_B]))) / paired, float(np.nanmedian(delay))))
    found.sort()
    if len(found) < 2 or found[0][0] > _CLEARLY * found[1][0]:
        return None
    return found[0][1]


def _next_delays(r_s: np.ndarray, foot_s: np.ndarray, longest_s: float) -> np.ndarray:
    """To the next foot; NaN where it is another beat's."""
    following = np.searchsorted(foot_s, r_s)
    delay = np.where(following < foot_s.size, foot_s[np.minimum(following, foot_s.size - 1)] - r_s, np.nan)
    to_next = np.append(np.diff(r_s), np.inf)
    delay[~(delay < np.minimum(longest_s, to_next))] = np.nan
    return delay


def _typical_s(r_s: np.ndarray, foot_s: np.ndarray, later: int) -> float:
    """Median time from an R peak to the foot that comes `later` feet after the next."""
    which = np.searchsorted(foot_s, r_s) + later
    known = which < foot_s.size
    return float(np.median(foot_s[which[known]] - r_s[known])) if known.any() else float("nan")


def _around(r_s: np.ndarray, foot_s: np.ndarray, typical_s: float) -> np.ndarray:
    """To the foot nearest to where it is expected; NaN where none is within a third of an interval."""
    expected_s = r_s + typical_s
    after = np.clip(np.searchsorted(foot_s, expected_s), 1, foot_s.size - 1)
    before_s, after_s = foot_s[after - 1], foot_s[after]
    nearest_s = np.where(after_s - expected_s < expected_s - before_s, after_s, before_s)
    reach_s = 0.35 * float(np.median(np.diff(r_s))) if r_s.size > 1 else 0.0
    return np.where(np.abs(nearest_s - expected_s) < reach_s, nearest_s - r_s, np.nan)


def _spread(delay_BM: np.ndarray) -> np.ndarray:
    return quantile_rows(delay_BM, 0.75) - quantile_rows(delay_BM, 0.25)
