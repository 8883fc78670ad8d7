"""How far one sample of people is from another in the space of embeddings, by statistics over people.

Windows of a person are not independent: they are averaged before anything is counted, and it is people that are put
into folds, permuted and resampled.

- **AUC of a two-sample classifier.** Embeddings of both samples are standardised and reduced to principal
  components, one for six people and 16 at most: more than that drown a shift of few people in noise. A person is the
  mean of these and of their squares. A ridge regression of "which sample" is fitted on four fifths of the people and
  ranks the rest. 0.5: it cannot tell them apart. All permutations are columns of one
  regression, within folds, so 200 cost little more than one.
- **Threshold.** The known sample is split at random into two of that size, 200 times; 95 % of these AUCs lie below the
  threshold. So a device is taken for different from itself in one comparison of twenty.
- **MMD**, squared and unbiased, Gaussian kernel with the median distance, between windows of different people; its
  interval is that of resampled people. It moves also where a classifier by means and squares sees nothing.

Legend: P people, N windows, E embedding width, C components, D labellings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import euclidean_distances

from xmae_dist.core.seeds import generator
from xmae_dist.embed.sample import Sample, apart

LEVEL = 0.05
LEAST_PEOPLE = 8
"""On a side: with fewer nothing is said."""
_MOST_PEOPLE = 48
_MOST_COMPONENTS, _LEAST_COMPONENTS, _PEOPLE_A_COMPONENT = 16, 2, 6
_FOLDS = 5
_DRAWS = 200
_OUTLIER = 6.0  # standard deviations at which a component is cut

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and its 95 % interval over people."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A new sample against a known one."""

    known: str
    people: int
    """On each side."""
    auc: float
    threshold: float
    """95 % of the AUCs of the known sample against itself lie below it."""
    p_value: float
    """Share of permutations of people with as great an AUC."""
    mmd2: Estimate
    quality_shift: Estimate
    """Mean quality of the new people less that of the known."""
    quality_auc: float
    """AUC by people's mean quality alone."""

    @property
    def differs(self) -> bool:
        return self.auc > self.threshold


