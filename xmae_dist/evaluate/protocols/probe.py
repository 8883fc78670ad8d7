"""Linear probes on frozen embeddings with nested subject-wise cross-validation.

The outer folds give out-of-fold predictions; the penalty of each outer fold is chosen on the other folds, left out one
at a time, so no subject ever has a say in its own prediction. Both selections reuse one partition: with K folds, the
inner fit for (test j, validate k) trains on the same subjects as (test k, validate j), so K(K-1)/2 + K training sets
suffice where a grid search per outer fold fits K(K-1) + K of them. Each training set is solved for a whole path of
penalties: ridge from fold-wise sufficient statistics and one eigendecomposition, logistic by warm-started L-BFGS.

Penalties are per training unit (`lambda * n`), on features standardised by the training set. Several classes are
one-against-rest logistic models whose probabilities are normalised. Legend: N units, S subjects, E features, F = E + 1
(intercept last), K folds, P penalties, C prediction columns.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from xmae_dist.evaluate.protocols.influence import Influence, moved
from xmae_dist.evaluate.scores.bootstrap import Predictions
from xmae_dist.evaluate.scores.folds import check_folds
from xmae_dist.evaluate.scores.metrics import sum_by

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Learned = Callable[[NDArray[np.bool_]], Floats]
"""Features of all units, (N, E), by what was learned of those units alone that are True."""
REUSE_STEPS = 12
CHUNK_CELLS = 4_000_000
SMALLEST_CURVATURE = 1e-8


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How the probe is fitted: outer folds and the grid of penalties per training unit."""

    n_folds: int = 5
    penalties: tuple[float, ...] = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
    max_steps: int = 200
    tolerance: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class Standardised:
    """A training set's mean and scale; features that do not vary get scale 1, so they stay zero."""

    mean_E: Floats
    scale_E: Floats

    @classmethod
    def of(cls, x_NE: Floats) -> "Standardised":
        scale_E = x_NE.std(axis=0)
        return cls(mean_E=x_NE.mean(axis=0), scale_E=np.where(scale_E > 1e-9, scale_E, 1.0))

    def __call__(self, x_NE: Floats) -> Floats:
        return (x_NE - self.mean_E) / self.scale_E


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Out-of-fold predictions, what training subjects did to them, the penalties chosen, and the models solved.

    `influence` is the first-order change of each unit's linear predictor when a subject (sorted unique ids) gains one
    more copy in the training sets it belongs to: what an interval needs in order to know that folds are trained on one
    another. `linear_NC` are those linear predictors.
    """

    predictions: Predictions
    linear_NC: Floats
    influence: tuple[Influence, ...]
    kind: str
    penalty_of_fold: dict[int, float]
    n_fits: int
    unit_N: Ints | None = None
    """Which unit of the task each prediction is of; None: one each, in order."""

    def retrained(self, draws_QS: Floats) -> Iterator[Predictions]:
        """Predictions had each subject counted so many times in training; the units predicted stay the same."""
        rows = max(1, CHUNK_CELLS // self.linear_NC.size)
        for i in range(0, len(draws_QS), rows):
            for moved_NC in moved(self.influence, draws_QS[i : i + rows] - 1.0, self.linear_NC.shape):
                yield replace(self.predictions, pred_NC=respond(self.kind, self.linear_NC + moved_NC))


def cross_fit(
    x_NE: Floats,
    y_N: Floats,
    subject_N: NDArray[np.str_],
    fold_N: Ints,
    *,
    kind: str,
    config: ProbeConfig,
    task: str,
) -> Fit:
    """Nested cross-validated predictions of `y_N`. Raises InputError before any fit when folds leak or lack classes."""
    x_NE = np.asarray(x_NE, float)
    return learned_fit(lambda _: x_NE, y_N, subject_N, fold_N, kind=kind, config=config, task=task)


def learned_fit(
    features: Learned,
    y_N: Floats,
    subject_N: NDArray[np.str_],
    fold_N: Ints,
    *,
    kind: str,
    config: ProbeConfig,
    task: str,
) -> Fit:
    """As `cross_fit`, on features that are themselves learned: from the training units of each fit alone.

    What resampling does to training is then told of the linear model, not of the features.
    """
    check_folds(subject_N, y_N, fold_N, kind=kind, task=task)
    target_NC = targets(kind, y_N)
    code_N = np.unique(subject_N, return_inverse=True)[1]
    linear_NC = np.zeros(target_NC.shape)
    influence: list[Influence] = []
    models: dict[int, Path] = {}
    for fold, best in _choose_penalties(features, y_N, target_NC, fold_N, kind, config).items():
        test_N = fold_N == fold
        x_NE = features(~test_N)
        path = models[fold] = _solve(x_NE[~test_N], target_NC[~test_N], kind, config, config.penalties[: best + 1])
        linear_NC[test_N] = path(x_NE[test_N])[-1]
        influence += path.influence(
            x_NE[~test_N], target_NC[~test_N], code_N[~test_N], code_N.max() + 1, x_NE, np.flatnonzero(test_N)
        )
    n_sets = len(models) * (len(models) - 1) // 2
    pred_NC = respond(kind, linear_NC)
    return Fit(
        predictions=Predictions(subject_N=subject_N, y_N=y_N, pred_NC=pred_NC, fold_N=fold_N),
        linear_NC=linear_NC,
        influence=tuple(influence),
        kind=kind,
        penalty_of_fold={fold: path.penalties[-1] for fold, path in models.items()},
        n_fits=(n_sets * len(config.penalties) + len(models)) * target_NC.shape[1],
    )


def fold_models(
    x_NE: NDArray[np.floating], y_N: Floats, fold_N: Ints, *, kind: str, config: ProbeConfig
) -> dict[int, "Path"]:
    """The model of each outer fold, fitted to the other folds with a penalty chosen among those; its last is it."""
    given_NE: Floats = np.asarray(x_NE, float)
    target_NC = targets(kind, y_N)
    return {
        fold: _solve(given_NE[fold_N != fold], target_NC[fold_N != fold], kind, config, config.penalties[: best + 1])
        for fold, best in _choose_penalties(lambda _: given_NE, y_N, target_NC, fold_N, kind, config).items()
    }


def _choose_penalties(
    features: Learned, y_N: Floats, target_NC: Floats, fold_N: Ints, kind: str, config: ProbeConfig
) -> dict[int, int]:
    """Index of the penalty with the least loss on the other folds, for each outer fold."""
    folds = [int(k) for k in np.unique(fold_N)]
    loss_KP = np.zeros((len(folds), len(config.penalties)))
    for a, b in combinations(range(len(folds)), 2):
        train_N = (fold_N != folds[a]) & (fold_N != folds[b])
        x_NE = features(train_N)
        path = _solve(x_NE[train_N], target_NC[train_N], kind, config, config.penalties)
        for test, validate in ((a, b), (b, a)):
            held_N = fold_N == folds[validate]
            loss_KP[test] += [loss(kind, y_N[held_N], respond(kind, p)) * held_N.sum() for p in path(x_NE[held_N])]
    return dict(zip(folds, loss_KP.argmin(axis=1).tolist(), strict=True))


def select_and_solve(
    x_NE: Floats, y_N: Floats, target_NC: Floats, inner_N: Ints, kind: str, config: ProbeConfig
) -> "Path":
    """The model of a training set, its penalty chosen by leaving out one inner fold at a time."""
    losses_P = np.zeros(len(config.penalties))
    for k in np.unique(inner_N):
        held_N = inner_N == k
        path = _solve(x_NE[~held_N], target_NC[~held_N], kind, config, config.penalties)
        losses_P += [loss(kind, y_N[held_N], respond(kind, p)) * held_N.sum() for p in path(x_NE[held_N])]
    return _solve(x_NE, target_NC, kind, config, config.penalties[: int(losses_P.argmin()) + 1])


@dataclass(frozen=True, kw_only=True)
class Path:
    """Linear models of one training set, one per penalty: weight_PCE and intercept_PC on standardised features."""

    kind: str
    standardise: Standardised
    penalties: tuple[float, ...]
    weight_PCE: Floats
    intercept_PC: Floats

    def __call__(self, x_NE: Floats) -> Floats:
        """Linear predictors (P, N, C)."""
        return self.standardise(x_NE) @ self.weight_PCE.transpose(0, 2, 1) + self.intercept_PC[:, None, :]

    def influence(
        self,
        train_NE: Floats,
        target_NC: Floats,
        code_N: Ints,
        n_subjects: int,
        x_NE: Floats,
        units_T: Ints,
    ) -> list[Influence]:
        """By column what one more copy of each subject in training adds to the last model's predictors of units_T.

        The features of these are rows of x_NE; code_N are the subjects of the training units.
        """
        z_NF = _with_one(self.standardise(train_NE))
        test_TF = _with_one(self.standardise(x_NE[units_T]))
        linear_NC = self(train_NE)[-1]
        found = []
        for c in range(target_NC.shape[1]):
            mean_N = _sigmoid(linear_NC[:, c]) if self.kind != "regression" else linear_NC[:, c]
            curve_N = mean_N * (1 - mean_N) if self.kind != "regression" else np.ones(len(mean_N))
            hessian_FF = _hessian(z_NF, curve_N, self.penalties[-1])
            per_subject_SF = sum_by(code_N, z_NF * (target_NC[:, c] - mean_N)[:, None], n_subjects)
            factors = (per_subject_SF / len(z_NF), _solve_positive(hessian_FF, test_TF.T))
            found.append(Influence(units_T=units_T, column=c, factors=factors))
        return found


def _solve(x_NE: Floats, target_NC: Floats, kind: str, config: ProbeConfig, penalties: tuple[float, ...]) -> Path:
    standardise = Standardised.of(x_NE)
    z_NE = standardise(x_NE)
    if kind == "regression":
        columns = [_ridge_path(z_NE, target_NC[:, 0], penalties)]
    else:
        columns = [_logistic_path(z_NE, y_N, penalties, config) for y_N in target_NC.T]
    return Path(
        kind=kind,
        standardise=standardise,
        penalties=penalties,
        weight_PCE=np.stack([weight for weight, _ in columns], axis=1),
        intercept_PC=np.stack([intercept for _, intercept in columns], axis=1),
    )


def _ridge_path(z_NE: Floats, y_N: Floats, penalties: tuple[float, ...]) -> tuple[Floats, Floats]:
    """min |y - b - z w|^2 + lambda n |w|^2 for each lambda, from one eigendecomposition of z'z (or zz' when E > N)."""
    centre = y_N.mean()
    n, n_features = z_NE.shape
    if n_features <= n:
        value, vector = np.linalg.eigh(z_NE.T @ z_NE)
        moment = vector.T @ (z_NE.T @ (y_N - centre))
        weights = [vector @ (moment / (np.maximum(value, 0.0) + lam * n)) for lam in penalties]
    else:
        value, vector = np.linalg.eigh(z_NE @ z_NE.T)
        moment = vector.T @ (y_N - centre)
        weights = [z_NE.T @ (vector @ (moment / (np.maximum(value, 0.0) + lam * n))) for lam in penalties]
    return np.stack(weights), np.full(len(penalties), centre)


def _logistic_path(
    z_NE: Floats, y_N: Floats, penalties: tuple[float, ...], config: ProbeConfig
) -> tuple[Floats, Floats]:
    """min mean(log(1 + exp(-s(b + z w)))) + lambda/2 |w|^2 for each lambda, strongest first, each from the last.

    L-BFGS in coordinates in which the curvature is about one. The curvature of the data is what costs, so it is kept
    from one penalty to the next until that takes many steps.
    """
    design_NF = _with_one(z_NE)
    rate = np.clip(y_N.mean(), 1e-6, 1 - 1e-6)
    beta_F = np.zeros(design_NF.shape[1])
    beta_F[-1] = np.log(rate / (1 - rate))
    curvature_FF: Floats | None = None
    betas = []
    for lam in penalties:
        if curvature_FF is None:
            prob_N = _sigmoid(design_NF @ beta_F)
            curvature_FF = _hessian(design_NF, prob_N * (1 - prob_N), 0.0)
        beta_F, steps = _descend(design_NF, y_N, lam, beta_F, curvature_FF, config)
        if steps > REUSE_STEPS:
            curvature_FF = None
        betas.append(beta_F)
    stack_PF = np.stack(betas)
    return stack_PF[:, :-1], stack_PF[:, -1]


def _descend(
    design_NF: Floats, y_N: Floats, lam: float, beta_F: Floats, curvature_FF: Floats, config: ProbeConfig
) -> tuple[Floats, int]:
    """The minimum and the number of steps; in these coordinates the gradient's size is the Newton decrement."""
    penalty_F = np.full(len(beta_F), lam)
    penalty_F[-1] = 0.0  # the intercept is free
    root_FF = cholesky(curvature_FF + np.diag(penalty_F + SMALLEST_CURVATURE))

    def objective(u_F: Floats) -> tuple[float, Floats]:
        beta_F = solve_triangular(root_FF, u_F, check_finite=False)
        linear_N = design_NF @ beta_F
        gradient_F = design_NF.T @ (_sigmoid(linear_N) - y_N) / len(y_N) + penalty_F * beta_F
        value = float(np.mean(np.logaddexp(0.0, linear_N) - y_N * linear_N) + 0.5 * np.sum(penalty_F * beta_F**2))
        return value, solve_triangular(root_FF, gradient_F, trans=1, check_finite=False)

    options = {"maxiter": config.max_steps, "gtol": config.tolerance, "ftol": 0.0, "maxcor": 10}
    found = minimize(objective, root_FF @ beta_F, jac=True, method="L-BFGS-B", options=options)
    return solve_triangular(root_FF, found.x), int(found.nit)


