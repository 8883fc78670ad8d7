"""Offset and drift of a clock from the lags of its beats: a line, or two that meet where the drift changes.

What is observed is the clock's lag plus the pulse arrival time, which wanders by tens of milliseconds over minutes.
That wander is no white noise: a fit that took it for such would follow it with its lines and believe itself a
hundred times too exact. So lags are reduced to a median per bin and fitted by generalised least squares with an
exponentially correlated wander (an Ornstein-Uhlenbeck process) beside white noise; the size of the wander is the
most likely one. A second line is taken as far as the likelihood gains more than wander could give it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BINS = 60
_SHORTEST_BIN_S = 15.0
_FEWEST_IN_BIN = 4
_WANDER_TIME_S = 150.0
_USUAL_WANDER_S, _WANDER_SCATTER = 0.008, 0.5  # log-normal prior: slow lags of 50 ms are clocks, not arteries
_WANDER_S = np.array([0.001, 0.002, 0.004, 0.006, 0.009, 0.013, 0.018, 0.025, 0.035])
_OUTLYING_S = 0.035  # a bin this far from a first line through most bins, or 5 deviations, is an artefact
_CHANGE_COST = 3.0  # log likelihood that a change must gain to be as likely as none (its place was chosen freely)
_NEGLIGIBLE = 0.2  # a less likely change is left out
_CHANGE_MARGIN = 0.2  # of the span at each end, where a change cannot be told from wander


@dataclass(frozen=True, kw_only=True)
class ClockFit:
    """lag(t) = lag_s + drift (t - at_s), drift `before` up to `change_s` and `after` from there (t: other clock)."""

    at_s: float
    lag_s: float
    drift_ppm: float
    change_s: float
    """Infinite where the drift does not change."""
    drift_after_ppm: float
    lag_std_s: float
    """Largest standard deviation of the lag over the span fitted."""
    drift_std_ppm: float
    wander_s: float
    """Standard deviation of the slow wander around the fit."""
    outlying_fraction: float
    """Share of bins that follow no such clock."""
    covered_fraction: float
    """Share of bins with enough beats."""

    def lag(self, time_s: np.ndarray) -> np.ndarray:
        """Lag in seconds at times of the other clock."""
        elapsed = np.asarray(time_s, dtype=np.float64) - self.at_s
        late = 0.0 if np.isinf(self.change_s) else np.maximum(elapsed - (self.change_s - self.at_s), 0.0)
        return self.lag_s + 1e-6 * (self.drift_ppm * elapsed + (self.drift_after_ppm - self.drift_ppm) * late)


@dataclass(frozen=True, kw_only=True)
class _Solution:
    log_likelihood: float
    parameters: np.ndarray
    covariance: np.ndarray
    wander_s: float
    change_s: float


def fit_clock(at_s: np.ndarray, lag_s: np.ndarray, span_s: tuple[float, float]) -> ClockFit | None:
    """Fit lags (N,) seen at times (N,) of the other clock within `span_s`; None with fewer than four usable bins."""
    centre_s, median_s, white_s, bins = _binned(at_s, lag_s, span_s)
    if centre_s.size < 4:
        return None
    keep = _follows_a_clock(centre_s, median_s)
    if keep.sum() < 4:
        return None
    outlying = 1.0 - keep.mean()
    start_s = span_s[0]
    t_s, y_s, noise_s = centre_s[keep] - start_s, median_s[keep], white_s[keep]
    found = _most_likely(t_s, y_s, noise_s, span_s[1] - start_s)
    design = _design(np.linspace(0.0, span_s[1] - start_s, 50), found.change_s)
    lag_std = np.sqrt(np.einsum("ij,jk,ik->i", design, found.covariance, design)).max()
    slopes = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]])[: 1 + np.isfinite(found.change_s), : design.shape[1]]
    drift = 1e6 * slopes @ found.parameters
    return ClockFit(
        at_s=start_s,
        lag_s=float(found.parameters[0]),
        drift_ppm=float(drift[0]),
        change_s=start_s + found.change_s,
        drift_after_ppm=float(drift[-1]),
        lag_std_s=float(lag_std),
        drift_std_ppm=float(1e6 * np.sqrt(np.einsum("ij,jk,ik->i", slopes, found.covariance, slopes)).max()),
        wander_s=found.wander_s,
        outlying_fraction=float(outlying),
        covered_fraction=centre_s.size / bins,
    )


def _binned(
    at_s: np.ndarray, lag_s: np.ndarray, span_s: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Mean time, median lag and its white-noise deviation of each bin with enough beats; number of all bins."""
    length_s = span_s[1] - span_s[0]
    bins = int(np.clip(length_s / _SHORTEST_BIN_S, 1, _BINS))
    index = np.clip(((at_s - span_s[0]) / length_s * bins).astype(int), 0, bins - 1)
    members = [np.flatnonzero(index == b) for b in range(bins)]
    members = [m for m in members if m.size >= _FEWEST_IN_BIN]
    if not members:
        return np.zeros(0), np.zeros(0), np.zeros(0), bins
    centre_s = np.array([at_s[m].mean() for m in members])
    median_s = np.array([np.median(lag_s[m]) for m in members])
    deviation = np.median(np.concatenate([np.abs(lag_s[m] - np.median(lag_s[m])) for m in members])) * 1.48 + 1e-3
    return centre_s, median_s, 1.25 * deviation / np.sqrt([m.size for m in members]), bins


