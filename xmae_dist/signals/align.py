"""Bringing two devices of one person onto one clock by their heart beats.

Each device gives the times of its beats (R peaks, pulse feet) on its own clock. Their lag is the offset of the
clocks, their drift, and the pulse arrival time together. Candidate lags come from the correlation of the trains
(`lag`); each is matched beat to beat and fitted with a clock (`drift`), and the candidate that explains the beats
best wins if it explains them well and clearly better than every other, such as the same beats shifted by one.

Offset and arrival time cannot be told apart, so the constant is fixed by declaring a typical arrival time; drift and
its changes do not depend on it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import scipy

from xmae_dist.signals.drift import ClockFit, fit_clock
from xmae_dist.signals.lag import LagPath, lag_paths

REASONS = (
    "too_few_beats",
    "no_common_rhythm",
    "few_matches",
    "loose_fit",
    "ambiguous",
    "different_rhythm",
    "patchy",
    "irregular_clock",
    "implausible_drift",
    "uncertain",
)
"""Why a pair may be rejected, in the order in which it is judged."""


@dataclass(frozen=True, kw_only=True)
class AlignSpec:
    """What is searched for and what is trusted. The defaults come from `bench/align.py`."""

    arrival_prior_s: float = 0.25
    """Declared typical time from R peak to pulse foot at the other device's site."""
    max_offset_s: float = 60.0
    """Largest difference of the two clocks."""
    max_drift_ppm: float = 220.0
    """Largest relative drift: two clocks that are each wrong by up to 100 ppm, and some wander."""
    min_beats: int = 100
    """Fewest beats of each device in the time both cover."""
    min_matched: float = 0.45
    """Share of the beats of the device that has fewer that must meet one of the other's."""
    max_residual_s: float = 0.06
    """Largest robust spread of matched beats around the fit."""
    min_evidence: float = 0.5
    """Log likelihood per beat (nats) over beats at random that the fit must reach."""
    min_lead: float = 0.04
    """Log likelihood per beat (nats) over the best rival that the fit must reach."""
    min_lead_nats: float = 20.0
    """The same for all beats together: short recordings need a clearer lead."""
    min_rhythm: float = 0.1
    """Rank correlation of matched intervals from beat to beat that the fit must reach, and"""
    min_rhythm_deviations: float = 4.5
    """as many times what chance gives: calm hearts of one rate meet for minutes."""
    min_covered: float = 0.6
    """Share of the bins of the common span that must hold matched beats."""
    max_outlying: float = 0.2
    """Share of bins that may lie off any steady clock, such as one that was set in the middle."""
    max_lag_std_s: float = 0.02
    """Largest standard deviation of the lag anywhere in the common span."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How another device's clock runs against the reference clock, and how far that can be trusted.

    Numbers are NaN, and `segments` empty, where nothing could be fitted.
    """

    accepted: bool
    reason: str
    """One of REASONS; "" when accepted."""
    arrival_prior_s: float
    """Arrival time taken out of the lag; the true constant is unknown (`arrival_time_absolute` is false)."""
    offset_s: float = np.nan
    """Other clock minus reference clock at the start of the common span."""
    segments: tuple[tuple[float, float, float, float], ...] = ()
    """(from_s, to_s, lag_s, drift_ppm): on the other clock, lag at from_s; each goes on where the one before ends."""
    residual_s: float = np.nan
    """Robust standard deviation of matched beats around the fit."""
    rhythm: float = np.nan
    """Rank correlation of the intervals of matched beats, each against its neighbours' median."""
    wander_s: float = np.nan
    """Slow part of it: arrival time that wandered."""
    matched_fraction: float = np.nan
    evidence: float = np.nan
    """Log likelihood per beat over beats at random."""
    lead: float = np.nan
    """Log likelihood per beat over the best rival."""
    lag_std_s: float = np.nan
    drift_std_ppm: float = np.nan
    beats: tuple[int, int] = (0, 0)
    """Beats of the reference and of the other device in the common span."""

    def lag(self, other_s: np.ndarray) -> np.ndarray:
        """Other clock minus reference clock at times of the other clock; ends are continued. Raises ValueError if
        nothing was fitted.
        """
        if not self.segments:
            raise ValueError(f"no clock was fitted: {self.reason}")
        other_s = np.asarray(other_s, dtype=np.float64)
        lag_s = np.empty_like(other_s)
        for index, (from_s, _, start_s, drift_ppm) in enumerate(self.segments):
            here = other_s >= from_s if index else np.full(other_s.shape, True)
            lag_s[here] = start_s + 1e-6 * drift_ppm * (other_s[here] - from_s)
        return lag_s

    def to_reference(self, other_s: np.ndarray) -> np.ndarray:
        """Times of the other clock told on the reference clock."""
        return np.asarray(other_s, dtype=np.float64) - self.lag(other_s)