def _solve_positive(hessian_FF: Floats, right: Floats) -> Floats:
    try:
        return np.asarray(cho_solve(cho_factor(hessian_FF), right))
    except LinAlgError:  # probabilities saturated: the curvature is numerically zero in some direction
        return np.asarray(np.linalg.lstsq(hessian_FF, right, rcond=None)[0])


def _hessian(design_NF: Floats, curve_N: Floats, lam: float) -> Floats:
    """Curvature of the mean penalised loss; a trace of ridge keeps a saturated intercept solvable."""
    root_NF = design_NF * np.sqrt(curve_N / len(design_NF))[:, None]
    hessian_FF = root_NF.T @ root_NF  # one matrix with itself: half the work
    hessian_FF[np.diag_indices(len(hessian_FF) - 1)] += lam
    hessian_FF[np.diag_indices(len(hessian_FF))] += 1e-10
    return hessian_FF


def _with_one(z_NE: Floats) -> Floats:
    return np.concatenate([z_NE, np.ones((len(z_NE), 1))], axis=1)


def loss(kind: str, y_N: Floats, pred_NC: Floats) -> float:
    """Mean squared error, or log loss: proper scores, so that selection does not depend on the reported metric."""
    if kind == "regression":
        return float(np.mean((y_N - pred_NC[:, 0]) ** 2))
    if kind == "binary":
        p_N = np.clip(pred_NC[:, 0], 1e-9, 1 - 1e-9)
        return float(-np.mean(y_N * np.log(p_N) + (1 - y_N) * np.log1p(-p_N)))
    return float(-np.mean(np.log(np.clip(pred_NC[np.arange(len(y_N)), y_N.astype(int)], 1e-9, 1.0))))


def targets(kind: str, y_N: Floats) -> Floats:
    """(N, C): the label itself, or one indicator per class when there are several."""
    if kind != "multiclass":
        return y_N[:, None]
    return (y_N[:, None] == np.arange(int(y_N.max()) + 1)).astype(float)


def respond(kind: str, linear_NC: Floats) -> Floats:
    """Predictions from linear predictors: values, probabilities of the positive class, or class probabilities."""
    if kind == "regression":
        return linear_NC
    prob_NC = _sigmoid(linear_NC)
    return prob_NC if kind == "binary" else prob_NC / np.maximum(prob_NC.sum(axis=1, keepdims=True), 1e-12)


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