def _follows_a_clock(t_s: np.ndarray, lag_s: np.ndarray) -> np.ndarray:
    """False for bins off the best broken line in the sense of least absolute values."""
    residual = lag_s - _least_absolute(t_s, lag_s)
    return np.abs(residual) <= max(_OUTLYING_S, 5 * 1.48 * float(np.median(np.abs(residual))))


def _least_absolute(t_s: np.ndarray, lag_s: np.ndarray) -> np.ndarray:
    """The broken line with the least sum of absolute residuals, by reweighted least squares over a few knots."""
    start, length = t_s[0], t_s[-1] - t_s[0]
    best, best_cost = lag_s, np.inf
    for change in [np.inf, *np.linspace(0.15, 0.85, 8) * length]:
        design = _design(t_s - start, change)
        weight = np.ones(t_s.size)
        for _ in range(15):
            fitted = design @ np.linalg.lstsq(design * weight[:, None], lag_s * weight, rcond=None)[0]
            weight = 1.0 / np.sqrt(np.maximum(np.abs(lag_s - fitted), 1e-3))
        cost = np.abs(lag_s - fitted).sum()
        if cost < best_cost:
            best, best_cost = fitted, cost
    return best


def _design(t_s: np.ndarray, change_s: float) -> np.ndarray:
    columns = [np.ones_like(t_s), t_s]
    if np.isfinite(change_s):
        columns.append(np.maximum(t_s - change_s, 0.0))
    return np.stack(columns, axis=1)


def _most_likely(t_s: np.ndarray, y_s: np.ndarray, noise_s: np.ndarray, span_s: float) -> _Solution:
    inside = np.linspace(_CHANGE_MARGIN, 1 - _CHANGE_MARGIN, 81) * span_s
    inside = inside[(inside > t_s[1]) & (inside < t_s[-2])] if t_s.size >= 8 else inside[:0]
    whites = [(_whitening(t_s, noise_s, wander_s), float(wander_s)) for wander_s in _WANDER_S]
    straight = np.array([np.inf])
    line = max((_solve(t_s, y_s, *white, straight) for white in whites), key=lambda found: found.log_likelihood)
    if inside.size == 0:
        return line
    broken = max((_solve(t_s, y_s, *white, inside) for white in whites), key=lambda found: found.log_likelihood)
    return _mixture(line, broken)


def _mixture(line: _Solution, broken: _Solution) -> _Solution:
    """The mean of both, weighted by how likely they are: a doubtful change is taken by half, and told uncertain."""
    gain = broken.log_likelihood - line.log_likelihood - _CHANGE_COST
    weight = 1.0 / (1.0 + np.exp(-np.clip(gain, -50.0, 50.0)))
    if weight < _NEGLIGIBLE:
        return line
    straight = np.append(line.parameters, 0.0)
    apart = broken.parameters - straight
    covariance = weight * broken.covariance + weight * (1 - weight) * np.outer(apart, apart)
    covariance[:2, :2] += (1 - weight) * line.covariance
    return _Solution(
        log_likelihood=broken.log_likelihood,
        parameters=straight + weight * apart,
        covariance=covariance,
        wander_s=broken.wander_s,
        change_s=broken.change_s,
    )


def _whitening(t_s: np.ndarray, noise_s: np.ndarray, wander_s: float) -> np.ndarray:
    """Inverse Cholesky factor (N, N) of the covariance of the bins."""
    apart = np.abs(t_s[:, None] - t_s[None, :])
    return np.linalg.inv(np.linalg.cholesky(wander_s**2 * np.exp(-apart / _WANDER_TIME_S) + np.diag(noise_s**2)))


def _solve(t_s: np.ndarray, y_s: np.ndarray, white: np.ndarray, wander_s: float, change_s: np.ndarray) -> _Solution:
    """Generalised least squares with each place of the change (K,); the most likely of them."""
    design_KNP = white @ np.stack([_design(t_s, change) for change in change_s])
    inverse_KPP = np.linalg.inv(design_KNP.transpose(0, 2, 1) @ design_KNP)
    y = white @ y_s
    parameters_KP = np.einsum("kpq,knq,n->kp", inverse_KPP, design_KNP, y, optimize=True)
    residual_KN = y - np.einsum("knp,kp->kn", design_KNP, parameters_KP)
    likelihood_K = np.log(np.diag(white)).sum() - 0.5 * (residual_KN**2).sum(axis=1)
    best = int(likelihood_K.argmax())
    return _Solution(
        log_likelihood=float(likelihood_K[best]) - 0.5 * (np.log(wander_s / _USUAL_WANDER_S) / _WANDER_SCATTER) ** 2,
        parameters=parameters_KP[best],
        covariance=inverse_KPP[best],
        wander_s=wander_s,
        change_s=float(change_s[best]),
    )
