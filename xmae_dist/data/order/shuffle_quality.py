"""How good the block shuffle of a plan is: the subjects and cohorts in its batches, against a perfect shuffle's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmae_dist.data.order.plan import Plan

_MOST_STEPS = 256  # batches that are looked at, evenly spaced over an epoch


@dataclass(frozen=True, kw_only=True)
class ShuffleQuality:
    """Means over batches."""

    subjects: float
    """Different subjects in a batch."""
    perfect_subjects: float
    """The same if every window of the batch were drawn at random from the cohorts' windows, in the same shares."""
    cohorts: float
    perfect_cohorts: float
    stretches: int
    """Runs of neighbouring windows that a batch draws on, at most."""
    stretch_windows: int


def shuffle_quality(plan: Plan, subject_N: NDArray[np.int64], first_ids_S: NDArray[np.int64]) -> ShuffleQuality:
    """`subject_N` numbers the subject of every window id below N; part s holds the ids from `first_ids_S[s]` on."""
    steps = plan.steps_per_epoch
    chosen = np.unique(np.linspace(0, max(0, steps - 1), min(steps, _MOST_STEPS)).astype(np.int64))
    cohort_of = _cohort_of_parts(plan, first_ids_S)
    subjects, cohorts = [], []
    for step in chosen:
        ids_B = plan.ids(int(step))
        subjects.append(np.unique(subject_N[ids_B]).size)
        cohorts.append(np.unique(cohort_of[np.searchsorted(first_ids_S, ids_B, side="right") - 1]).size)
    share_U = _chances(plan, subject_N)
    share_C = np.array(plan.shares) / plan.epoch_windows
    block = plan.block_steps * plan.global_batch
    stretch = plan.cohorts[0].chunk_windows
    return ShuffleQuality(
        subjects=float(np.mean(subjects)),
        perfect_subjects=_expected(share_U, plan.global_batch),
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


def _chances(plan: Plan, subject_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """The chance of each subject at one place of a batch."""
    share_U = np.zeros(int(subject_N.max()) + 1)
    for order, windows in zip(plan.cohorts, plan.shares, strict=True):
        own = np.concatenate([subject_N[first : first + n] for first, n in order.segments])
        share_U += np.bincount(own, minlength=share_U.size) / own.size * windows / plan.epoch_windows
    return share_U


def _expected(chance_U: NDArray[np.float64], draws: int) -> float:
    """How many of the outcomes are expected among so many independent draws."""
    return float((1 - (1 - chance_U) ** draws).sum())
