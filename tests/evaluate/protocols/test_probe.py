"""Folds, checks before a fit, and the probe against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from xmae_dist.core.errors import InputError
from xmae_dist.evaluate.protocols.probe import ProbeConfig, _solve, cross_fit, learned_fit, targets
from xmae_dist.evaluate.scores.folds import check_disjoint, check_folds, constant_folds, subject_folds


def people(n_subjects: int = 30, n_windows: int = 8, n_features: int = 6, seed: int = 0):
    rng = np.random.default_rng(seed)
    code_N = np.repeat(np.arange(n_subjects), n_windows)
    subject_N = np.array([f"s{i:03d}" for i in range(n_subjects)])[code_N]
    x_NE = rng.normal(size=(n_subjects, n_features))[code_N] + 0.5 * rng.normal(size=(len(code_N), n_features))
    return subject_N, x_NE, code_N, rng


def test_folds_keep_subjects_whole_and_spread_labels() -> None:
    subject_N, _, code_N, rng = people()
    y_N = (code_N % 3 == 0).astype(float)
    fold_N = subject_folds(subject_N, y_N, kind="binary", n_folds=5, seed=1, task="t")
    assert all(len(set(fold_N[subject_N == s])) == 1 for s in set(subject_N))
    positives = [len(set(subject_N[(fold_N == k) & (y_N == 1)])) for k in range(5)]
    assert positives == [2] * 5
    order = rng.permutation(len(y_N))
    shuffled = subject_folds(subject_N[order], y_N[order], kind="binary", n_folds=5, seed=1, task="t")
    np.testing.assert_array_equal(shuffled, fold_N[order])


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_a_path_equals_scikit_learn(kind: str) -> None:
    _, x_NE, _, rng = people()
    linear = x_NE @ np.array([1.0, -1, 0.5, 0, 0, 0]) + rng.normal(size=len(x_NE))
    y_N = {"regression": linear, "binary": (linear > 0).astype(float), "multiclass": np.digitize(linear, [-0.5, 0.5])}
    y_N = np.asarray(y_N[kind], float)
    config = ProbeConfig(penalties=(1.0, 1e-2), tolerance=1e-9)
    path = _solve(x_NE, targets(kind, y_N), kind, config, config.penalties)
    z_NE = StandardScaler().fit_transform(x_NE)
    for p, lam in enumerate(config.penalties):
        for c, column in enumerate(targets(kind, y_N).T):
            n = len(y_N)
            model = Ridge(alpha=lam * n) if kind == "regression" else LogisticRegression(C=1 / (lam * n), tol=1e-10)
            model.fit(z_NE, column)
            np.testing.assert_allclose(path.weight_PCE[p, c], np.ravel(model.coef_), atol=1e-5)


def test_ridge_solves_more_features_than_units() -> None:
    rng = np.random.default_rng(3)
    x_NE, y_N = rng.normal(size=(20, 50)), rng.normal(size=20)
    config = ProbeConfig(penalties=(0.1,))
    path = _solve(x_NE, y_N[:, None], "regression", config, config.penalties)
    model = Ridge(alpha=0.1 * 20).fit(StandardScaler().fit_transform(x_NE), y_N)
    np.testing.assert_allclose(path.weight_PCE[0, 0], model.coef_, atol=1e-8)


def test_predictions_equal_a_plain_nested_search() -> None:
    subject_N, x_NE, code_N, rng = people(seed=4)
    y_N = (x_NE[:, 0] + rng.normal(size=len(code_N)) > 0).astype(float)
    fold_N = subject_folds(subject_N, y_N, kind="binary", n_folds=4, seed=0, task="t")
    config = ProbeConfig(n_folds=4, tolerance=1e-9)
    fit = cross_fit(x_NE, y_N, subject_N, fold_N, kind="binary", config=config, task="t")
    for k in range(4):
        test_N = fold_N == k

        def predict(train_N: np.ndarray, held_N: np.ndarray, lam: float) -> np.ndarray:
            scale = StandardScaler().fit(x_NE[train_N])
            model = LogisticRegression(C=1 / (lam * train_N.sum()), tol=1e-10)
            model.fit(scale.transform(x_NE[train_N]), y_N[train_N])
            return model.predict_proba(scale.transform(x_NE[held_N]))[:, 1]

        losses = []
        for lam in config.penalties:
            total = 0.0
            for j in set(range(4)) - {k}:
                held_N = fold_N == j
                p = np.clip(predict(~test_N & ~held_N, held_N, lam), 1e-9, 1 - 1e-9)
                total -= np.sum(y_N[held_N] * np.log(p) + (1 - y_N[held_N]) * np.log1p(-p))
            losses.append(total)
        lam = config.penalties[int(np.argmin(losses))]
        assert fit.penalty_of_fold[k] == lam
        np.testing.assert_allclose(fit.predictions.pred_NC[test_N, 0], predict(~test_N, test_N, lam), atol=1e-5)


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_influence_is_the_derivative_of_retraining(kind: str) -> None:
    subject_N, x_NE, code_N, rng = people(n_subjects=12, seed=5)
    linear = x_NE[:, 0] + rng.normal(size=len(code_N))
    y_N = linear if kind == "regression" else (linear > 0).astype(float)
    fold_N = subject_folds(subject_N, y_N, kind=kind, n_folds=3, seed=0, task="t")
    config = ProbeConfig(n_folds=3, penalties=(0.1,), tolerance=1e-10)
    fit = cross_fit(x_NE, y_N, subject_N, fold_N, kind=kind, config=config, task="t")
    person = 4
    draw_S = np.ones(12)
    draw_S[person] = 1.01
    moved = next(fit.retrained(draw_S[None])).pred_NC[:, 0]
    for k in range(3):
        train_N = fold_N != k
        weight_N = np.where(code_N == person, 1.01, 1.0)[train_N]
        scale = StandardScaler().fit(x_NE[train_N])
        z_NE, n = scale.transform(x_NE[train_N]), train_N.sum()
        if kind == "regression":  # weights change the mean too: the fit has an intercept
            model = Ridge(alpha=0.1 * n, tol=1e-12, solver="cholesky").fit(z_NE, y_N[train_N], sample_weight=weight_N)
            exact = model.predict(scale.transform(x_NE[~train_N]))
        else:
            model = LogisticRegression(C=1 / (0.1 * n), tol=1e-12, max_iter=1000)
            model.fit(z_NE, y_N[train_N], sample_weight=weight_N)
            exact = model.predict_proba(scale.transform(x_NE[~train_N]))[:, 1]
        change = exact - fit.predictions.pred_NC[~train_N, 0]
        np.testing.assert_allclose(moved[~train_N] - fit.predictions.pred_NC[~train_N, 0], change, atol=3e-6)


def test_errors_come_before_any_fit() -> None:
    subject_N, _, code_N, _ = people(n_subjects=10)
    y_N = (code_N % 2).astype(float)
    with pytest.raises(InputError, match=r"label.*in all 80 units"):
        subject_folds(subject_N, 0 * y_N, kind="binary", n_folds=5, seed=0, task="flat")
    with pytest.raises(InputError, match="10 in all, 1 with the rarest class"):
        subject_folds(subject_N, (code_N == 0).astype(float), kind="binary", n_folds=5, seed=0, task="rare")
    with pytest.raises(InputError, match="subjects in train and in test"):
        check_folds(subject_N, y_N, np.arange(len(y_N)) % 5, kind="binary", task="leaky")
    with pytest.raises(InputError, match="'s001'"):
        check_disjoint(np.array(["s000", "s001"]), np.array(["s001"]), "transfer")
    with pytest.raises(InputError, match="fold 0: label: got 0 in all its units"):
        check_folds(subject_N, (code_N % 2).astype(float), code_N % 2, kind="binary", task="one class")
    three_N = np.where(code_N < 2, 2.0, y_N)
    with pytest.raises(InputError, match="fold 1: training labels"):
        check_folds(subject_N, three_N, (code_N < 5).astype(np.int64), kind="multiclass", task="one side")


def test_people_are_dealt_again_where_a_fold_would_see_one_class() -> None:
    for n_subjects in (22, 23, 24, 28):
        code_N = np.repeat(np.arange(n_subjects), 2)
        y_N = (code_N >= n_subjects - 5).astype(float)
        for seed in range(6):
            fold_N = subject_folds(code_N.astype(np.str_), y_N, kind="binary", n_folds=5, seed=seed, task="rare")
            assert not constant_folds(y_N, fold_N) and len(np.unique(fold_N)) == 5
            check_folds(code_N.astype(np.str_), y_N, fold_N, kind="binary", task="rare")


def test_features_are_learned_without_whoever_is_judged() -> None:
    rng = np.random.default_rng(3)
    x_NE, subject_N = rng.normal(size=(60, 3)), np.array([f"s{i // 2:02d}" for i in range(60)])
    y_N, fold_N = x_NE[:, 0] + rng.normal(size=60), np.arange(60) // 2 % 5
    asked: list[np.ndarray] = []

    def features(train_N: np.ndarray) -> np.ndarray:
        asked.append(train_N)
        return x_NE

    given = {"kind": "regression", "config": ProbeConfig(), "task": "t"}
    learned = learned_fit(features, y_N, subject_N, fold_N, **given)
    assert np.array_equal(learned.linear_NC, cross_fit(x_NE, y_N, subject_N, fold_N, **given).linear_NC)
    left_out = [tuple(np.unique(fold_N[~train_N])) for train_N in asked]
    assert sorted(left_out) == sorted([*((k,) for k in range(5)), *((a, b) for b in range(5) for a in range(b))])
    assert all(np.isin(fold_N[train_N], out).sum() == 0 for train_N, out in zip(asked, left_out, strict=True))
