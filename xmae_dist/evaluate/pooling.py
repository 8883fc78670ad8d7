"""From windows to features, block by block: what is embedded, and what is kept of it.

A task whose units are windows needs their embeddings; one whose units are recordings or people needs what its windows
come to: their means, or (`moments`) mean, standard deviation, least and largest value of each feature, since a mean
hides what is rare. So of those windows only running sums and extremes are kept. `Wanted` unites what tasks need of one
encoder: each window is embedded once, in the order of storage, whatever number of tasks want it. What is held is the
float32 embeddings of the windows that are units themselves, and for every different way of pooling 8 bytes a unit and
feature (`moments`: 32): it does not grow with the windows.

Legend: B windows of a block, K of them in some pooling, U units that a block feeds, M windows, N units, E features, F
numbers kept of each unit (E, or 4 E).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core import moments
from xmae_dist.evaluate.members import Ids, Members, expand
from xmae_dist.evaluate.scores.metrics import sum_by

Floats = NDArray[np.float64]
POOLINGS = ("mean", "moments")
Embedding = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one pooling takes of a block: its rows, the place of each one's unit among units_U, and these units."""

    rows_K: NDArray[np.int32]
    place_K: NDArray[np.int32]
    units_U: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """What is kept of a block: embeddings of the windows that are units, and of the units of each pooling sums (for
    moments also sums of squares, least and largest values)."""

    taken_KE: Embedding
    kept_UF: tuple[Floats, ...]

    @property
    def n_features(self) -> int:
        return self.taken_KE.shape[1]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Windows that are embedded together: ascending ids, and who wants which of them."""

    ids_B: Ids
    taken_K: NDArray[np.int32]
    """Rows that are wanted as they are."""
    shares: tuple[Share, ...]
    moments: bool = False

    def pooled(self, embedding_BE: Embedding) -> Pooled:
        kept = moments.kept if self.moments else sum_by
        return Pooled(
            taken_KE=embedding_BE[self.taken_K],
            kept_UF=tuple(
                kept(share.place_K, embedding_BE[share.rows_K].astype(float), len(share.units_U))
                for share in self.shares
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What an encoder makes of the windows that tasks want: `taken_ME` of `ids_M`, and (N, F) of units by pooling."""

    ids_M: Ids
    taken_ME: Embedding
    units: Mapping[str, Floats]

    def features(self, windows: Members) -> Floats:
        """(N, E) of members that were wanted; (N, F) where they pool windows."""
        if windows.single:
            return self.taken_ME[np.searchsorted(self.ids_M, windows.first_R)].astype(float)
        return self.units[windows.digest]

    @property
    def n_bytes(self) -> int:
        return self.taken_ME.nbytes + sum(units.nbytes for units in self.units.values())


class Wanted:
    """The union of what tasks want embedded, and how each wants it. `pooling`: one of `POOLINGS`."""

    def __init__(self, members: Iterable[Members], pooling: str = "mean") -> None:
        self.moments = pooling == "moments"
        every = {one.digest: one for one in members}
        singles = [one.first_R for one in every.values() if one.single]
        self.ids_M: Ids = np.unique(np.concatenate(singles)) if singles else np.empty(0, np.int64)
        """Windows that are units themselves."""
        self.poolings = {digest: one for digest, one in every.items() if not one.single}
        self._first_R, self._length_R = _united(every.values())

    @cached_property
    def n_windows(self) -> int:
        return int(self._length_R.sum())

    def blocks(self, size: int) -> Iterator[Block]:
        """All of it in blocks of `size` windows, in the order of ids."""
        ends_R = np.cumsum(self._length_R)
        for start in range(0, self.n_windows, size):
            stop = min(start + size, self.n_windows)
            runs = slice(int(np.searchsorted(ends_R, start, "right")), int(np.searchsorted(ends_R, stop, "left")) + 1)
            before_R = ends_R[runs] - self._length_R[runs]
            skipped_R = np.maximum(start - before_R, 0)
            length_R = np.minimum(stop, ends_R[runs]) - before_R - skipped_R
            yield self._block(expand(self._first_R[runs] + skipped_R, length_R))

    def _block(self, ids_B: Ids) -> Block:
        low, high = int(ids_B[0]), int(ids_B[-1]) + 1
        taken_M = self.ids_M[slice(*np.searchsorted(self.ids_M, [low, high]))]
        return Block(
            ids_B=ids_B,
            taken_K=np.searchsorted(ids_B, taken_M).astype(np.int32),
            shares=tuple(_share(ids_B, one.between(low, high)) for one in self.poolings.values()),
            moments=self.moments,
        )