@dataclass(frozen=True, kw_only=True)
class _Hypothesis:
    """One candidate, matched and fitted."""

    fit: ClockFit
    residual_s: float
    matched: float
    evidence: float
    rhythm: float
    """Rank correlation of matched intervals against their neighbours', which locked but unrelated hearts lack."""
    intervals: int


_CANDIDATES = 6
_FEWEST_MATCHES = 20
_NEIGHBOURHOOD_S = 0.3  # beats further apart are not the same
_NEIGHBOURS = 9
_TOLERANCES_S = (0.16, 0.11, 0.09)  # first wide, for drift within a stretch


def align(reference_s: np.ndarray, other_s: np.ndarray, spec: AlignSpec | None = None) -> Alignment:
    """Estimate how the clock of `other_s` (pulse times, seconds) runs against that of `reference_s` (R peaks).

    Both ascending, each on its own clock; clocks differ by at most `spec.max_offset_s`.
    """
    spec = spec or AlignSpec()
    reference_s, other_s = _common(reference_s, other_s, spec)
    beats = (reference_s.size, other_s.size)
    if min(beats) < spec.min_beats:
        return Alignment(accepted=False, reason="too_few_beats", arrival_prior_s=spec.arrival_prior_s, beats=beats)
    paths = lag_paths(
        reference_s,
        other_s,
        max_lag_s=spec.max_offset_s + 1.0,
        max_drift_ppm=spec.max_drift_ppm,
        most=_CANDIDATES,
    )
    found = [hypothesis for path in paths if (hypothesis := _follow(reference_s, other_s, path)) is not None]
    if not found:
        return Alignment(accepted=False, reason="no_common_rhythm", arrival_prior_s=spec.arrival_prior_s, beats=beats)
    found.sort(key=lambda hypothesis: -hypothesis.evidence)
    described = _describe(found, spec, beats, (float(other_s[0]), float(other_s[-1])))
    reason = _judge(found[0], described, spec)
    return dataclasses.replace(described, accepted=not reason, reason=reason)


def _common(reference_s: np.ndarray, other_s: np.ndarray, spec: AlignSpec) -> tuple[np.ndarray, np.ndarray]:
    """The beats of each device that could have met one of the other's."""
    reference_s, other_s = np.unique(reference_s), np.unique(other_s)
    if min(reference_s.size, other_s.size) == 0:
        return reference_s, other_s
    reach = spec.max_offset_s + 1.0
    low, high = max(reference_s[0], other_s[0]) - reach, min(reference_s[-1], other_s[-1]) + reach
    return tuple(t[(t >= low) & (t <= high)] for t in (reference_s, other_s))


