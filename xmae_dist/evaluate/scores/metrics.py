"""Scores of predictions under case weights, for many weightings at once.

A bootstrap replicate is a weight for each group of predictions (a subject), so every metric takes a whole matrix of
them and first gathers what it needs by group: sums, confusion counts, pairs won. A replicate then costs as much as
there are subjects, however many windows they have. Legend: N predictions, G groups, R replicates, C classes.

Ranking metrics compare only predictions of one fold: each fold has a model of its own, and pooling scores of
several models biases the pooled AUROC below one half when labels carry no signal (a fold with more positives
is scored by a model that saw fewer; Forman & Scholz 2010). Average precision is pulled down likewise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


CALIBRATION_BINS = 10
CHUNK_CELLS = 4_000_000
Score = Callable[[Floats, Floats, Ints, Floats, Ints], Floats]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """`scores` gives a value for each replicate, NaN where a replicate leaves it undefined."""

    title: str
    kinds: tuple[str, ...]
    higher_is_better: bool
    scores: Score
    chance: float | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    ranks_within_fold: bool = False
    draws_are_biased: bool = False
    """A bootstrap draw, which holds fewer different people, scores higher on average than all of them."""

    def score(
        self, y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints | None = None
    ) -> Floats:
        """(R,): prediction n weighs `weight_RG[:, group_N[n]]`; without `group_N` each is a group of its own."""
        return self.scores(y_N, pred_NC, fold_N, weight_RG, np.arange(len(y_N)) if group_N is None else group_N)

    def value(self, y_N: Floats, pred_NC: Floats, fold_N: Ints) -> float:
        """The metric of the predictions as they are."""
        return float(self.scores(y_N, pred_NC, fold_N, np.ones((1, 1)), np.zeros(len(y_N), np.int64))[0])


def sum_by(group_N: NDArray[np.integer], x_NK: Floats, n_groups: int) -> Floats:
    """(G, K): rows of `x_NK` summed by their group."""
    order_N = np.argsort(group_N, kind="stable")
    present, first = np.unique(group_N[order_N], return_index=True)
    sums_GK = np.zeros((n_groups, *x_NK.shape[1:]))
    sums_GK[present] = np.add.reduceat(x_NK[order_N], first, axis=0)
    return sums_GK


def _sums(weight_RG: Floats, group_N: Ints, *columns: Floats) -> Floats:
    """(K, R) weighted sums of columns of length N."""
    return (weight_RG @ sum_by(group_N, np.stack(columns, axis=1), weight_RG.shape[1])).T


def auroc(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints) -> Floats:
    """Probability that a positive outranks a negative of the same fold; ties count one half."""
    return _ranked_pairs(y_N > 0, pred_NC[:, -1], fold_N, weight_RG, group_N)


def _ranked_pairs(
    positive_N: NDArray[np.bool_], score_N: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints
) -> Floats:
    """Share of pairs won, from the pairs that each group's positives win against each group's negatives."""
    won_R, pairs_R = np.zeros(len(weight_RG)), np.zeros(len(weight_RG))
    for fold in np.unique(fold_N):
        up_N, down_N = positive_N & (fold_N == fold), ~positive_N & (fold_N == fold)
        if not (up_N.any() and down_N.any()):
            continue
        up_G, up_code = np.unique(group_N[up_N], return_inverse=True)
        down_G, down_code = np.unique(group_N[down_N], return_inverse=True)
        won_GG = np.empty((len(up_G), len(down_G)))
        for j in range(len(down_G)):
            others = np.sort(score_N[down_N][down_code == j])
            beaten = np.searchsorted(others, score_N[up_N]) + np.searchsorted(others, score_N[up_N], side="right")
            won_GG[:, j] = np.bincount(up_code, weights=0.5 * beaten)
        won_R += np.sum((weight_RG[:, up_G] @ won_GG) * weight_RG[:, down_G], axis=1)
        pairs_R += (weight_RG[:, up_G] @ np.bincount(up_code)) * (weight_RG[:, down_G] @ np.bincount(down_code))
    return _ratio(won_R, pairs_R)


def macro_auroc(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints) -> Floats:
    """Mean over classes of the one-against-rest AUROC; classes absent from a replicate are left out of its mean."""
    per_class = [_ranked_pairs(y_N == c, pred_NC[:, c], fold_N, weight_RG, group_N) for c in range(pred_NC.shape[1])]
    stack_CR = np.stack(per_class)
    return _ratio(np.nansum(stack_CR, axis=0), np.sum(np.isfinite(stack_CR), axis=0))


def auprc(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints) -> Floats:
    """Average precision (no interpolation), ranked within each fold: the mean over all positives of the precision at
    their place in their own fold.
    """
    gained_R, hits_R = np.zeros(len(weight_RG)), np.zeros(len(weight_RG))
    for fold in np.unique(fold_N):
        here = np.flatnonzero(fold_N == fold)
        order_N = here[np.argsort(-pred_NC[here, -1], kind="stable")]
        score_N, positive_N = pred_NC[order_N, -1], y_N[order_N] > 0
        ends_tie = np.r_[np.flatnonzero(np.diff(score_N) != 0), len(score_N) - 1]
        rows = max(1, CHUNK_CELLS // len(order_N))
        for i in range(0, len(weight_RG), rows):
            weight_RN = weight_RG[i : i + rows][:, group_N[order_N]]
            gained, hits = _precision_gained(weight_RN, positive_N, ends_tie)
            gained_R[i : i + rows] += gained
            hits_R[i : i + rows] += hits
    return _ratio(gained_R, hits_R)


def _precision_gained(weight_RN: Floats, positive_N: NDArray[np.bool_], ends_tie: Ints) -> tuple[Floats, Floats]:
    """(sum over thresholds of precision times the positives gained, all positives) of one ranking."""
    hits = np.cumsum(weight_RN * positive_N, axis=1)[:, ends_tie]
    seen = np.cumsum(weight_RN, axis=1)[:, ends_tie]
    gain = np.diff(hits, axis=1, prepend=0.0)
    precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
    return np.sum(precision * gain, axis=1), hits[:, -1]


def _confusion(y_N: Floats, pred_NC: Floats, weight_RG: Floats, group_N: Ints) -> Floats:
    """(R, C, C) weighted counts [true, predicted]; binary predictions are probabilities cut at one half."""
    two = pred_NC.shape[1] == 1
    guess_N = (pred_NC[:, 0] >= 0.5).astype(int) if two else np.argmax(pred_NC, axis=1)
    n_classes = 2 if two else pred_NC.shape[1]
    cell_N = y_N.astype(int) * n_classes + guess_N
    n_groups = weight_RG.shape[1]
    cells_GK = np.bincount(group_N * n_classes**2 + cell_N, minlength=n_groups * n_classes**2)
    return (weight_RG @ cells_GK.reshape(n_groups, -1)).reshape(-1, n_classes, n_classes)


def balanced_accuracy(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints) -> Floats:
    """Mean recall over the classes that a replicate holds."""
    counts = _confusion(y_N, pred_NC, weight_RG, group_N)
    recall_RC = _ratio(np.einsum("rcc->rc", counts), counts.sum(axis=2))
    return _ratio(np.nansum(recall_RC, axis=1), np.sum(np.isfinite(recall_RC), axis=1))


def f1(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints) -> Floats:
    """F1 of the positive class (binary) or its unweighted mean over classes (multiclass)."""
    counts = _confusion(y_N, pred_NC, weight_RG, group_N)
    hit_RC = np.einsum("rcc->rc", counts)
    f1_RC = _ratio(2 * hit_RC, counts.sum(axis=1) + counts.sum(axis=2))
    return f1_RC[:, 1] if pred_NC.shape[1] == 1 else np.asarray(np.nanmean(f1_RC, axis=1))


def kappa(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints) -> Floats:
    """Cohen's kappa: agreement beyond what the margins give by chance."""
    counts = _confusion(y_N, pred_NC, weight_RG, group_N)
    total = counts.sum(axis=(1, 2))
    agree = _ratio(np.einsum("rcc->r", counts), total)
    chance = _ratio(np.sum(counts.sum(axis=1) * counts.sum(axis=2), axis=1), total**2)
    return _ratio(agree - chance, 1.0 - chance)


