"""Which windows feed which unit of a task, as runs of consecutive window ids.

A recording of which every window takes part is one run, however long it is; a window that is a unit by itself is a run
of one. Memory is 16 bytes a run, so what it costs follows the choice and not the store. Legend: R runs, M windows in
them, N units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.fingerprint import sha256_hex

Ids = NDArray[np.int64]
Counts = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Members:
    """Windows [first_R, first_R + length_R) feed unit_R. Runs ascend by their first id and do not overlap."""

    first_R: Ids
    length_R: Counts
    unit_R: Counts

    @classmethod
    def one_each(cls, ids_N: Ids) -> Members:
        """Every window is a unit, in ascending order of their ids."""
        n = len(ids_N)
        return cls(first_R=ids_N, length_R=np.ones(n, np.int32), unit_R=np.arange(n, dtype=np.int32))

    @classmethod
    def of(cls, ids_M: Ids, unit_M: NDArray[np.integer]) -> Members:
        """From ascending ids of windows and the unit of each."""
        starts = np.flatnonzero(np.r_[True, (np.diff(ids_M) != 1) | (np.diff(unit_M) != 0)][: len(ids_M)])
        return cls(
            first_R=ids_M[starts],
            length_R=np.diff(np.r_[starts, len(ids_M)]).astype(np.int32),
            unit_R=unit_M[starts].astype(np.int32),
        )

    @cached_property
    def n_windows(self) -> int:
        return int(self.length_R.sum(dtype=np.int64))

    @cached_property
    def single(self) -> bool:
        """Whether every window is a unit, in order: nothing is to be pooled."""
        return bool((self.length_R == 1).all() and np.array_equal(self.unit_R, np.arange(len(self.unit_R))))

    @cached_property
    def digest(self) -> str:
        """The same for tasks that pool the same windows into the same units."""
        return sha256_hex(self.first_R.tobytes() + self.length_R.tobytes() + self.unit_R.tobytes())

    def expanded(self) -> tuple[Ids, Counts]:
        """(ids_M, unit_M): 12 bytes a window."""
        return expand(self.first_R, self.length_R), np.repeat(self.unit_R, self.length_R)

    def counts(self, n_units: int) -> NDArray[np.int64]:
        """(N,) windows of each unit."""
        return np.bincount(self.unit_R, weights=self.length_R, minlength=n_units).astype(np.int64)

    def between(self, low: int, high: int) -> Members:
        """What of it lies in the ids [low, high)."""
        begin, end = np.searchsorted(self.first_R, [low, high], side="left").tolist()
        if begin and self.first_R[begin - 1] + self.length_R[begin - 1] > low:  # asked of each block: never of all runs
            begin -= 1
        runs = slice(begin, end)
        first_R = np.maximum(self.first_R[runs], low)
        stop_R = np.minimum(self.first_R[runs] + self.length_R[runs], high)
        return Members(first_R=first_R, length_R=(stop_R - first_R).astype(np.int32), unit_R=self.unit_R[runs])

    def of_units(self, units: NDArray[np.integer]) -> Members:
        """The runs of some units, given in ascending order, which are numbered anew."""
        keep_R = np.isin(self.unit_R, units)
        unit_R = np.searchsorted(units, self.unit_R[keep_R]).astype(np.int32)
        return Members(first_R=self.first_R[keep_R], length_R=self.length_R[keep_R], unit_R=unit_R)

    def thinned(self, limit: int) -> Members:
        """At most `limit` evenly spaced windows of each unit."""
        order_R = np.argsort(self.unit_R, kind="stable")
        ids, units = [], []
        for runs in np.split(order_R, np.flatnonzero(np.diff(self.unit_R[order_R])) + 1):
            ends = np.cumsum(self.length_R[runs], dtype=np.int64)
            place = evenly(int(ends[-1]), limit)
            run = np.searchsorted(ends, place, side="right")
            ids.append(self.first_R[runs][run] + place - (ends - self.length_R[runs])[run])
            units.append(np.full(len(place), self.unit_R[runs[0]]))
        ids_M, unit_M = np.concatenate(ids), np.concatenate(units)
        order_M = np.argsort(ids_M)
        return Members.of(ids_M[order_M], unit_M[order_M])


def expand(first_R: Ids, length_R: NDArray[np.integer]) -> Ids:
    """The ids of runs, one after another."""
    ends_R = np.cumsum(length_R, dtype=np.int64)
    total = int(ends_R[-1]) if len(ends_R) else 0
    return np.arange(total) + np.repeat(first_R - (ends_R - length_R), length_R)


def evenly(n: int, limit: int) -> Ids:
    """At most `limit` evenly spaced places of `n`."""
    return np.linspace(0, n - 1, min(limit, n)).astype(np.int64)
