"""Probes trained under one condition and tested under others: another device or site, or spoilt windows.

A condition is a set of units with their embeddings. Subjects are dealt to folds once, over all conditions of a task;
the probe of (trained, fold) sees the trained condition's subjects outside the fold, and predicts every condition's
subjects inside it. So the cells of a row come from the same models, the home cell is no better off than the others,
and a person who wears two devices is never on both sides. Intervals resample the tested subjects; the training set is
taken as it is.

Legend: N units of a condition, S its subjects.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.evaluate.examples import Examples
from xmae_dist.evaluate.pooling import Embedded
from xmae_dist.evaluate.protocols.influence import Influence
from xmae_dist.evaluate.protocols.probe import Fit, Path, fold_models, respond, targets
from xmae_dist.evaluate.results import Result, request_id
from xmae_dist.evaluate.run import EvaluateConfig, FitRequest, draws_of, scored
from xmae_dist.evaluate.scores import bootstrap, metrics
from xmae_dist.evaluate.scores.folds import check_folds, subject_folds
from xmae_dist.evaluate.tasks import Task

PROTOCOL = "transfer/v1"
MIN_SUBJECTS = 6
CLEAN = "clean"
# What of an evaluation's configuration decides a cell's numbers.
CONFIG = ("seed", "n_replicates", "n_train_replicates", "max_windows_per_subject", "probe")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a matrix: `result` of probes trained under `trained` and tested under `tested`.

    `axis` is what the conditions differ in: a column such as `cohort`, or `degradation`.
    """

    axis: str
    trained: str
    tested: str
    result: Result


@dataclass(frozen=True, kw_only=True)
class RowRequest:
    """One row of a matrix: everything a node needs beside the units and embeddings of the conditions."""

    request: str
    axis: str
    trained: str
    suite: str
    suite_title: str
    task: Task
    encoder: EncoderSpec
    store: str
    config: EvaluateConfig


def conditions_of(task: Task, axis: str, found: Mapping[str, Examples]) -> dict[str, Examples]:
    """Of the units of `task` by value of `axis` (`gathering.gathered_by`) those of the conditions that can be used.

    Conditions with fewer than `MIN_SUBJECTS` subjects, or without every class, are left out. Raises InputError where
    fewer than two are left.
    """
    every_class = {value for units in found.values() for value in np.unique(units.y_N).tolist()}
    usable = {name: unit for name, unit in found.items() if _testable(task, unit, every_class)}
    if len(usable) < 2:
        raise InputError(
            f"task {task.name}: conditions by {axis!r}",
            value=f"{len(usable)} of {len(found)} with {MIN_SUBJECTS} subjects and every class",
            expected="at least two",
            fix="choose another column for --transfer-by, or leave the task out with --tasks",
        )
    return usable


def _testable(task: Task, units: Examples, every_class: set[float]) -> bool:
    if len(np.unique(units.subject_N)) < MIN_SUBJECTS:
        return False
    return len(np.unique(units.y_N)) > 1 and (task.kind == "regression" or set(np.unique(units.y_N)) == every_class)


def folds_of_conditions(
    task: Task, conditions: Mapping[str, Examples], config: EvaluateConfig
) -> dict[str, NDArray[np.int64]]:
    """Outer fold of each unit, per condition; a subject has one fold in all. Raises InputError (see `folds`)."""
    subject = np.concatenate([units.subject_N for units in conditions.values()])
    y = np.concatenate([units.y_N for units in conditions.values()])
    fold = subject_folds(subject, y, kind=task.kind, n_folds=config.probe.n_folds, seed=config.seed, task=task.name)
    folds = dict(
        zip(conditions, np.split(fold, np.cumsum([len(u.y_N) for u in conditions.values()])[:-1]), strict=True)
    )
    for name, units in conditions.items():
        check_folds(units.subject_N, units.y_N, folds[name], kind=task.kind, task=f"{task.name} in {name}")
    return folds