def brier(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints) -> Floats:
    """Mean squared error of the probability."""
    return _mean((y_N - pred_NC[:, -1]) ** 2, weight_RG, group_N)


def calibration_error(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints) -> Floats:
    """Mean distance of probability and frequency over ten bins, each with a tenth of all predictions (Naeini 2015)."""
    p_N = pred_NC[:, -1]
    bin_N = np.searchsorted(np.quantile(p_N, np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]), p_N, side="right")
    inside_BN = bin_N == np.arange(CALIBRATION_BINS)[:, None]
    excess_BR = _sums(weight_RG, group_N, *(inside_BN * (y_N - p_N)))
    return _ratio(np.abs(excess_BR).sum(axis=0), _sums(weight_RG, group_N, np.ones_like(y_N))[0])


def mae(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints) -> Floats:
    """Mean absolute error, in the label's unit."""
    return _mean(np.abs(y_N - pred_NC[:, 0]), weight_RG, group_N)


def r2(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints) -> Floats:
    """Share of variance explained about the replicate's own mean; negative when worse than that mean."""
    t_N = y_N - y_N.mean()
    one = np.ones_like(y_N)
    total, t, tt, miss = _sums(weight_RG, group_N, one, t_N, t_N**2, (y_N - pred_NC[:, 0]) ** 2)
    return 1.0 - _ratio(miss, tt - _ratio(t, total) * t)


