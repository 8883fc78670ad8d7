"""Intervals that are right: measured coverage on tasks without signal, and on tasks with one."""

import numpy as np
import pytest

from xmae_dist.evaluate.protocols.probe import Fit, ProbeConfig, cross_fit
from xmae_dist.evaluate.scores import bootstrap
from xmae_dist.evaluate.scores.bootstrap import Predictions, Scored
from xmae_dist.evaluate.scores.folds import subject_folds

SUBJECTS, WINDOWS, FEATURES = 60, 8, 8
CONFIG = ProbeConfig(penalties=(10.0, 1.0, 0.1, 0.01))


def null_fit(repetition: int, signal: float = 0.0) -> Fit:
    """A probe on people who differ from one another in features and label, independently when `signal` is 0."""
    rng = np.random.default_rng(repetition)
    code_N = np.repeat(np.arange(SUBJECTS), WINDOWS)
    label_S = (rng.random(SUBJECTS) < 0.5).astype(float)
    person_SE = rng.normal(size=(SUBJECTS, FEATURES))
    person_SE[:, 0] += signal * label_S
    x_NE = person_SE[code_N] + rng.normal(size=(len(code_N), FEATURES))
    subject_N, y_N = code_N.astype(np.str_), label_S[code_N]
    fold_N = subject_folds(subject_N, y_N, kind="binary", n_folds=5, seed=repetition, task="null")
    return cross_fit(x_NE, y_N, subject_N, fold_N, kind="binary", config=CONFIG, task="null")


def covered(repetition: int, truth: float = 0.5, signal: float = 0.0) -> tuple[bool, bool, bool]:
    """Whether the interval covers `truth`: over subjects, over subjects without the folds' covariance, over windows."""
    fit = null_fit(repetition, signal)
    p = fit.predictions
    draws_RS = bootstrap.draws(SUBJECTS, 300, repetition)
    train_Q = bootstrap.training_effect("auroc", fit.retrained, draws_RS[:100])
    test_R = bootstrap.replicates("auroc", p, draws_RS)
    ours = bootstrap.score_interval("auroc", p, draws_RS, bootstrap.stretch(test_R, train_Q))
    fixed = bootstrap.score_interval("auroc", p, draws_RS)
    n = len(p.y_N)
    alone = Predictions(subject_N=np.arange(n).astype(np.str_), y_N=p.y_N, pred_NC=p.pred_NC, fold_N=p.fold_N)
    windows = bootstrap.score_interval("auroc", alone, bootstrap.draws(n, 200, repetition))
    return tuple(i.low <= truth <= i.high for i in (ours, fixed, windows))  # type: ignore[return-value]


def precision(repetition: int) -> tuple[float, float, tuple[float, float], tuple[float, float]]:
    """AUPRC within folds and over all of them, and its interval: as the headline metric, and beside AUROC."""
    fit = null_fit(repetition)
    p = fit.predictions
    draws_RS = bootstrap.draws(SUBJECTS, 300, repetition)
    intervals = []
    for headline in ("auprc", "auroc"):
        train_Q = bootstrap.training_effect(headline, fit.retrained, draws_RS[:100])
        factor = bootstrap.stretch(bootstrap.replicates(headline, p, draws_RS), train_Q)
        found = bootstrap.score_interval("auprc", p, draws_RS, factor)
        intervals.append((found.low, found.high))
    pooled = Predictions(subject_N=p.subject_N, y_N=p.y_N, pred_NC=p.pred_NC, fold_N=np.zeros_like(p.fold_N))
    return bootstrap.point("auprc", p), bootstrap.point("auprc", pooled), *intervals


def precision_covered(repetitions: int) -> tuple[float, float, float, float]:
    """Mean of AUPRC within folds and over all, and how often its intervals cover that mean: what a task without signal
    gives on average, since a list of few people ranks some positive high by luck.
    """
    values, pooled, *intervals = zip(*map(precision, range(repetitions)), strict=True)
    expected = float(np.mean(values))
    rates = [float(np.mean([low <= expected <= high for low, high in found])) for found in intervals]
    return expected, float(np.mean(pooled)), rates[0], rates[1]


def test_on_null_tasks_subjects_cover_one_half_and_windows_do_not() -> None:
    rates = np.mean([covered(r) for r in range(30)], axis=0)
    assert rates[0] >= 0.83, rates  # 30 repetitions: 0.83 is three standard errors below 0.95
    assert rates[2] <= 0.70, rates


