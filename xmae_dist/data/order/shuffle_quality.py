"""How good the block shuffle of a plan is: the subjects and cohorts in its batches, against a perfect shuffle's.

The subjects of some parts are enough: a batch's subjects among them, over the chance that a draw falls on them, is an
estimate of all its subjects. With every part it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmae_dist.data.order.plan import Plan

# Batches that are looked at, evenly spaced over an epoch. Each is asked for cohort by cohort, 1 ms of CPU or more.
_MOST_STEPS = 256
_MOST_SHARES = 1200
_FEWEST_STEPS = 8


class KnownSubjects:
    """Subjects of the windows of some parts, as numbers: a few bytes for each run of windows of one subject (R)."""

    def __init__(self) -> None:
        self._number_of: dict[str, int] = {}
        self._parts: list[tuple[int, int]] = []
        self._starts: list[NDArray[np.int64]] = []
        self._subjects: list[NDArray[np.int64]] = []

    def add(self, first_id: int, subjects: pa.ChunkedArray) -> None:
        """The subject of each window of a part, which begins with `first_id`; parts come in the order of their ids."""
        runs = pc.run_end_encode(pa.concat_arrays(subjects.chunks))
        ends_R = runs.run_ends.to_numpy().astype(np.int64)
        names = runs.values.to_pylist()
        self._parts.append((first_id, len(subjects)))
        self._starts.append(first_id + np.concatenate([[0], ends_R[:-1]]))
        self._subjects.append(np.array([self._number_of.setdefault(name, len(self._number_of)) for name in names]))

    @property
    def n_subjects(self) -> int:
        return len(self._number_of)

    @cached_property
    def _runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(first id, length, subject) of each run."""
        stops = [np.append(start_R[1:], sum(part)) for start_R, part in zip(self._starts, self._parts, strict=True)]
        start_R = np.concatenate(self._starts)
        return start_R, np.concatenate(stops) - start_R, np.concatenate(self._subjects)

    def of(self, ids_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """Subjects of those windows among `ids_B` that lie in a known part."""
        start_R, length_R, subject_R = self._runs
        run_B = np.searchsorted(start_R, ids_B, side="right") - 1
        known_B = (run_B >= 0) & (ids_B - start_R[run_B] < length_R[run_B])
        return subject_R[run_B[known_B]]

    def counts(self, firsts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Windows of each subject in those known parts that begin with one of these ids."""
        start_R, length_R, subject_R = self._runs
        first_P = np.array([first for first, _ in self._parts], np.int64)
        chosen_R = np.isin(first_P, firsts)[np.searchsorted(first_P, start_R, side="right") - 1]
        return np.bincount(subject_R[chosen_R], length_R[chosen_R], self.n_subjects).astype(np.int64)


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
    most = min(_MOST_STEPS, max(_FEWEST_STEPS, _MOST_SHARES // len(plan.cohorts)))
    chosen = np.unique(np.linspace(0, max(0, steps - 1), min(steps, most)).astype(np.int64))
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
        first_ids, sizes = np.array(order.segments, np.int64).T
        chance_U += known.counts(first_ids) / sizes.sum() * windows / plan.epoch_windows
    return chance_U


def _expected(chance_U: NDArray[np.float64], draws: int) -> float:
    """How many of the outcomes are expected among so many independent draws."""
    return float((1 - (1 - chance_U) ** draws).sum())
