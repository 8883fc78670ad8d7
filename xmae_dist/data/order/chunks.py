"""The order inside one cohort: whole chunks in a keyed random order, reshuffled every pass, endlessly.

A cohort's windows lie in parts (contiguous ranges of ids), and each part in chunks of `chunk_windows`, the
unit of reading. Full chunks of all parts are numbered first; what remains at the end of each part is laid
end to end behind them and cut into further chunks, so that only the cohort's very last chunk is short. A pass
visits the chunks in the order of a keyed permutation, and each chunk's windows in that of another (the plan
spreads a chunk over many batches). Everything is closed-form in both directions.

Shapes: B windows asked for, P passes they lie in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.seeds import hash_u64
from xmae_dist.data.order.permutation import permute, unpermute

IntArray = NDArray[np.int64]


class SegmentLike(Protocol):
    """A contiguous range of window ids of one cohort, as a window store lists them."""

    @property
    def cohort(self) -> str: ...
    @property
    def first_id(self) -> int: ...
    @property
    def n(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class ChunkOrder:
    """The endless sequence of window ids of one cohort."""

    cohort: str
    chunk_windows: int
    segments: tuple[tuple[int, int], ...]
    """(first id, number of windows) of each part, in order of first id; none empty."""

    @classmethod
    def of(cls, cohort: str, segments: Iterable[SegmentLike], chunk_windows: int) -> ChunkOrder:
        own = sorted((int(s.first_id), int(s.n)) for s in segments if s.cohort == cohort and s.n > 0)
        return cls(cohort=cohort, chunk_windows=chunk_windows, segments=tuple(own))

    @cached_property
    def size(self) -> int:
        """Windows in one pass."""
        return sum(n for _, n in self.segments)

    @cached_property
    def chunks(self) -> int:
        return -(-self.size // self.chunk_windows)

    def ids_at(self, index_B: IntArray, seed: int) -> IntArray:
        """The window ids at places `index_B` (0, 1, 2 … without end) of this cohort's sequence."""
        pass_B, place_B = np.divmod(index_B, self.size)
        passes, which_B = np.unique(pass_B, return_inverse=True)
        key_B = self._key(seed, passes)[which_B]
        # The short chunk comes at a random slot: behind it, windows stand `hole` places before their slots.
        slot_P = np.array([self._slot_of(seed, number) for number in passes.tolist()], np.int64)
        behind_B = place_B >= slot_P[which_B] * self.chunk_windows + self._short_size
        slot_B, offset_B = np.divmod(place_B + self._hole * behind_B, self.chunk_windows)
        chunk_B = permute(slot_B, self.chunks, key_B)
        offset_B = permute(offset_B, self._sizes_of(chunk_B), hash_u64(key_B, chunk_B))
        return self._id_of(chunk_B * self.chunk_windows + offset_B)

    def index_of(self, ids_B: IntArray, pass_number: int, seed: int) -> IntArray:
        """The places in the sequence where `ids_B` stand in one pass; -1 for an id not of this cohort."""
        ordinal_B, known_B = self._ordinal_of(ids_B)
        chunk_B, offset_B = np.divmod(ordinal_B, self.chunk_windows)
        key = self._key(seed, np.asarray(pass_number))
        offset_B = unpermute(offset_B, self._sizes_of(chunk_B), hash_u64(key, chunk_B))
        slot_B = unpermute(chunk_B, self.chunks, key)
        place_B = slot_B * self.chunk_windows + offset_B - self._hole * (slot_B > self._short_slot(key))
        return np.where(known_B, pass_number * self.size + place_B, -1)

    def _key(self, seed: int, pass_number: IntArray) -> NDArray[np.uint64]:
        return hash_u64("chunk order", seed, self.cohort, pass_number)

    def _sizes_of(self, chunk_B: IntArray) -> IntArray:
        return np.where(chunk_B == self.chunks - 1, self._short_size, self.chunk_windows)

    def _slot_of(self, seed: int, pass_number: int) -> int:
        """Where a pass has its short chunk: worked out once, since one pass goes on for long."""
        if (seed, pass_number) not in self._slots:
            self._slots.clear()
            self._slots[seed, pass_number] = int(self._short_slot(self._key(seed, np.asarray(pass_number))))
        return self._slots[seed, pass_number]

    @cached_property
    def _slots(self) -> dict[tuple[int, int], int]:
        return {}

    def _short_slot(self, key: NDArray[np.uint64]) -> IntArray:
        return unpermute(self.chunks - 1, self.chunks, key)

    @cached_property
    def _short_size(self) -> int:
        return self.size - (self.chunks - 1) * self.chunk_windows

    @cached_property
    def _hole(self) -> int:
        return self.chunk_windows - self._short_size

    # An ordinal numbers the cohort's windows: those in full chunks, part by part, then the parts' remainders.

    @cached_property
    def _first_ids(self) -> IntArray:
        return np.array([first for first, _ in self.segments], np.int64)

    @cached_property
    def _sizes(self) -> IntArray:
        return np.array([n for _, n in self.segments], np.int64)

    @cached_property
    def _full_sizes(self) -> IntArray:
        """Windows of each part that lie in full chunks."""
        return self._sizes // self.chunk_windows * self.chunk_windows

    @cached_property
    def _range_ends(self) -> IntArray:
        """Ordinals at which each part's full chunks end, then at which each part's remainder ends."""
        return np.cumsum(np.concatenate([self._full_sizes, self._sizes - self._full_sizes]))

    @cached_property
    def _range_origins(self) -> IntArray:
        """What to add to an ordinal of each of these ranges to have a window id."""
        ids = np.concatenate([self._first_ids, self._first_ids + self._full_sizes])
        return ids - np.concatenate([[0], self._range_ends[:-1]])

    def _id_of(self, ordinal_B: IntArray) -> IntArray:
        return ordinal_B + self._range_origins[np.searchsorted(self._range_ends, ordinal_B, side="right")]

    def _ordinal_of(self, ids_B: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
        segment_B = np.maximum(np.searchsorted(self._first_ids, ids_B, side="right") - 1, 0)
        within_B = ids_B - self._first_ids[segment_B]
        known_B = (within_B >= 0) & (within_B < self._sizes[segment_B])
        range_B = segment_B + len(self.segments) * (within_B >= self._full_sizes[segment_B])
        return np.where(known_B, ids_B - self._range_origins[range_B], 0), known_B