@pytest.mark.slow
def test_on_null_tasks_the_interval_of_auprc_covers_what_chance_gives() -> None:
    expected, _, alone, beside = precision_covered(30)
    assert 0.5 < expected < 0.58, "half of the people are positive"
    assert min(alone, beside) >= 0.80, (alone, beside)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_coverage_of_null_tasks_in_400_repetitions() -> None:
    rates = np.mean([covered(r) for r in range(400)], axis=0)
    print(f"coverage of 0.5: subjects {rates[0]:.3f}, fixed folds {rates[1]:.3f}, windows {rates[2]:.3f}")
    assert 0.93 <= rates[0] <= 0.97, rates
    assert rates[1] < 0.90, rates
    assert rates[2] < 0.60, rates


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_coverage_of_auprc_on_null_tasks_in_400_repetitions() -> None:
    expected, pooled, alone, beside = precision_covered(400)
    print(f"AUPRC {expected:.3f} within folds, {pooled:.3f} pooled; covered: headline {alone:.3f}, beside {beside:.3f}")
    assert pooled < 0.5 < expected < 0.56, "pooling pulls it below the share of positives"
    assert 0.90 <= alone <= 0.98 and 0.93 <= beside <= 0.99, (alone, beside)


def sample(n_subjects: int = 30, shift: float = 0.0, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    code_N = np.repeat(np.arange(n_subjects), 6)
    y_N = (code_N % 2).astype(float)
    noise = rng.normal(size=n_subjects)[code_N] + 0.3 * rng.normal(size=len(code_N))
    score_N = 1 / (1 + np.exp(-(shift * (y_N - 0.5) + noise)))
    return Predictions(subject_N=code_N.astype(np.str_), y_N=y_N, pred_NC=score_N[:, None], fold_N=0 * code_N)


def test_a_replicate_is_the_metric_on_the_drawn_subjects() -> None:
    p = sample()
    draws_RS = bootstrap.draws(30, 5, 7)
    values = bootstrap.replicates("auroc", p, draws_RS)
    subjects = np.unique(p.subject_N)
    for draw_S, value in zip(draws_RS, values, strict=True):
        rows = np.concatenate(
            [np.tile(np.flatnonzero(p.subject_N == s), int(k)) for s, k in zip(subjects, draw_S, strict=True)]
        )
        again = Predictions(
            subject_N=p.subject_N[rows], y_N=p.y_N[rows], pred_NC=p.pred_NC[rows], fold_N=p.fold_N[rows]
        )
        assert bootstrap.point("auroc", again) == pytest.approx(value, abs=1e-12)


def test_pairing_narrows_a_difference() -> None:
    """Two encoders that err on the same people: paired, a small gain shows that separate intervals would hide."""
    a, b = sample(shift=1.6), sample(shift=1.3)
    none = np.zeros(20)
    draws_RS = bootstrap.draws(30, 800, 1)
    paired = bootstrap.paired_difference(
        "auroc", Scored(predictions=a, train_Q=none), Scored(predictions=b, train_Q=none), draws_RS
    )
    one, other = bootstrap.score_interval("auroc", a, draws_RS), bootstrap.score_interval("auroc", b, draws_RS)
    assert paired.excludes(0.0) and paired.value > 0
    assert one.low < other.high, "the separate intervals overlap"
    assert paired.se < 0.4 * np.hypot(one.se, other.se)


def test_an_encoder_against_itself_shows_nothing() -> None:
    same = Scored(predictions=sample(shift=1.0), train_Q=np.zeros(20))
    d = bootstrap.paired_difference("auroc", same, same, bootstrap.draws(30, 100, 1))
    assert (d.value, d.low, d.high) == (0.0, 0.0, 0.0) and not d.excludes(0.0)


def test_lower_error_counts_as_better() -> None:
    good, bad = sample(shift=4.0), sample(shift=0.0)
    none = np.zeros(20)
    d = bootstrap.paired_difference(
        "brier",
        Scored(predictions=good, train_Q=none),
        Scored(predictions=bad, train_Q=none),
        bootstrap.draws(30, 100, 1),
    )
    assert d.value > 0 and d.low > 0


def test_holm_is_the_step_down_correction() -> None:
    got = bootstrap.holm(np.array([0.01, 0.04, np.nan, 0.03]))
    np.testing.assert_allclose(got, [0.03, 0.06, np.nan, 0.06])