def _follow(reference_s: np.ndarray, other_s: np.ndarray, path: LagPath) -> _Hypothesis | None:
    """Match and fit in turns, from the candidate path on; None where too few beats meet."""
    fit: ClockFit | None = None
    lag_s = _straight(path, other_s)
    for tolerance_s in _TOLERANCES_S:
        other, difference_s = _matches(reference_s, other_s - lag_s, tolerance_s)
        if other.size < _FEWEST_MATCHES:
            return None
        covered_s = _covered(reference_s, other_s, lag_s)
        fit = fit_clock(other_s[other], difference_s + lag_s[other], (float(covered_s[0]), float(covered_s[-1])))
        if fit is None:
            return None
        lag_s = fit.lag(other_s)
    return None if fit is None else _weigh(reference_s, other_s, fit)


def _weigh(reference_s: np.ndarray, other_s: np.ndarray, fit: ClockFit) -> _Hypothesis:
    """How well a fitted clock explains the beats."""
    lag_s = fit.lag(other_s)
    covered_s = _covered(reference_s, other_s, lag_s)
    other, difference_s = _matches(reference_s, other_s - lag_s, _NEIGHBOURHOOD_S)
    rhythm, intervals = _rhythm(reference_s, other_s, other, lag_s)
    fewer = max(1, min(covered_s.size, int(np.count_nonzero(_inside(reference_s, covered_s - fit.lag(covered_s))))))
    near = np.abs(difference_s) < 0.1
    spread_s = 1.48 * float(np.median(np.abs(difference_s[near]))) + 1e-3 if near.any() else np.inf
    return _Hypothesis(
        fit=fit,
        residual_s=spread_s,
        matched=float(np.count_nonzero(np.abs(difference_s) < max(3 * spread_s, 0.03)) / fewer),
        evidence=_evidence(difference_s, fewer, float(np.median(np.diff(reference_s)))),
        rhythm=rhythm,
        intervals=intervals,
    )


def _straight(path: LagPath, other_s: np.ndarray) -> np.ndarray:
    """The path at each beat, continued straight beyond its first and last stretch."""
    slope = np.diff(path.lag_s) / np.diff(path.at_s)
    lag_s = np.interp(other_s, path.at_s, path.lag_s)
    lag_s += np.minimum(other_s - path.at_s[0], 0.0) * slope[0]
    return lag_s + np.maximum(other_s - path.at_s[-1], 0.0) * slope[-1]


def _inside(times_s: np.ndarray, span_s: np.ndarray) -> np.ndarray:
    return (times_s >= span_s[0] - 0.5) & (times_s <= span_s[-1] + 0.5)


def _covered(reference_s: np.ndarray, other_s: np.ndarray, lag_s: np.ndarray) -> np.ndarray:
    """Beats of the other device that fall into the span of the reference."""
    inside = _inside(other_s - lag_s, reference_s)
    return other_s[inside] if np.count_nonzero(inside) > 1 else other_s