def row_request(axis: str, trained: str, request: RowRequest, conditions: Mapping[str, Examples]) -> RowRequest:
    """`request` with its id: the digest of all that decides the row's numbers."""
    identity = request_id(
        protocol=PROTOCOL,
        axis=axis,
        trained=trained,
        tested={name: sha256_hex("\n".join(units.name_N).encode()) for name, units in conditions.items()},
        encoder=request.encoder.identity,
        task=request.task.identity(),
        store=request.store,
        config={name: dataclasses.asdict(request.config)[name] for name in CONFIG},
        **metrics.revision_of(request.task.kind),
    )
    return dataclasses.replace(request, request=identity, axis=axis, trained=trained)


def fit_row(request: RowRequest, conditions: Mapping[str, Examples], embedded: Mapping[str, Embedded]) -> list[Cell]:
    """Train under `request.trained`, test under each condition; `embedded` are the windows of each condition."""
    task, config = request.task, request.config
    folds = folds_of_conditions(task, conditions, config)
    trained = conditions[request.trained]
    x_NE = trained.features(embedded[request.trained])
    models = fold_models(x_NE, trained.y_N, folds[request.trained], kind=task.kind, config=config.probe)
    target_NC = targets(task.kind, trained.y_N)
    cells = []
    for name, tested in conditions.items():
        started_s = time.monotonic()
        fit = _tested(task.kind, models, (trained, x_NE, target_NC, folds[request.trained]),
                      (tested, tested.features(embedded[name]), folds[name]))  # fmt: skip
        result = _result(request, tested, fit, started_s)
        cells.append(Cell(axis=request.axis, trained=request.trained, tested=name, result=result))
    return cells


def _tested(
    kind: str,
    models: Mapping[int, Path],
    trained: tuple[Examples, NDArray, NDArray, NDArray],
    tested: tuple[Examples, NDArray, NDArray],
) -> Fit:
    """Predictions of `tested` by the model of each unit's fold, and how its subjects moved them by being trained on."""
    units, x_TE, fold_T = tested
    seen, x_NE, target_NC, fold_N = trained
    subject_S = np.unique(units.subject_N)
    # Subjects that are not tested have no share in the covariance of the two; one code stands for all of them.
    code_N = np.where(np.isin(seen.subject_N, subject_S), np.searchsorted(subject_S, seen.subject_N), len(subject_S))
    linear_TC = np.zeros((len(units.y_N), target_NC.shape[1]))
    influence: list[Influence] = []
    for fold, path in models.items():
        train_N, test_T = fold_N != fold, fold_T == fold
        linear_TC[test_T] = path(x_TE[test_T])[-1]
        if (code_N < len(subject_S)).any():
            found = path.influence(
                x_NE[train_N], target_NC[train_N], code_N[train_N], len(subject_S) + 1, x_TE, np.flatnonzero(test_T)
            )
            influence += [one.of_first(len(subject_S)) for one in found]
    predictions = bootstrap.Predictions(
        subject_N=units.subject_N, y_N=units.y_N, pred_NC=respond(kind, linear_TC), fold_N=fold_T
    )
    return Fit(
        predictions=predictions,
        linear_NC=linear_TC,
        influence=tuple(influence),
        kind=kind,
        penalty_of_fold={fold: path.penalties[-1] for fold, path in models.items()},
        n_fits=len(models) * target_NC.shape[1],
    )


def _result(request: RowRequest, tested: Examples, fit: Fit, started_s: float) -> Result:
    names = ("request", "suite", "suite_title", "task", "encoder", "store", "config")
    return scored(FitRequest(**{name: getattr(request, name) for name in names}), tested, fit, started_s)


def lost(cell: Cell, home: Cell) -> bootstrap.Interval:
    """Score of `cell` minus that of `home`, which was tested on the same units: negative is what the change costs."""
    result = home.result
    draws_RS = draws_of(result.task, result.n_subjects, result.seed, result.n_replicates)
    return bootstrap.paired_difference(result.task.metric, cell.result.scored, home.result.scored, draws_RS)
