"""Scores of predictions under case weights, for many weightings at once.

A bootstrap replicate is a vector of integer weights, so every metric here takes a whole matrix of them and costs a
few passes over it; no replicate ever copies predictions. Legend: N predictions, R replicates, C classes.

Ranking metrics compare only predictions of one fold: each fold has a model of its own, and pooling scores of
several models biases the pooled AUROC below one half when labels carry no signal (a fold with more positives
is scored by a model that saw fewer; Forman & Scholz 2010).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """`score(y_N, pred_NC, fold_N, weight_RN) -> value_R`; NaN where a replicate leaves it undefined."""

    title: str
    kinds: tuple[str, ...]
    higher_is_better: bool
    score: Callable[[Floats, Floats, Ints, Floats], Floats]
    chance: float | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    ranks_within_fold: bool = False


def auroc(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RN: Floats) -> Floats:
    """Probability that a positive outranks a negative of the same fold; ties count one half."""
    return _ranked_pairs(y_N > 0, pred_NC[:, -1], fold_N, weight_RN)


def _ranked_pairs(positive_N: NDArray[np.bool_], score_N: Floats, fold_N: Ints, weight_RN: Floats) -> Floats:
    order_N = np.lexsort((score_N, fold_N))
    fold, score = fold_N[order_N], score_N[order_N]
    starts_tie = np.flatnonzero(np.r_[True, (np.diff(fold) != 0) | (np.diff(score) != 0)])
    fold_of_tie = fold[starts_tie]
    weight = weight_RN[:, order_N]
    pos = np.add.reduceat(weight * positive_N[order_N], starts_tie, axis=1)
    neg = np.add.reduceat(weight * ~positive_N[order_N], starts_tie, axis=1)
    starts_fold = np.flatnonzero(np.r_[True, np.diff(fold_of_tie) != 0])
    neg_fold = np.add.reduceat(neg, starts_fold, axis=1)
    pos_fold = np.add.reduceat(pos, starts_fold, axis=1)
    before_fold = np.cumsum(neg_fold, axis=1) - neg_fold
    tie_to_fold = np.searchsorted(starts_fold, np.arange(len(starts_tie)), side="right") - 1
    below = np.cumsum(neg, axis=1) - neg - before_fold[:, tie_to_fold]
    wins = np.sum(pos * (below + 0.5 * neg), axis=1)
    return _ratio(wins, np.sum(pos_fold * neg_fold, axis=1))


def macro_auroc(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RN: Floats) -> Floats:
    """Mean over classes of the one-against-rest AUROC; classes absent from a replicate are left out of its mean."""
    per_class = [_ranked_pairs(y_N == c, pred_NC[:, c], fold_N, weight_RN) for c in range(pred_NC.shape[1])]
    stack_CR = np.stack(per_class)
    return _ratio(np.nansum(stack_CR, axis=0), np.sum(np.isfinite(stack_CR), axis=0))


def auprc(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RN: Floats) -> Floats:
    """Average precision: sum over thresholds of precision times the gain in recall (no interpolation)."""
    order_N = np.argsort(-pred_NC[:, -1], kind="stable")
    score = pred_NC[order_N, -1]
    ends_tie = np.r_[np.flatnonzero(np.diff(score) != 0), len(score) - 1]
    weight = weight_RN[:, order_N]
    hits = np.cumsum(weight * (y_N[order_N] > 0), axis=1)[:, ends_tie]
    seen = np.cumsum(weight, axis=1)[:, ends_tie]
    gain = np.diff(hits, axis=1, prepend=0.0)
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    return _ratio(np.sum(precision * gain, axis=1), hits[:, -1])


def _confusion(y_N: Floats, pred_NC: Floats, weight_RN: Floats) -> Floats:
    """(R, C, C) weighted counts [true, predicted]; binary predictions are probabilities cut at one half."""
    two = pred_NC.shape[1] == 1
    guess_N = (pred_NC[:, 0] >= 0.5).astype(int) if two else np.argmax(pred_NC, axis=1)
    n_classes = 2 if two else pred_NC.shape[1]
    cell_N = y_N.astype(int) * n_classes + guess_N
    cells = np.stack([weight_RN @ (cell_N == cell).astype(float) for cell in range(n_classes**2)], axis=1)
    return cells.reshape(-1, n_classes, n_classes)


def balanced_accuracy(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RN: Floats) -> Floats:
    """Mean recall over the classes that a replicate holds."""
    counts = _confusion(y_N, pred_NC, weight_RN)
    recall_RC = _ratio(np.einsum("rcc->rc", counts), counts.sum(axis=2))
    return _ratio(np.nansum(recall_RC, axis=1), np.sum(np.isfinite(recall_RC), axis=1))


def f1(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RN: Floats) -> Floats:
    """F1 of the positive class (binary) or its unweighted mean over classes (multiclass)."""
    counts = _confusion(y_N, pred_NC, weight_RN)
    hit_RC = np.einsum("rcc->rc", counts)
    f1_RC = _ratio(2 * hit_RC, counts.sum(axis=1) + counts.sum(axis=2))
    return f1_RC[:, 1] if pred_NC.shape[1] == 1 else np.asarray(np.nanmean(f1_RC, axis=1))


def kappa(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RN: Floats) -> Floats:
    """Cohen's kappa: agreement beyond what the margins give by chance."""
    counts = _confusion(y_N, pred_NC, weight_RN)
    total = counts.sum(axis=(1, 2))
    agree = _ratio(np.einsum("rcc->r", counts), total)
    chance = _ratio(np.sum(counts.sum(axis=1) * counts.sum(axis=2), axis=1), total**2)
    return _ratio(agree - chance, 1.0 - chance)


