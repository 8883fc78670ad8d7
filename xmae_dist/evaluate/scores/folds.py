"""Subject-disjoint folds, and the checks that must pass before anything is fitted.

Legend: N units (windows, recordings or subjects), S subjects, K folds.
"""

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.core.seeds import generator

MIN_FOLDS = 3
DEALS = 20


def subject_folds(
    subject_N: NDArray[np.str_], y_N: NDArray[np.float64], *, kind: str, n_folds: int, seed: int, task: str
) -> NDArray[np.int64]:
    """Fold of each unit, such that no subject is in two folds and labels are spread evenly over folds.

    Subjects are ordered by their mean label (ties at random, by `seed`) and dealt to folds in blocks of K, in random
    order inside a block: stratified for classes, and for the level of a regression target. Where a fold would see one
    class only, they are dealt again, from the other end. The result does not depend on the order of units. Raises
    InputError when the labels cannot support a nested cross-validation.
    """
    subjects_S, code_N = np.unique(subject_N, return_inverse=True)
    n_folds = usable_folds(code_N, y_N, kind=kind, n_folds=n_folds, task=task)
    mean_S = np.bincount(code_N, weights=y_N) / np.bincount(code_N)
    rng = generator(seed, "folds", task)
    fold_S = np.empty(len(subjects_S), np.int64)
    for deal in range(DEALS):
        order_S = np.lexsort((rng.permutation(len(subjects_S)), np.round(mean_S, 12)))[:: 1 if deal % 2 == 0 else -1]
        for start in range(0, len(subjects_S), n_folds):
            block = order_S[start : start + n_folds]
            fold_S[block] = rng.permutation(n_folds)[: len(block)]
        if kind == "regression" or not constant_folds(y_N, fold_S[code_N]):
            break
    return fold_S[code_N]


def constant_folds(y_N: NDArray[np.float64], fold_N: NDArray[np.int64]) -> list[int]:
    """Folds whose units all have one label."""
    return [int(k) for k in np.unique(fold_N) if len(np.unique(y_N[fold_N == k])) < 2]


def usable_folds(code_N: NDArray[np.int64], y_N: NDArray[np.float64], *, kind: str, n_folds: int, task: str) -> int:
    """min(n_folds, subjects holding the rarest class). Raises InputError below MIN_FOLDS, or for a constant label."""
    n_subjects = len(np.unique(code_N))
    values = np.unique(y_N)
    if len(values) < 2:
        raise InputError(
            thing=f"task {task}: label",
            value=f"{values.tolist()} in all {len(y_N)} units",
            expected="at least two different values",
            fix="drop the task or add recordings that differ",
        )
    support = n_subjects
    if kind != "regression":
        support = min(len(np.unique(code_N[y_N == value])) for value in values)
    if support < MIN_FOLDS or n_subjects < 2 * MIN_FOLDS:
        raise InputError(
            thing=f"task {task}: subjects",
            value=f"{n_subjects} in all, {support} with the rarest class",
            expected=f"at least {2 * MIN_FOLDS} and {MIN_FOLDS}, for subject-wise nested cross-validation",
            fix="add subjects, lower the threshold that defines the class, or leave the task out with --tasks",
        )
    return min(n_folds, support)


def check_disjoint(train_subjects: NDArray[np.str_], test_subjects: NDArray[np.str_], where: str) -> None:
    """Raise InputError when a subject is on both sides of a split."""
    shared = np.intersect1d(train_subjects, test_subjects)
    if len(shared):
        raise InputError(
            thing=f"{where}: subjects in train and in test",
            value=f"{len(shared)}, e.g. {shared[0]!r}",
            expected="none: windows of one person are not independent",
            fix="split by subject_id (for challenge2015: patient_proxy)",
        )


def check_folds(
    subject_N: NDArray[np.str_], y_N: NDArray[np.float64], fold_N: NDArray[np.int64], *, kind: str, task: str
) -> None:
    """Raise InputError unless each fold's subjects are its own, each training side holds every class, and no fold's
    label is constant.
    """
    if kind != "regression" and (constant := constant_folds(y_N, fold_N)):
        raise InputError(
            thing=f"task {task}, fold {constant[0]}: label",
            value=f"{y_N[fold_N == constant[0]][0]:g} in all its units",
            expected="two classes or more in every fold",
            fix="use fewer folds, or add subjects of the rarer class",
        )
    for fold in np.unique(fold_N):
        test = fold_N == fold
        check_disjoint(subject_N[~test], subject_N[test], f"task {task}, fold {fold}")
        present = np.unique(y_N[~test])
        if len(present) < 2 or (kind != "regression" and len(present) < len(np.unique(y_N))):
            raise InputError(
                thing=f"task {task}, fold {fold}: training labels",
                value=present.tolist(),
                expected=f"every class of {np.unique(y_N).tolist()[:8]}",
                fix="use fewer folds or add subjects",
            )