def pearson(y_N: Floats, pred_NC: Floats, fold_N: Ints, weight_RG: Floats, group_N: Ints) -> Floats:
    """Correlation of prediction and truth."""
    p_N, t_N = pred_NC[:, 0] - pred_NC[:, 0].mean(), y_N - y_N.mean()
    columns = (np.ones_like(y_N), p_N, t_N, p_N * t_N, p_N**2, t_N**2)
    total, p, t, pt, pp, tt = _sums(weight_RG, group_N, *columns)
    mean_p, mean_t = _ratio(p, total), _ratio(t, total)
    var_p, var_t = _ratio(pp, total) - mean_p**2, _ratio(tt, total) - mean_t**2
    return _ratio(_ratio(pt, total) - mean_p * mean_t, np.sqrt(np.maximum(var_p, 0.0) * np.maximum(var_t, 0.0)))


def _mean(x_N: Floats, weight_RG: Floats, group_N: Ints) -> Floats:
    return _ratio(*_sums(weight_RG, group_N, x_N, np.ones_like(x_N)))


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """top / bottom, NaN where bottom is zero."""
    top, bottom = np.broadcast_arrays(np.asarray(top, float), np.asarray(bottom, float))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


METRICS: dict[str, Metric] = {
    "auroc": Metric(
        title="AUROC", kinds=("binary",), higher_is_better=True, scores=auroc, chance=0.5, ranks_within_fold=True
    ),
    "macro_auroc": Metric(
        title="macro AUROC",
        kinds=("multiclass",),
        higher_is_better=True,
        scores=macro_auroc,
        chance=0.5,
        ranks_within_fold=True,
    ),
    "auprc": Metric(
        title="AUPRC",
        kinds=("binary",),
        higher_is_better=True,
        scores=auprc,
        ranks_within_fold=True,
        draws_are_biased=True,
    ),
    "f1": Metric(title="F1", kinds=("binary", "multiclass"), higher_is_better=True, scores=f1),
    "balanced_accuracy": Metric(
        title="balanced accuracy", kinds=("binary", "multiclass"), higher_is_better=True, scores=balanced_accuracy
    ),
    "kappa": Metric(
        title="Cohen's kappa",
        kinds=("binary", "multiclass"),
        higher_is_better=True,
        scores=kappa,
        chance=0.0,
        bounds=(-1.0, 1.0),
    ),
    "brier": Metric(title="Brier score", kinds=("binary",), higher_is_better=False, scores=brier),
    "calibration_error": Metric(
        title="calibration error", kinds=("binary",), higher_is_better=False, scores=calibration_error
    ),
    "mae": Metric(title="MAE", kinds=("regression",), higher_is_better=False, scores=mae, bounds=(0.0, np.inf)),
    "r2": Metric(
        title="R²", kinds=("regression",), higher_is_better=True, scores=r2, chance=0.0, bounds=(-np.inf, 1.0)
    ),
    "pearson": Metric(
        title="Pearson r", kinds=("regression",), higher_is_better=True, scores=pearson, chance=0.0, bounds=(-1.0, 1.0)
    ),
}


def gained(name: str) -> str:
    """How to name a positive difference in words: an error that is lower is a gain."""
    metric = METRICS[name]
    return metric.title if metric.higher_is_better else f"less {metric.title}"


def revision_of(kind: str) -> dict[str, str]:
    """What names a change of how tasks of a kind are scored: part of a request, so that it asks for new results."""
    return {"scores": "auprc-within-folds/v1"} if kind == "binary" else {}


def metrics_of(kind: str) -> tuple[str, ...]:
    """Every metric reported beside the headline one."""
    return tuple(name for name, metric in METRICS.items() if kind in metric.kinds)
