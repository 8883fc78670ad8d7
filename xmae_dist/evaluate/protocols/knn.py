"""k nearest neighbours on frozen embeddings: what is near, without a model to hide behind.

Distances are Euclidean on features standardised over all units (labels play no part in that). The nearest units of
each fold are found once; any training set is a union of folds, so its neighbours are a merge of such lists, and k is
chosen for each outer fold on the others like a probe's penalty. Legend: N units, E features, K folds, S subjects, C
prediction columns, J the largest k.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from xmae_dist.evaluate.protocols.influence import Influence
from xmae_dist.evaluate.protocols.probe import Fit, Floats, Ints, Standardised, loss, targets
from xmae_dist.evaluate.scores.bootstrap import Predictions
from xmae_dist.evaluate.scores.folds import check_folds

CHUNK_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class KnnConfig:
    """The numbers of neighbours to choose from."""

    neighbours: tuple[int, ...] = (5, 15, 50)


def knn_fit(
    x_NE: Floats,
    y_N: Floats,
    subject_N: NDArray[np.str_],
    fold_N: Ints,
    *,
    kind: str,
    config: KnnConfig,
    task: str,
) -> Fit:
    """Out-of-fold means over neighbours' labels: values, or shares of each class. Raises InputError as `cross_fit`."""
    check_folds(subject_N, y_N, fold_N, kind=kind, task=task)
    target_NC = targets(kind, y_N)
    folds = [int(k) for k in np.unique(fold_N)]
    near_KNJ, gap_KNJ = _nearest_by_fold(Standardised.of(x_NE)(x_NE), fold_N, folds, max(config.neighbours))
    best = _choose_k(near_KNJ, gap_KNJ, y_N, target_NC, fold_N, folds, kind, config)
    code_N = np.unique(subject_N, return_inverse=True)[1]
    pred_NC = np.zeros(target_NC.shape)
    influence: list[Influence] = []
    for i, fold in enumerate(folds):
        test = np.flatnonzero(fold_N == fold)
        near_Tk = _merge(near_KNJ, gap_KNJ, test, [j for j in range(len(folds)) if j != i], best[fold])
        pred_NC[test] = target_NC[near_Tk].mean(axis=1)
        pull_TkC = (target_NC[near_Tk] - pred_NC[test][:, None, :]) / best[fold]
        influence += _votes(code_N[near_Tk], pull_TkC, code_N.max() + 1, test)
    return Fit(
        predictions=Predictions(subject_N=subject_N, y_N=y_N, pred_NC=pred_NC, fold_N=fold_N),
        linear_NC=pred_NC,
        influence=tuple(influence),
        kind="regression",  # votes are the prediction: nothing lies between the two
        penalty_of_fold={fold: float(k) for fold, k in best.items()},
        n_fits=len(folds),
    )


def _votes(code_Tk: Ints, pull_TkC: Floats, n_subjects: int, units_T: Ints) -> list[Influence]:
    """By column what one more copy of each subject adds, whose units are among the neighbours of units_T."""
    unit_Tk = np.broadcast_to(np.arange(len(code_Tk))[:, None], code_Tk.shape)
    places = (code_Tk.ravel(), unit_Tk.ravel())
    return [
        Influence(
            units_T=units_T,
            column=c,
            factors=(csr_array((pull_TkC[..., c].ravel(), places), shape=(n_subjects, len(code_Tk))),),
        )
        for c in range(pull_TkC.shape[2])
    ]


def _nearest_by_fold(z_NE: Floats, fold_N: Ints, folds: list[int], most: int) -> tuple[Ints, NDArray[np.float32]]:
    """Indices and squared distances of each unit's nearest in each fold, (K, N, J); infinite where there is none."""
    z_NE = z_NE.astype(np.float32)
    square_N = np.einsum("ne,ne->n", z_NE, z_NE)
    near_KNJ = np.zeros((len(folds), len(z_NE), most), np.int64)
    gap_KNJ = np.full((len(folds), len(z_NE), most), np.inf, np.float32)
    for i, fold in enumerate(folds):
        members = np.flatnonzero(fold_N == fold)
        count = min(most, len(members))
        for start in range(0, len(z_NE), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            gap_TM = square_N[rows, None] + square_N[members] - 2 * z_NE[rows] @ z_NE[members].T
            nearest = np.argpartition(gap_TM, count - 1, axis=1)[:, :count]
            near_KNJ[i, rows, :count] = members[nearest]
            gap_KNJ[i, rows, :count] = np.take_along_axis(gap_TM, nearest, axis=1)
    return near_KNJ, gap_KNJ


def _merge(near_KNJ: Ints, gap_KNJ: NDArray[np.float32], units: Ints, places: list[int], k: int) -> Ints:
    """(T, k): the nearest units of `units` in the union of the folds at `places`, the nearest first."""
    near_TM = np.concatenate([near_KNJ[j, units] for j in places], axis=1)
    gap_TM = np.concatenate([gap_KNJ[j, units] for j in places], axis=1)
    return np.take_along_axis(near_TM, np.argsort(gap_TM, axis=1, kind="stable")[:, :k], axis=1)


def _choose_k(
    near_KNJ: Ints,
    gap_KNJ: NDArray[np.float32],
    y_N: Floats,
    target_NC: Floats,
    fold_N: Ints,
    folds: list[int],
    kind: str,
    config: KnnConfig,
) -> dict[int, int]:
    """The k with the least loss on the other folds, for each outer fold."""
    chosen = {}
    for i, fold in enumerate(folds):
        smallest = min(int(np.sum((fold_N != fold) & (fold_N != other))) for other in folds if other != fold)
        usable = [k for k in config.neighbours if k <= smallest] or [smallest]
        losses = np.zeros(len(usable))
        for j in (j for j in range(len(folds)) if j != i):
            held = np.flatnonzero(fold_N == folds[j])
            near_Tk = _merge(near_KNJ, gap_KNJ, held, [m for m in range(len(folds)) if m not in (i, j)], max(usable))
            votes_TkC = np.cumsum(target_NC[near_Tk], axis=1)
            losses += [loss(kind, y_N[held], _smoothed(kind, votes_TkC[:, k - 1], k)) * len(held) for k in usable]
        chosen[fold] = usable[int(losses.argmin())]
    return chosen


def _smoothed(kind: str, votes_TC: Floats, k: int) -> Floats:
    """Mean of k votes; shares are kept off 0 and 1 (Laplace), where a log loss has no end."""
    if kind == "regression":
        return votes_TC / k
    return (votes_TC + 1.0) / (k + (2.0 if kind == "binary" else votes_TC.shape[1]))
