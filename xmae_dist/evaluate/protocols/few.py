"""Few-label curves: the linear probe when only some people of each training side have labels.

The people who are labelled come in a random order, the same for every encoder, so that 20 labelled people include the
10. The penalty is chosen among them, by person. Every repetition draws another order; repetitions are scored together,
each with folds of its own, and a subject's weight counts in all of them. Legend: N units, S subjects, R repetitions.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.seeds import generator
from xmae_dist.evaluate.protocols.influence import Influence
from xmae_dist.evaluate.protocols.probe import Fit, Floats, Ints, ProbeConfig, respond, select_and_solve, targets
from xmae_dist.evaluate.scores.bootstrap import Predictions
from xmae_dist.evaluate.scores.folds import check_folds

INNER_FOLDS = 4


@dataclass(frozen=True, kw_only=True)
class FewConfig:
    """Numbers of labelled people on the curve, and repetitions with other people."""

    subjects: tuple[int, ...] = (5, 10, 20, 40, 80)
    repeats: int = 3


def usable_sizes(config: FewConfig, fold_N: Ints, subject_N: NDArray[np.str_], y_N: Floats, kind: str) -> list[int]:
    """Points of the curve that leave a training person unlabelled and can hold every class."""
    smallest = min(len(np.unique(subject_N[fold_N != k])) for k in np.unique(fold_N))
    fewest = 2 if kind == "regression" else len(np.unique(y_N))
    return [n for n in config.subjects if max(fewest, INNER_FOLDS) <= n < smallest]


def few_fit(
    x_NE: Floats,
    y_N: Floats,
    subject_N: NDArray[np.str_],
    fold_N: Ints,
    *,
    kind: str,
    n_subjects: int,
    repeats: int,
    config: ProbeConfig,
    seed: int,
    task: str,
) -> Fit:
    """Predictions of all repetitions, one after another (R * N). Raises InputError as `cross_fit`."""
    check_folds(subject_N, y_N, fold_N, kind=kind, task=task)
    target_NC = targets(kind, y_N)
    code_N = np.unique(subject_N, return_inverse=True)[1]
    n_units, folds = len(y_N), np.unique(fold_N)
    linear_NC = np.zeros((repeats * n_units, target_NC.shape[1]))
    influence: list[Influence] = []
    penalties = {}
    for repeat in range(repeats):
        order_S = _labelled_first(code_N, y_N, kind, generator("few", seed, task, repeat))
        for fold in folds:
            chosen = _people(order_S, code_N, y_N, fold_N != fold, kind, n_subjects)
            train = np.flatnonzero(np.isin(code_N, chosen))
            inner = np.argsort(chosen)[np.searchsorted(np.sort(chosen), code_N[train])] % INNER_FOLDS
            path = select_and_solve(x_NE[train], y_N[train], target_NC[train], inner, kind, config)
            test = np.flatnonzero(fold_N == fold)
            linear_NC[repeat * n_units + test] = path(x_NE[test])[-1]
            found = path.influence(x_NE[train], target_NC[train], code_N[train], code_N.max() + 1, x_NE, test)
            influence += [replace(one, units_T=repeat * n_units + test) for one in found]
            penalties[repeat * len(folds) + int(fold)] = path.penalties[-1]
    fold_of_row = np.concatenate([fold_N + repeat * (fold_N.max() + 1) for repeat in range(repeats)])
    return Fit(
        predictions=Predictions(
            subject_N=np.tile(subject_N, repeats),
            y_N=np.tile(y_N, repeats),
            pred_NC=respond(kind, linear_NC),
            fold_N=fold_of_row,
        ),
        linear_NC=linear_NC,
        influence=tuple(influence),
        kind=kind,
        penalty_of_fold=penalties,
        n_fits=len(penalties) * (INNER_FOLDS * len(config.penalties) + 1) * target_NC.shape[1],
        unit_N=np.tile(np.arange(n_units), repeats),
    )


def _labelled_first(code_N: Ints, y_N: Floats, kind: str, rng: np.random.Generator) -> Ints:
    """A random order of the people in which classes (by a person's most frequent one) keep their proportions."""
    n_people = int(code_N.max()) + 1
    shuffled_S = rng.permutation(n_people)
    if kind == "regression":
        return shuffled_S
    counts_SC = np.zeros((n_people, int(y_N.max()) + 1))
    np.add.at(counts_SC, (code_N, y_N.astype(int)), 1)
    class_S = counts_SC.argmax(axis=1)[shuffled_S]
    place_S = np.empty(n_people)
    for value in np.unique(class_S):
        members = np.flatnonzero(class_S == value)
        place_S[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.asarray(shuffled_S[np.argsort(place_S, kind="stable")])


def _people(order_S: Ints, code_N: Ints, y_N: Floats, train_N: NDArray[np.bool_], kind: str, n: int) -> Ints:
    """The first `n` people of the training side; where they lack a class, the last give way to the next who have it."""
    ordered = order_S[np.isin(order_S, code_N[train_N])]
    chosen = list(ordered[:n])
    if kind == "regression":
        return np.array(chosen)
    for i, value in enumerate(np.unique(y_N[train_N])):
        have = np.unique(code_N[train_N & (y_N == value)])
        if not np.isin(chosen, have).any():
            chosen[n - 1 - i] = next(s for s in ordered if s in set(have.tolist()))
    return np.array(chosen)
