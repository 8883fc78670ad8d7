"""Which rank reads which block of a checkpoint: every block that any rank needs is read by one of them.

A function of what all ranks ask for, so that every rank comes to the same without asking the others. Blocks go to ranks
in spans of equal size, in the order in which they lie: a rank reads few long ranges.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

BLOCK_BYTES = 2**20
_KEPT_A_RANK = 32

Block = tuple[int, int]
"""The number of a file, and that of a block in it."""


class Cut(NamedTuple):
    """Bytes `first … last` of a file."""

    file: int
    first: int
    last: int

    def by_block(self) -> Iterator[tuple[Block, slice]]:
        """The blocks that it lies in, and where in each."""
        for number in range(self.first // BLOCK_BYTES, -(-self.last // BLOCK_BYTES)):
            start = number * BLOCK_BYTES
            yield (self.file, number), slice(max(self.first - start, 0), min(self.last - start, BLOCK_BYTES))


class Readers:
    """The rank of each block, one asking after another.

    A block that was asked for in part stays with its rank for the asking that follows, some a rank: slices of tensors
    that were divided among many ranks are smaller than a block, and their neighbours come next.
    """

    def __init__(self, world: int, sizes: Sequence[int]) -> None:
        """`sizes`: bytes of each file."""
        self._world, self._sizes = world, sizes
        self._kept: OrderedDict[Block, int] = OrderedDict()

    @property
    def kept(self) -> Mapping[Block, int]:
        """Blocks that stay where they are, and their ranks."""
        return self._kept

    def assign(self, cuts: Iterable[Cut]) -> dict[Block, int]:
        """The rank of each block that holds any of these, which all ranks ask for now."""
        asked = Counter[Block]()
        for cut in cuts:
            for block, span in cut.by_block():
                asked[block] += span.stop - span.start
        unread = sorted(block for block in asked if block not in self._kept)
        readers = {block: at * self._world // len(unread) for at, block in enumerate(unread)}
        readers |= {block: self._kept[block] for block in asked if block in self._kept}
        self._keep(asked, readers)
        return readers

    def _keep(self, asked: Mapping[Block, int], readers: Mapping[Block, int]) -> None:
        for block in sorted(asked):
            self._kept.pop(block, None)
            file, number = block
            if asked[block] < min(BLOCK_BYTES, self._sizes[file] - number * BLOCK_BYTES):
                self._kept[block] = readers[block]
        while len(self._kept) > self._world * _KEPT_A_RANK:
            self._kept.popitem(last=False)
