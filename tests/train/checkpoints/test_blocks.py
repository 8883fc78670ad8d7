"""Which rank reads which block: all ranks come to the same, and no block is read twice while it is kept."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from xmae_dist.train.checkpoints import blocks
from xmae_dist.train.checkpoints.blocks import BLOCK_BYTES, Cut, Readers

FILES = 3
SIZE = 5 * BLOCK_BYTES - 1000


@st.composite
def askings(draw: st.DrawFn) -> list[list[Cut]]:
    """All bytes of some files, divided anyhow, asked for in several turns."""
    cuts = []
    for file in range(FILES):
        at = sorted({0, SIZE, *draw(st.lists(st.integers(1, SIZE - 1), max_size=8))})
        cuts += [Cut(file, first, last) for first, last in itertools.pairwise(at)]
    cuts = draw(st.permutations(cuts))
    turns = draw(st.integers(1, 4))
    return [cuts[turn::turns] for turn in range(turns)]


@given(turns=askings(), world=st.integers(1, 5))
def test_each_block_is_read_once(turns: list[list[Cut]], world: int) -> None:
    readers, read = Readers(world, [SIZE] * FILES), []
    for cuts in turns:
        kept = dict(readers.kept)
        assigned = readers.assign(cuts)
        assert assigned.keys() == {block for cut in cuts for block, _ in cut.by_block()}
        assert all(assigned[block] == kept[block] for block in assigned if block in kept), "it has it already"
        new = [block for block in assigned if block not in kept]
        read += new
        share = [sum(assigned[block] == rank for block in new) for rank in range(world)]
        assert max(share) - min(share) <= 1
    assert sorted(read) == [(file, number) for file in range(FILES) for number in range(5)]


def test_a_cut_says_where_it_lies_in_each_block() -> None:
    cut = Cut(2, BLOCK_BYTES - 10, 2 * BLOCK_BYTES + 5)
    assert list(cut.by_block()) == [
        ((2, 0), slice(BLOCK_BYTES - 10, BLOCK_BYTES)),
        ((2, 1), slice(0, BLOCK_BYTES)),
        ((2, 2), slice(0, 5)),
    ]


def test_what_is_kept_is_bounded() -> None:
    readers = Readers(2, [1000 * BLOCK_BYTES])
    readers.assign([Cut(0, number * BLOCK_BYTES, number * BLOCK_BYTES + 1) for number in range(1000)])
    assert len(readers.kept) == 2 * blocks._KEPT_A_RANK