class Pool:
    """Keeps what blocks leave. Add them in a fixed order: then the sums are the same to the last bit."""

    def __init__(self, wanted: Wanted, n_features: int) -> None:
        self._wanted = wanted
        self._taken_ME = np.empty((len(wanted.ids_M), n_features), np.float32)
        self._n_taken = 0
        start = moments.start if wanted.moments else np.zeros
        self._kept = [start((_n_units(one), n_features)) for one in wanted.poolings.values()]

    def add(self, block: Block, found: Pooled) -> None:
        stop = self._n_taken + len(block.taken_K)
        self._taken_ME[self._n_taken : stop] = found.taken_KE
        self._n_taken = stop
        for kept_NF, share, kept_UF in zip(self._kept, block.shares, found.kept_UF, strict=True):
            if self._wanted.moments:
                moments.add(kept_NF, share.units_U, kept_UF)
            else:
                kept_NF[share.units_U] += kept_UF

    def embedded(self) -> Embedded:
        """What units come to; the pool is used up."""
        units = {}
        for (digest, members), kept_NF in zip(self._wanted.poolings.items(), self._kept, strict=True):
            count_N1 = members.counts(len(kept_NF))[:, None]
            if self._wanted.moments:
                moments.settle(kept_NF, count_N1)
            else:
                kept_NF /= count_N1
            units[digest] = kept_NF
        return Embedded(ids_M=self._wanted.ids_M, taken_ME=self._taken_ME, units=units)


def embedded_here(
    members: Iterable[Members], ids_W: Ids, embedding_WE: NDArray[np.floating], pooling: str = "mean"
) -> Embedded:
    """Of windows whose embeddings are at hand: ascending ids, and a row for each."""
    wanted = Wanted(members, pooling)
    pool = Pool(wanted, embedding_WE.shape[1])
    for block in wanted.blocks(max(wanted.n_windows, 1)):
        pool.add(block, block.pooled(embedding_WE[np.searchsorted(ids_W, block.ids_B)]))
    return pool.embedded()


def _share(ids_B: Ids, members: Members) -> Share:
    ids_K, unit_K = members.expanded()
    units_U, place_K = np.unique(unit_K, return_inverse=True)
    rows_K = np.searchsorted(ids_B, ids_K).astype(np.int32)
    return Share(rows_K=rows_K, place_K=place_K.astype(np.int32), units_U=units_U)


def _united(members: Iterable[Members]) -> tuple[Ids, Ids]:
    """(first, length) of the disjoint runs that cover the runs of all."""
    every = list(members)
    if not every:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    first_R = np.concatenate([one.first_R for one in every])
    stop_R = first_R + np.concatenate([one.length_R for one in every])
    order = np.argsort(first_R, kind="stable")
    first_R, stop_R = first_R[order], np.maximum.accumulate(stop_R[order])
    starts = np.flatnonzero(np.r_[True, first_R[1:] > stop_R[:-1]])
    ends = np.r_[starts[1:] - 1, len(first_R) - 1]
    return first_R[starts], stop_R[ends] - first_R[starts]


def _n_units(members: Members) -> int:
    return int(members.unit_R.max()) + 1
