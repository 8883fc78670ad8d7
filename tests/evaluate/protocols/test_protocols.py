"""Nearest neighbours against scikit-learn, few-label curves, and fine-tuning of a real encoder."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from xmae_dist.evaluate.examples import Examples
from xmae_dist.evaluate.finetune import _embedded, _pooled, _train, _Tuned, finetune_fit, thinned
from xmae_dist.evaluate.members import Members
from xmae_dist.evaluate.protocols.few import FewConfig, _labelled_first, _people, few_fit, usable_sizes
from xmae_dist.evaluate.protocols.finetune_config import FinetuneConfig
from xmae_dist.evaluate.protocols.knn import KnnConfig, knn_fit
from xmae_dist.evaluate.protocols.probe import ProbeConfig, cross_fit, fold_models, respond
from xmae_dist.evaluate.scores import bootstrap
from xmae_dist.evaluate.scores.folds import subject_folds
from xmae_dist.model import presets

PROBE = ProbeConfig(n_folds=4, penalties=(1.0, 0.1, 0.01))


def people(n_subjects: int = 40, n_windows: int = 6, seed: int = 0, signal: float = 1.5):
    rng = np.random.default_rng(seed)
    code_N = np.repeat(np.arange(n_subjects), n_windows)
    y_N = (code_N % 2).astype(float)
    x_NE = rng.normal(size=(n_subjects, 8))[code_N] + 0.5 * rng.normal(size=(len(code_N), 8))
    x_NE[:, 0] += signal * y_N
    subject_N = np.char.mod("s%03d", code_N)
    fold_N = subject_folds(subject_N, y_N, kind="binary", n_folds=4, seed=seed, task="t")
    return x_NE, y_N, subject_N, fold_N


def test_neighbours_equal_the_reference() -> None:
    x_NE, y_N, subject_N, fold_N = people()
    fit = knn_fit(x_NE, y_N, subject_N, fold_N, kind="binary", config=KnnConfig(neighbours=(7,)), task="t")
    z_NE = StandardScaler().fit_transform(x_NE)
    for k in range(4):
        model = KNeighborsRegressor(7).fit(z_NE[fold_N != k], y_N[fold_N != k])
        want = model.predict(z_NE[fold_N == k])
        np.testing.assert_allclose(fit.predictions.pred_NC[fold_N == k, 0], want, atol=1e-9)


def test_an_influence_on_neighbours_is_what_more_votes_do() -> None:
    x_NE, y_N, subject_N, fold_N = people()
    fit = knn_fit(x_NE, y_N, subject_N, fold_N, kind="binary", config=KnnConfig(neighbours=(7,)), task="t")
    draws_QS = np.ones((1, 40))
    draws_QS[0, 5] = 1.0 + 1e-6
    moved = next(fit.retrained(draws_QS)).pred_NC - fit.predictions.pred_NC
    z_NE = StandardScaler().fit_transform(x_NE)
    for k in range(4):
        model = KNeighborsRegressor(7).fit(z_NE[fold_N != k], y_N[fold_N != k])
        near = model.kneighbors(z_NE[fold_N == k], return_distance=False)
        votes = np.where(subject_N[fold_N != k][near] == "s005", 1.0 + 1e-6, 1.0)
        want = (votes * y_N[fold_N != k][near]).sum(axis=1) / votes.sum(axis=1) - y_N[fold_N != k][near].mean(axis=1)
        np.testing.assert_allclose(moved[fold_N == k, 0], want, atol=1e-11)


def test_labelled_people_nest_and_hold_every_class() -> None:
    _, y_N, subject_N, fold_N = people()
    code_N = np.unique(subject_N, return_inverse=True)[1]
    rare_N = np.where(code_N < 4, 1.0, 0.0)
    for seed in range(5):
        order_S = _labelled_first(code_N, rare_N, "binary", np.random.default_rng(seed))
        chosen = {n: _people(order_S, code_N, rare_N, fold_N != 0, "binary", n) for n in (5, 10, 20)}
        assert all(len(set(people)) == n for n, people in chosen.items())
        assert set(chosen[10]) <= set(chosen[20])
        assert all((people < 4).any() and (people >= 4).any() for people in chosen.values())
        assert not any(set(code_N[fold_N == 0]) & set(people) for people in chosen.values())
    assert usable_sizes(FewConfig(subjects=(3, 5, 30, 31)), fold_N, subject_N, y_N, "binary") == [5]


def test_more_labels_help_and_repetitions_are_scored_together() -> None:
    x_NE, y_N, subject_N, fold_N = people(n_subjects=80)
    scores = {}
    for n in (5, 40):
        fit = few_fit(
            x_NE, y_N, subject_N, fold_N, kind="binary", n_subjects=n, repeats=3, config=PROBE, seed=0, task="t"
        )
        assert len(fit.predictions.y_N) == 3 * len(y_N) and len(np.unique(fit.predictions.fold_N)) == 12
        draws_RS = bootstrap.draws(80, 200, n)
        effect_Q = bootstrap.training_effect("auroc", fit.retrained, draws_RS[:50])
        factor = bootstrap.stretch(bootstrap.replicates("auroc", fit.predictions, draws_RS), effect_Q)
        scores[n] = bootstrap.score_interval("auroc", fit.predictions, draws_RS, factor)
    assert scores[40].value > scores[5].value + 0.03
    assert scores[5].value > 0.55 and scores[40].low > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["knn", "few"])
def test_coverage_of_null_tasks(protocol: str) -> None:
    covered = []
    for repetition in range(200):
        x_NE, _, subject_N, _ = people(n_subjects=60, seed=repetition, signal=0.0)
        label_S = (np.random.default_rng(10_000 + repetition).random(60) < 0.5).astype(float)
        y_N = np.repeat(label_S, 6)
        fold_N = subject_folds(subject_N, y_N, kind="binary", n_folds=4, seed=repetition, task="null")
        if protocol == "knn":
            fit = knn_fit(x_NE, y_N, subject_N, fold_N, kind="binary", config=KnnConfig(), task="null")
        else:
            fit = few_fit(
                x_NE, y_N, subject_N, fold_N, kind="binary", n_subjects=20, repeats=3, config=PROBE, seed=0, task="null"
            )  # fmt: skip
        draws_RS = bootstrap.draws(60, 300, repetition)
        effect_Q = bootstrap.training_effect("auroc", fit.retrained, draws_RS[:100])
        factor = bootstrap.stretch(bootstrap.replicates("auroc", fit.predictions, draws_RS), effect_Q)
        found = bootstrap.score_interval("auroc", fit.predictions, draws_RS, factor)
        covered.append(found.low <= 0.5 <= found.high)
    print(f"{protocol}: coverage of 0.5 {np.mean(covered):.3f}")
    assert 0.90 <= np.mean(covered) <= 0.99


def tones(n_subjects: int = 12, n_windows: int = 8) -> tuple[np.ndarray, Examples]:
    """Windows of a pulse at 1.2 Hz; in every other person each pulse has a notch that a random encoder hardly shows."""
    rng = np.random.default_rng(1)
    time_s = np.arange(1000) / 100
    code = np.repeat(np.arange(n_subjects), n_windows)
    phase = rng.uniform(0, 2 * np.pi, len(code))
    beat = 2 * np.pi * rng.uniform(1.0, 1.4, len(code))[:, None] * time_s + phase[:, None]
    x_ML = np.sin(beat) + 0.12 * (code % 2)[:, None] * np.sin(6 * beat) + 0.3 * rng.normal(size=(len(code), 1000))
    found = Examples(
        y_N=(code % 2).astype(float),
        subject_N=np.char.mod("s%02d", code),
        name_N=np.char.mod("w%03d", np.arange(len(code))),
        windows=Members.one_each(np.arange(len(code))),
    )
    return x_ML.astype(np.float32), found


def test_fine_tuning_begins_as_the_probe_and_fits_its_people_better() -> None:
    x_ML, found = tones()
    torch.manual_seed(0)
    model = presets.build("tiny")
    fold_N = subject_folds(found.subject_N, found.y_N, kind="binary", n_folds=3, seed=0, task="t")
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def tuned(epochs: int) -> bootstrap.Predictions:
        model.load_state_dict(before)
        config = FinetuneConfig(epochs=epochs, batch=16)
        return finetune_fit(
            model, x_ML, found, fold_N, kind="binary", config=config, probe=PROBE, seed=0, task="t"
        ).predictions

    frozen_NE = _pooled(_embedded(model, x_ML), found.windows.unit_R)
    probe = cross_fit(frozen_NE, found.y_N, found.subject_N, fold_N, kind="binary", config=PROBE, task="t")
    np.testing.assert_allclose(tuned(0).pred_NC, probe.predictions.pred_NC, atol=1e-5)
    np.testing.assert_array_equal(tuned(1).pred_NC, tuned(1).pred_NC)

    head = fold_models(frozen_NE, found.y_N, fold_N, kind="binary", config=PROBE)[0]
    model.load_state_dict(before)
    train_N = fold_N != 0
    tuner = _Tuned(model, head)
    _train(tuner, x_ML[train_N], found.y_N[train_N, None], "binary", FinetuneConfig(epochs=5, batch=16), seed=1)
    with torch.no_grad():
        after = torch.sigmoid(tuner(torch.from_numpy(x_ML[train_N])))[:, 0].numpy()
    started = respond("binary", head(frozen_NE[train_N])[-1])[:, 0]
    assert np.mean((after - found.y_N[train_N]) ** 2) < 0.97 * np.mean((started - found.y_N[train_N]) ** 2)


def test_thinning_is_even_and_keeps_what_belongs_together() -> None:
    _, found = tones(n_subjects=3, n_windows=10)
    few = thinned(found, 4, "window")
    assert np.unique(few.subject_N, return_counts=True)[1].tolist() == [4, 4, 4]
    ids_M, unit_M = few.windows.expanded()
    assert ids_M[:4].tolist() == [0, 3, 6, 9] and unit_M.tolist() == list(range(12))
    by_person = Examples(
        y_N=np.arange(3.0), subject_N=np.array(["a", "b", "c"]), name_N=np.array(["a", "b", "c"]),
        windows=Members.of(np.arange(30), np.repeat(np.arange(3), 10)),
    )  # fmt: skip
    few = thinned(by_person, 4, "subject")
    assert few.y_N.tolist() == [0, 1, 2] and few.windows.counts(3).tolist() == [4, 4, 4]
    assert few.windows.expanded()[0][:5].tolist() == [0, 3, 6, 9, 10]