def brier(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RN: Floats) -> Floats:
    """Mean squared error of the probability."""
    return _ratio(weight_RN @ (y_N - pred_NC[:, -1]) ** 2, weight_RN.sum(axis=1))


def mae(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RN: Floats) -> Floats:
    """Mean absolute error, in the label's unit."""
    return _ratio(weight_RN @ np.abs(y_N - pred_NC[:, 0]), weight_RN.sum(axis=1))


def r2(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RN: Floats) -> Floats:
    """Share of variance explained about the replicate's own mean; negative when worse than that mean."""
    total = weight_RN.sum(axis=1)
    mean = _ratio(weight_RN @ y_N, total)
    spread = weight_RN @ y_N**2 - total * mean**2
    return 1.0 - _ratio(weight_RN @ (y_N - pred_NC[:, 0]) ** 2, spread)


def pearson(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RN: Floats) -> Floats:
    """Correlation of prediction and truth."""
    p_N = pred_NC[:, 0] - pred_NC[:, 0].mean()
    t_N = y_N - y_N.mean()
    total = weight_RN.sum(axis=1)
    mean_p, mean_t = _ratio(weight_RN @ p_N, total), _ratio(weight_RN @ t_N, total)
    cov = _ratio(weight_RN @ (p_N * t_N), total) - mean_p * mean_t
    var_p = _ratio(weight_RN @ p_N**2, total) - mean_p**2
    var_t = _ratio(weight_RN @ t_N**2, total) - mean_t**2
    return _ratio(cov, np.sqrt(np.maximum(var_p, 0.0) * np.maximum(var_t, 0.0)))


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom, NaN where bottom is zero."""
    top, bottom = np.broadcast_arrays(np.asarray(top, float), np.asarray(bottom, float))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


METRICS: dict[str, Metric] = {
    "auroc": Metric(
        title="AUROC", kinds=("binary",), higher_is_better=True, score=auroc, chance=0.5, ranks_within_fold=True
    ),
    "macro_auroc": Metric(
        title="macro AUROC",
        kinds=("multiclass",),
        higher_is_better=True,
        score=macro_auroc,
        chance=0.5,
        ranks_within_fold=True,
    ),
    "auprc": Metric(title="AUPRC", kinds=("binary",), higher_is_better=True, score=auprc),
    "f1": Metric(title="F1", kinds=("binary", "multiclass"), higher_is_better=True, score=f1),
    "balanced_accuracy": Metric(
        title="balanced accuracy", kinds=("binary", "multiclass"), higher_is_better=True, score=balanced_accuracy
    ),
    "kappa": Metric(
        title="Cohen's kappa",
        kinds=("binary", "multiclass"),
        higher_is_better=True,
        score=kappa,
        chance=0.0,
        bounds=(-1.0, 1.0),
    ),
    "brier": Metric(title="Brier score", kinds=("binary",), higher_is_better=False, score=brier),
    "mae": Metric(title="MAE", kinds=("regression",), higher_is_better=False, score=mae, bounds=(0.0, np.inf)),
    "r2": Metric(title="R²", kinds=("regression",), higher_is_better=True, score=r2, chance=0.0, bounds=(-np.inf, 1.0)),
    "pearson": Metric(
        title="Pearson r", kinds=("regression",), higher_is_better=True, score=pearson, chance=0.0, bounds=(-1.0, 1.0)
    ),
}


def gained(name: str) -> str:
    """How to name a positive difference in words: an error that is lower is a gain."""
    metric = METRICS[name]
    return metric.title if metric.higher_is_better else f"less {metric.title}"


def metrics_of(kind: str) -> tuple[str, ...]:
    """Every metric reported beside the headline one."""
    return tuple(name for name, metric in METRICS.items() if kind in metric.kinds)