def _matches(reference_s: np.ndarray, told_s: np.ndarray, tolerance_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (M,) of told beats that are mutually nearest to a reference beat, and told minus reference (M,)."""
    nearest = _nearest(reference_s, told_s)
    back = _nearest(told_s, reference_s)
    difference_s = told_s - reference_s[nearest]
    chosen = np.flatnonzero((back[nearest] == np.arange(told_s.size)) & (np.abs(difference_s) <= tolerance_s))
    return chosen, difference_s[chosen]


def _nearest(sorted_s: np.ndarray, query_s: np.ndarray) -> np.ndarray:
    right = np.clip(np.searchsorted(sorted_s, query_s), 1, sorted_s.size - 1)
    return right - (query_s - sorted_s[right - 1] < sorted_s[right] - query_s)


def _rhythm(reference_s: np.ndarray, other_s: np.ndarray, other: np.ndarray, lag_s: np.ndarray) -> tuple[float, int]:
    """Rank correlation of the intervals that both devices saw, less the median of their neighbours, and how many.

    Trains of two calm hearts of one rate can be matched beat for beat over minutes, and their slow changes agree
    because they were matched; from beat to beat they do not.
    """
    told_s = (other_s - lag_s)[other]
    reference = _nearest(reference_s, told_s)
    both = np.flatnonzero((np.diff(reference) == 1) & (np.diff(other) == 1))
    if both.size < _NEIGHBOURS:
        return 0.0, int(both.size)
    one = np.diff(reference_s[reference])[both]
    two = np.diff(told_s)[both]
    ranks = [
        scipy.stats.rankdata(x - scipy.ndimage.median_filter(x, size=_NEIGHBOURS, mode="nearest")) for x in (one, two)
    ]
    return float(np.corrcoef(*ranks)[0, 1]), int(both.size)


def _evidence(difference_s: np.ndarray, beats: int, interval_s: float) -> float:
    """Log likelihood per beat of the differences as a normal peak on a uniform floor, over the floor alone.

    The floor is what trains that have nothing in common give: a nearest beat anywhere within the interval.
    """
    floor = 1.0 / interval_s
    share, spread_s = 0.5, 0.03
    for _ in range(25):  # expectation maximisation
        peak = share * np.exp(-0.5 * (difference_s / spread_s) ** 2) / (spread_s * np.sqrt(2 * np.pi))
        in_peak = peak / (peak + (1 - share) * floor)
        share = float(np.clip(in_peak.sum() / beats, 1e-3, 0.995))
        spread_s = max(0.002, float(np.sqrt((in_peak * difference_s**2).sum() / max(in_peak.sum(), 1e-9))))
    density = share * np.exp(-0.5 * (difference_s / spread_s) ** 2) / (spread_s * np.sqrt(2 * np.pi)) / floor
    unmatched = max(0, beats - difference_s.size)
    return float((np.log(density + 1 - share).sum() + unmatched * np.log(1 - share)) / beats)


def _describe(
    found: list[_Hypothesis], spec: AlignSpec, beats: tuple[int, int], span_s: tuple[float, float]
) -> Alignment:
    best = found[0]
    fit = best.fit
    knots = [span_s[0], *([fit.change_s] if np.isfinite(fit.change_s) else []), span_s[1]]
    lag_s = fit.lag(np.array(knots)) - spec.arrival_prior_s
    drifts = (fit.drift_ppm, fit.drift_after_ppm)
    return Alignment(
        accepted=False,
        reason="",
        arrival_prior_s=spec.arrival_prior_s,
        offset_s=float(lag_s[0]),
        segments=tuple(
            (float(knots[i]), float(knots[i + 1]), float(lag_s[i]), drifts[i]) for i in range(len(knots) - 1)
        ),
        residual_s=best.residual_s,
        rhythm=best.rhythm,
        wander_s=fit.wander_s,
        matched_fraction=min(1.0, best.matched),
        evidence=best.evidence,
        lead=best.evidence - max((other.evidence for other in found[1:]), default=0.0),
        lag_std_s=fit.lag_std_s,
        drift_std_ppm=fit.drift_std_ppm,
        beats=beats,
    )


def _judge(best: _Hypothesis, found: Alignment, spec: AlignSpec) -> str:
    """The first reason to reject, or ""."""
    fit = best.fit
    chance = spec.min_rhythm_deviations / np.sqrt(max(best.intervals, 1))
    drifts = np.abs([drift for *_, drift in found.segments])
    checks = {
        "no_common_rhythm": found.evidence < spec.min_evidence,
        "few_matches": found.matched_fraction < spec.min_matched,
        "loose_fit": found.residual_s > spec.max_residual_s,
        "ambiguous": found.lead < max(spec.min_lead, spec.min_lead_nats / min(found.beats)),
        "different_rhythm": found.rhythm < max(spec.min_rhythm, chance),
        "patchy": fit.covered_fraction < spec.min_covered,
        "irregular_clock": fit.outlying_fraction > spec.max_outlying,
        "implausible_drift": drifts.max() > spec.max_drift_ppm,
        "uncertain": found.lag_std_s > spec.max_lag_std_s,
    }
    return next((reason for reason, fails in checks.items() if fails), "")
