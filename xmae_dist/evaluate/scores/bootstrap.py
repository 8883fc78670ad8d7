"""Intervals by resampling subjects, wide enough for folds that train on one another.

A person's windows are not independent, so the unit that is drawn with replacement is the subject. Draws depend only on
(seed, task, number of subjects), never on the encoder: two encoders of one task share them, so their difference is
paired.

Resampling fixed out-of-fold predictions is still too narrow: each fold's subjects train the models of the other folds,
so fold scores are correlated (Bengio & Grandvalet 2004; Bates, Hastie & Tibshirani 2023), and with labels that carry
no signal the true variance is about twice the naive one. For each draw the metric is therefore moved in two ways: T,
the drawn subjects weigh in testing, and U, the first-order effect of their weighing in training. Under no signal
E cov(T, U) equals the missing covariance between folds, and it vanishes where the probe is at its optimum, so the
percentile interval is stretched about the estimate by sqrt(1 + max(0, cov(T, U)) / var(T)).

Legend: N units, S subjects, R replicates, Q replicates used for U (Q <= R).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from xmae_dist.core.seeds import generator
from xmae_dist.evaluate.scores.metrics import METRICS

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Out-of-fold predictions of one fit: subject_N, truth y_N, pred_NC (one column unless multiclass), fold_N."""

    subject_N: NDArray[np.str_]
    y_N: Floats
    pred_NC: Floats
    fold_N: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value, its standard error and 95 % interval, and a two-sided normal p-value against `null` (NaN without)."""

    value: float
    low: float
    high: float
    se: float = float("nan")
    p_value: float = float("nan")

    def excludes(self, null: float) -> bool:
        return bool(self.low > null or self.high < null)


def draws(n_subjects: int, n_replicates: int, *parts: int | str) -> Floats:
    """(R, S) how often each subject is drawn; every row sums to S. Seeded by `parts`."""
    rng = generator("bootstrap", *parts)
    return rng.multinomial(n_subjects, np.full(n_subjects, 1.0 / n_subjects), size=n_replicates).astype(float)


def replicates(metric: str, p: Predictions, draws_RS: Floats) -> Floats:
    """Metric value of each replicate, (R,); rows of `draws_RS` follow the sorted unique subjects.

    Those of a metric that is higher in draws than in whole samples are moved to where the metric itself is.
    """
    code_N = np.unique(p.subject_N, return_inverse=True)[1]
    found_R = METRICS[metric].score(p.y_N, p.pred_NC, p.fold_N, draws_RS, code_N)
    if METRICS[metric].draws_are_biased and np.isfinite(found_R).any():
        found_R = found_R + (point(metric, p) - np.nanmean(found_R))
    return found_R


def point(metric: str, p: Predictions) -> float:
    return METRICS[metric].value(p.y_N, p.pred_NC, p.fold_N)


def training_effect(
    metric: str, retrained: Callable[[Floats], Iterator[Predictions]], draws_QS: Floats, step: float = 0.25
) -> Floats:
    """U_Q: slope of the metric as subjects weigh more or less in training, by a central difference along each draw.

    `retrained(draws_QS)` gives, for each draw, predictions had each subject counted so many times. A full step would
    let the perturbation swamp a null probe's weights, which are themselves noise.
    """
    more_Q, less_Q = (
        np.array([point(metric, p) for p in retrained(1 + sign * step * (draws_QS - 1))]) for sign in (1, -1)
    )
    return (more_Q - less_Q) / (2 * step)


def interval(
    value: float,
    test_R: Floats,
    factor: float = 1.0,
    *,
    level: float = 0.95,
    null: float | None = None,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Percentile interval of `test_R`, stretched about `value` by `factor` and cut to `bounds`."""
    finite_R = test_R[np.isfinite(test_R)]
    if len(finite_R) < 2:
        return Interval(value=value, low=float("nan"), high=float("nan"))
    low, high = np.quantile(finite_R, [(1 - level) / 2, (1 + level) / 2])
    low, high = np.clip([value + factor * (low - value), value + factor * (high - value)], *bounds)
    se = float(finite_R.std(ddof=1)) * factor
    p_value = float("nan")
    if null is not None and se > 0:
        p_value = float(2 * ndtr(-abs(value - null) / se))
    return Interval(value=value, low=float(low), high=float(high), se=se, p_value=p_value)


def stretch(test_R: Floats, train_Q: Floats) -> float:
    """sqrt(1 + max(0, cov(T, U)) / var(T)) over the Q draws that both were moved by."""
    test_Q = test_R[: len(train_Q)]
    both_Q = np.isfinite(test_Q) & np.isfinite(train_Q)
    if both_Q.sum() < 2 or not test_Q[both_Q].std() > 0:
        return 1.0
    covariance = np.cov(test_Q[both_Q], train_Q[both_Q])
    return float(np.sqrt(1.0 + max(0.0, covariance[0, 1]) / covariance[0, 0]))


def score_interval(metric: str, p: Predictions, draws_RS: Floats, factor: float = 1.0) -> Interval:
    """Value and interval of a metric. The stretch of the headline metric serves for the others of a fit too."""
    return interval(point(metric, p), replicates(metric, p, draws_RS), factor, bounds=METRICS[metric].bounds)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Predictions of one encoder with the training effect of its headline metric."""

    predictions: Predictions
    train_Q: Floats


def paired_difference(metric: str, a: Scored, b: Scored, draws_RS: Floats) -> Interval:
    """Score of `a` minus score of `b` on the same units and draws, oriented so that positive means `a` is better."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    test_R = sign * (replicates(metric, a.predictions, draws_RS) - replicates(metric, b.predictions, draws_RS))
    value = sign * (point(metric, a.predictions) - point(metric, b.predictions))
    return interval(value, test_R, stretch(test_R, sign * (a.train_Q - b.train_Q)), null=0.0)


def holm(p_values: Floats) -> Floats:
    """Holm's step-down adjusted p-values (family-wise error), NaN left as it is. Holm 1979."""
    adjusted = np.full(len(p_values), np.nan)
    finite = np.flatnonzero(np.isfinite(p_values))
    order = finite[np.argsort(p_values[finite])]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(order) else []
    return adjusted