def compare(new: Sample, known: Sample) -> Comparison | None:
    """None for fewer than 8 people on a side, or a known sample that is too small to be split so."""
    new, known = apart(new, known)
    people = min(len(new.subject_P), len(known.subject_P) // 2, _MOST_PEOPLE)
    if people < LEAST_PEOPLE:
        return None
    new = new.of_people(np.arange(people))
    ours, itself = known.of_people(np.arange(people)), known.of_people(np.arange(2 * people))
    rng = generator("drift", new.name, known.name)
    auc_D = two_sample_aucs([new, ours], rng)
    self_D = two_sample_aucs([itself.of_people(np.arange(people)), itself.of_people(people + np.arange(people))], rng)
    new_q_P, known_q_P = (
        person_means(one.quality_N[:, None].astype(float), one.person_N)[:, 0] for one in (new, known)
    )
    return Comparison(
        known=known.name,
        people=people,
        auc=float(auc_D[0]),
        threshold=float(np.quantile(self_D[1:], 1 - LEVEL)),
        p_value=float(np.mean(auc_D >= auc_D[0])),
        mmd2=mmd_squared(new, known, rng),
        quality_shift=_shift(new_q_P, known_q_P, rng),
        quality_auc=float(
            _aucs(np.concatenate([new_q_P, known_q_P])[:, None], _sides(len(new_q_P), len(known_q_P)))[0]
        ),
    )


def two_sample_aucs(samples: Sequence[Sample], rng: np.random.Generator) -> Floats:
    """(1 + D,): of the classifier that tells two samples apart, and of the same after permuting people in folds."""
    x_PF = _features(samples)
    sizes = [len(one.subject_P) for one in samples]
    fold_P = np.concatenate([rng.permutation(np.arange(n) % min(_FOLDS, n // 2)) for n in sizes])
    label_PD = np.repeat(_sides(*sizes)[:, None], 1 + _DRAWS, axis=1)
    won_D, pairs = np.zeros(1 + _DRAWS), 0
    for fold in np.unique(fold_P):
        here = np.flatnonzero(fold_P == fold)
        label_PD[here, 1:] = rng.permuted(label_PD[here, 1:], axis=0)
    for fold in np.unique(fold_P):
        test, train = np.flatnonzero(fold_P == fold), np.flatnonzero(fold_P != fold)
        model = Ridge(alpha=len(train)).fit(x_PF[train], label_PD[train])
        positives = int(label_PD[test, 0].sum())
        n_pairs = positives * (len(test) - positives)
        won_D += n_pairs * _aucs(model.predict(x_PF[test]), label_PD[test])
        pairs += n_pairs
    return won_D / pairs


def mmd_squared(a: Sample, b: Sample, rng: np.random.Generator) -> Estimate:
    """Of windows of different people; at most (P · windows of a person)² numbers of 4 bytes are held."""
    z_NC = _components([a, b]).astype(np.float32)
    person_N = np.concatenate([a.person_N, b.person_N + len(a.subject_P)])
    distance_NN = euclidean_distances(z_NC, squared=True)
    width = np.median(distance_NN[:: max(1, len(z_NC) // 256)]) or 1.0
    kernel_PP = person_means(person_means(np.exp(-distance_NN / width), person_N).T, person_N)
    side_P = _sides(len(a.subject_P), len(b.subject_P)).astype(bool)
    count_DP = np.ones((1 + _DRAWS, len(side_P)))
    for side in (side_P, ~side_P):
        n = int(side.sum())
        count_DP[1:, side] = rng.multinomial(n, np.full(n, 1 / n), size=_DRAWS)
    one_D, other_D = count_DP * side_P, count_DP * ~side_P
    value_D = _within(kernel_PP, one_D) + _within(kernel_PP, other_D) - 2 * _between(kernel_PP, one_D, other_D)
    return _estimate(value_D)


def person_means(x_NF: Floats, person_N: NDArray[np.int64]) -> Floats:
    """(P, F): means of each person's rows."""
    sums_PF = np.zeros((int(person_N.max()) + 1, x_NF.shape[1]))
    np.add.at(sums_PF, person_N, x_NF)
    return sums_PF / np.bincount(person_N)[:, None]


def _components(samples: Sequence[Sample]) -> Floats:
    """(N, C) standardised components of all windows; which sample they are of plays no part."""
    x_NE = np.concatenate([one.embedding_NE for one in samples]).astype(float)
    spread_E = x_NE.std(axis=0)
    x_NE = (x_NE - x_NE.mean(axis=0)) / np.where(spread_E > 0, spread_E, 1.0)
    people = sum(len(one.subject_P) for one in samples)
    n = min(max(_LEAST_COMPONENTS, people // _PEOPLE_A_COMPONENT), _MOST_COMPONENTS, *x_NE.shape)
    z_NC = PCA(n, svd_solver="full").fit_transform(x_NE)
    spread_C = z_NC.std(axis=0)
    return np.clip(z_NC / np.where(spread_C > 0, spread_C, 1.0), -_OUTLIER, _OUTLIER)


def _features(samples: Sequence[Sample]) -> Floats:
    """(P, 2C), standardised: of each person the mean of the components and of their squares."""
    z_NC = _components(samples)
    starts = np.cumsum([0, *(len(one.subject_P) for one in samples)])
    person_N = np.concatenate([one.person_N + start for one, start in zip(samples, starts, strict=False)])
    x_PF = person_means(np.concatenate([z_NC, z_NC**2], axis=1), person_N)
    spread_F = x_PF.std(axis=0)
    return np.asarray((x_PF - x_PF.mean(axis=0)) / np.where(spread_F > 0, spread_F, 1.0))


def _sides(n_new: int, n_known: int) -> Floats:
    return np.repeat([1.0, 0.0], [n_new, n_known])


def _aucs(score_PD: Floats, label_PD: Floats) -> Floats:
    """(D,): probability that one of side 1 outranks one of side 0; ties count one half."""
    label_PD = label_PD.reshape(len(score_PD), -1)
    rank_PD = rankdata(score_PD, axis=0)
    ones_D = label_PD.sum(axis=0)
    won_D = (rank_PD * label_PD).sum(axis=0) - ones_D * (ones_D + 1) / 2
    return np.asarray(won_D / (ones_D * (len(score_PD) - ones_D)))


def _within(kernel_PP: Floats, count_DP: Floats) -> Floats:
    """Mean kernel of pairs of different people."""
    pairs_D = np.einsum("dp,pq,dq->d", count_DP, kernel_PP, count_DP, optimize=True)
    own_D = (count_DP**2) @ np.diag(kernel_PP)
    n_D = count_DP.sum(axis=1) ** 2 - (count_DP**2).sum(axis=1)
    return np.asarray((pairs_D - own_D) / n_D)


def _between(kernel_PP: Floats, one_DP: Floats, other_DP: Floats) -> Floats:
    pairs_D = np.einsum("dp,pq,dq->d", one_DP, kernel_PP, other_DP, optimize=True)
    return np.asarray(pairs_D / (one_DP.sum(axis=1) * other_DP.sum(axis=1)))


def _shift(new_P: Floats, known_P: Floats, rng: np.random.Generator) -> Estimate:
    drawn = [one[rng.integers(0, len(one), (_DRAWS, len(one)))].mean(axis=1) for one in (new_P, known_P)]
    return _estimate(np.concatenate([[new_P.mean() - known_P.mean()], drawn[0] - drawn[1]]))


def _estimate(value_D: Floats) -> Estimate:
    low, high = np.quantile(value_D[1:], [0.025, 0.975])
    return Estimate(value=float(value_D[0]), low=float(low), high=float(high))
