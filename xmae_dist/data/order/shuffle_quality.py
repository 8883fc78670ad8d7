"""How good the block shuffle of a plan is: the subjects and cohorts in its batches, against a perfect shuffle's.

The subjects of some parts are enough: a batch's subjects among them, over the chance that a draw falls on them, is an
estimate of all its subjects. With every part it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmae_dist.data.order.plan import Plan

_MOST_STEPS = 256  # batches that are looked at, evenly spaced over an epoch


class KnownSubjects:
    """Subjects of the windows of some parts, as numbers."""

    def __init__(self, parts: Sequence[tuple[int, NDArray[np.int64]]]) -> None:
        """`parts` are (first window id, number of the subject of each window), not empty, in the order of their ids."""
        self._first_P = np.array([first for first, _ in parts], np.int64)
        self._size_P = np.array([subject_N.size for _, subject_N in parts], np.int64)
        self._start_P = np.concatenate([[0], np.cumsum(self._size_P)[:-1]])
        self._subject_N = np.concatenate([subject_N for _, subject_N in parts])
        self.n_subjects = int(self._subject_N.max()) + 1

    def of(self, ids_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Subjects of those windows among `ids_B` that lie in a known part."""
        place_B = np.searchsorted(self._first_P, ids_B, side="right") - 1
        within_B = ids_B - self._first_P[place_B]
        known_B = (place_B >= 0) & (within_B < self._size_P[place_B])
        return self._subject_N[self._start_P[place_B[known_B]] + within_B[known_B]]

    def counts(self, first: int) -> NDArray[np.int64]:
        """Windows of each subject in the part that begins with this id; all 0 where it is not known."""
        place = int(np.searchsorted(self._first_P, first))
        if place == self._first_P.size or self._first_P[place] != first:
            return np.zeros(self.n_subjects, np.int64)
        start = self._start_P[place]
        return np.bincount(self._subject_N[start : start + self._size_P[place]], minlength=self.n_subjects)


@dataclass(frozen=True, kw_only=True)
class ShuffleQuality:
    """Means over batches."""

    subjects: float
    """Different subjects in a batch."""
    perfect_subjects: float
    """The same if every window of the batch were drawn at random from the cohorts' windows, in the same shares."""
    known_share: float
    """Chance that a window of a batch lies in a part whose subjects were looked at; below 1 the two are estimates."""
    cohorts: float
    perfect_cohorts: float
    stretches: int
    """Runs of neighbouring windows that a batch draws on, at most."""
    stretch_windows: int


def shuffle_quality(plan: Plan, known: KnownSubjects, first_ids_S: NDArray[np.int64]) -> ShuffleQuality:
    """Part s of the store holds the ids from `first_ids_S[s]` on; of each cohort a part at least must be known."""
    steps = plan.steps_per_epoch
    chosen = np.unique(np.linspace(0, max(0, steps - 1), min(steps, _MOST_STEPS)).astype(np.int64))
    cohort_of = _cohort_of_parts(plan, first_ids_S)
    subjects, cohorts = [], []
    for step in chosen:
        ids_B = plan.ids(int(step))
        subjects.append(np.unique(known.of(ids_B)).size)
        cohorts.append(np.unique(cohort_of[np.searchsorted(first_ids_S, ids_B, side="right") - 1]).size)
    chance_U = _chances(plan, known)
    share_C = np.array(plan.shares) / plan.epoch_windows
    block = plan.block_steps * plan.global_batch
    stretch = plan.cohorts[0].chunk_windows
    return ShuffleQuality(
        subjects=float(np.mean(subjects) / chance_U.sum()),
        perfect_subjects=_expected(chance_U, plan.global_batch) / float(chance_U.sum()),
        known_share=float(chance_U.sum()),
        cohorts=float(np.mean(cohorts)),
        perfect_cohorts=_expected(share_C, plan.global_batch),
        stretches=min(plan.global_batch, -(-block // stretch)),
        stretch_windows=stretch,
    )


def _cohort_of_parts(plan: Plan, first_ids_S: NDArray[np.int64]) -> NDArray[np.int64]:
    cohort_of = np.full(first_ids_S.size, -1)
    for number, order in enumerate(plan.cohorts):
        cohort_of[np.searchsorted(first_ids_S, [first for first, _ in order.segments])] = number
    return cohort_of


def _chances(plan: Plan, known: KnownSubjects) -> NDArray[np.float64]:
    """The chance of each known subject at one place of a batch."""
    chance_U = np.zeros(known.n_subjects)
    for order, windows in zip(plan.cohorts, plan.shares, strict=True):
        own_U = sum((known.counts(first) for first, _ in order.segments), np.zeros(known.n_subjects, np.int64))
        chance_U += own_U / sum(n for _, n in order.segments) * windows / plan.epoch_windows
    return chance_U


def _expected(chance_U: NDArray[np.float64], draws: int) -> float:
    """How many of the outcomes are expected among so many independent draws."""
    return float((1 - (1 - chance_U) ** draws).sum())
