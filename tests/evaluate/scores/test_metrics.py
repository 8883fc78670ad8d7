"""Weighted metrics against scikit-learn and against repetition of rows."""

import numpy as np
import pytest
from sklearn import metrics as reference

from xmae_dist.evaluate.scores.metrics import METRICS


def sample(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y_N = rng.integers(0, 2, n).astype(float)
    pred_N1 = np.round(np.clip(0.3 * y_N + rng.random(n) * 0.8, 0, 1), 2)[:, None]  # rounded: ties
    return y_N, pred_N1, np.zeros(n, np.int64), rng.integers(0, 4, n).astype(float)


REFERENCE = {
    "auroc": reference.roc_auc_score,
    "auprc": reference.average_precision_score,
    "brier": reference.brier_score_loss,
    "f1": lambda y, p, **w: reference.f1_score(y, p >= 0.5, **w),
    "balanced_accuracy": lambda y, p, **w: reference.balanced_accuracy_score(y, p >= 0.5, **w),
    "kappa": lambda y, p, **w: reference.cohen_kappa_score(y, p >= 0.5, **w),
    "mae": reference.mean_absolute_error,
    "r2": reference.r2_score,
}


@pytest.mark.parametrize("name", REFERENCE)
def test_equals_the_reference_with_and_without_weights(name: str) -> None:
    y_N, pred_N1, fold_N, weight_N = sample()
    got = METRICS[name].score(y_N, pred_N1, fold_N, np.stack([np.ones_like(y_N), weight_N]))
    want = [REFERENCE[name](y_N, pred_N1[:, 0]), REFERENCE[name](y_N, pred_N1[:, 0], sample_weight=weight_N)]
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_pearson_and_macro_auroc_equal_the_reference() -> None:
    rng = np.random.default_rng(1)
    y_N, pred_N1, fold_N, _ = sample()
    one = np.ones((1, len(y_N)))
    np.testing.assert_allclose(
        METRICS["pearson"].score(y_N, pred_N1, fold_N, one), np.corrcoef(y_N, pred_N1[:, 0])[0, 1], atol=1e-12
    )
    y3_N = rng.integers(0, 3, len(y_N)).astype(float)
    p_N3 = rng.dirichlet(np.ones(3), len(y_N))
    want = reference.roc_auc_score(y3_N, p_N3, multi_class="ovr", average="macro")
    np.testing.assert_allclose(METRICS["macro_auroc"].score(y3_N, p_N3, fold_N, one), want, atol=1e-12)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"macro_auroc", "calibration_error"}))
def test_an_integer_weight_is_a_repetition(name: str) -> None:
    y_N, pred_N1, fold_N, weight_N = sample(seed=2)
    again = np.repeat(np.arange(len(y_N)), weight_N.astype(int))
    weighted = METRICS[name].score(y_N, pred_N1, fold_N, weight_N[None])
    repeated = METRICS[name].score(y_N[again], pred_N1[again], fold_N[again], np.ones((1, len(again))))
    np.testing.assert_allclose(weighted, repeated, atol=1e-9)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_weights_of_groups_are_weights_of_their_members(name: str) -> None:
    rng = np.random.default_rng(5)
    y_N, pred_NC, fold_N, _ = sample(seed=3)
    if "multiclass" in METRICS[name].kinds:
        y_N, pred_NC = rng.integers(0, 3, len(y_N)).astype(float), rng.dirichlet(np.ones(3), len(y_N))
    group_N = rng.integers(0, 17, len(y_N))
    weight_RG = rng.integers(0, 4, (6, 17)).astype(float)
    by_group = METRICS[name].score(y_N, pred_NC, fold_N, weight_RG, group_N)
    np.testing.assert_allclose(by_group, METRICS[name].score(y_N, pred_NC, fold_N, weight_RG[:, group_N]), atol=1e-12)
    whole = METRICS[name].score(y_N, pred_NC, fold_N, np.ones((1, len(y_N))))[0]
    assert METRICS[name].value(y_N, pred_NC, fold_N) == pytest.approx(whole, abs=1e-12)


def test_calibration_error_is_the_gap_of_each_tenth() -> None:
    p_N = np.repeat(np.linspace(0.05, 0.95, 10), 40)
    y_N = (np.tile(np.arange(40), 10) < 40 * np.clip(p_N + 0.1, 0, 1)).astype(float)
    gap = METRICS["calibration_error"].value(y_N, p_N[:, None], np.zeros(len(p_N), np.int64))
    assert gap == pytest.approx(np.mean([abs(y_N[p_N == p].mean() - p) for p in np.unique(p_N)]), abs=1e-12)
    assert 0.08 < gap < 0.11


def test_auroc_compares_only_within_a_fold() -> None:
    y_N = np.array([0.0, 1, 0, 1])
    pred_N1 = np.array([[0.1], [0.2], [0.8], [0.9]])
    fold_N = np.array([0, 0, 1, 1])
    assert METRICS["auroc"].score(y_N, pred_N1, fold_N, np.ones((1, 4)))[0] == 1.0
    assert METRICS["auroc"].score(y_N, pred_N1, fold_N * 0, np.ones((1, 4)))[0] == 0.75


def test_auprc_ranks_only_within_a_fold() -> None:
    y_N = np.array([0.0, 1, 1, 0, 1, 0, 0])
    pred_N1 = np.array([[0.1], [0.2], [0.3], [0.8], [0.9], [0.95], [0.7]])
    fold_N = np.array([0, 0, 0, 1, 1, 1, 1])
    one = np.ones((1, len(y_N)))
    by_fold = [reference.average_precision_score(y_N[fold_N == k], pred_N1[fold_N == k, 0]) for k in (0, 1)]
    assert by_fold == [1.0, 0.5]
    assert METRICS["auprc"].score(y_N, pred_N1, fold_N, one)[0] == pytest.approx((2 * 1.0 + 1 * 0.5) / 3)
    pooled = METRICS["auprc"].score(y_N, pred_N1, fold_N * 0, one)[0]
    assert pooled == pytest.approx(reference.average_precision_score(y_N, pred_N1[:, 0])) and pooled < 0.5
    lost = np.array([[1.0, 1, 1, 1, 0, 1, 1]])  # a draw without the positives of a fold
    assert METRICS["auprc"].score(y_N, pred_N1, fold_N, lost)[0] == 1.0


def test_a_replicate_without_a_class_is_nan_not_a_number() -> None:
    y_N, pred_N1, fold_N, _ = sample()
    only_negatives = (y_N == 0).astype(float)[None]
    assert np.isnan(METRICS["auroc"].score(y_N, pred_N1, fold_N, only_negatives)).all()
    assert np.isnan(METRICS["auprc"].score(y_N, pred_N1, fold_N, only_negatives)).all()
