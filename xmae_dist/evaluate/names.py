"""Names of people and recordings as numbers, met part by part.

Names stay in Arrow's memory, once for each part that holds them; a window has a number of 4 bytes. One name has another
number in each part until names are settled, which needs all of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Codes = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """The names of W windows: `names` of the part, from number `first` on, and place_W among them."""

    first: int
    names: pa.Array
    place_W: Codes

    def __getitem__(self, rows: NDArray[np.intp]) -> Codes:
        """The numbers of some windows."""
        return self.place_W[rows] + np.int32(self.first)

    def rows(self, rows: NDArray[np.intp]) -> Numbered:
        """Those of some windows alone."""
        return Numbered(first=self.first, names=self.names, place_W=self.place_W[rows])


@dataclass(frozen=True, kw_only=True)
class Settled:
    """All names in ascending order, and the place there of every number that was given out."""

    names: pa.Array
    place_K: Codes

    def text(self, code_N: Codes) -> NDArray[np.str_]:
        """The names with these numbers."""
        unique, inverse_N = np.unique(self.place_K[code_N], return_inverse=True)
        return np.asarray(self.names.take(pa.array(unique)).to_pylist(), dtype=np.str_)[inverse_N]


class Names:
    """Gives out numbers."""

    def __init__(self) -> None:
        self._chunks: list[pa.Array] = []
        self._n = 0

    def add(self, column: pa.ChunkedArray) -> Numbered:
        encoded = column.combine_chunks().dictionary_encode()
        place_W = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        found = Numbered(first=self._n, names=encoded.dictionary, place_W=place_W)
        self._chunks.append(encoded.dictionary)
        self._n += len(encoded.dictionary)
        return found

    def settled(self) -> Settled:
        """The names so far: a sort of those of all parts."""
        # 64-bit offsets: the names of many recordings pass 2 GiB.
        every = pa.chunked_array(self._chunks, pa.string()).cast(pa.large_string())
        found = every.combine_chunks().dictionary_encode()
        order = pc.sort_indices(found.dictionary)
        rank = np.empty(len(order), np.int32)
        rank[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
        return Settled(names=found.dictionary.take(order), place_K=rank[found.indices.to_numpy()])
