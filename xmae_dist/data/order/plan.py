"""The plan: which window stands at which position of one endless stream, as a pure function.

Step k takes positions k·G … (k+1)·G−1 (G = global batch), rank r of W the columns ⌊r·G/W⌋ … ⌊(r+1)·G/W⌋−1
of that span. Nothing depends on ranks, readers or nodes, nothing is kept in memory, and every step is as
near as step 0.

How a position becomes a window id:

1. Epochs of N windows follow one another. Position p belongs to epoch p // N.
2. The stream is cut into *blocks* of `block_steps` steps (and at epoch ends). Seen as a grid, a block has a
   row for each step and a column for each of the G places in a batch.
3. The mixture says how many windows of each cohort a block holds; each cohort hands out its next ones, chunk
   after chunk in a keyed random order, each chunk shuffled (`chunk_order`).
4. These windows, cohort after cohort, fill the grid column by column from a keyed starting column.

So with block_steps = windows per chunk, a chunk is spread over as many successive batches, one window in each:
every batch draws its G windows from G different chunks, as diverse as a full shuffle, while a rank's share of
a block is a contiguous run of whole chunks, read once, by any number of ranks. The price: the same chunks
feed `block_steps` steps in a row.

Shapes: B positions or ids; C cohorts; G columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import ConfigError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.core.seeds import hash_u64
from xmae_dist.data.order.chunks import ChunkOrder, SegmentLike
from xmae_dist.data.order.mixture import MixtureConfig, counts_at, epoch_shares

IntArray = NDArray[np.int64]

_ORDER_VERSION = "xmae-order/v1"


class SegmentSource(Protocol):
    """What a plan needs of a window store."""

    @property
    def chunk_windows(self) -> int: ...
    def segments(self, split: str) -> Sequence[SegmentLike]: ...


@dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """The order of a run: with the store's segments it determines every window id of every step."""

    seed: int = 0
    global_batch: int = 256
    """Windows in one optimizer step over all ranks; constant when the number of ranks changes."""
    split: str = "train"
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    read_windows: int | None = None
    """Neighbouring windows read in one request: a multiple of the store's windows per chunk, which is the default.
    Far object stores like fewer, larger requests; a batch then draws on fewer, longer stretches."""
    block_steps: int | None = None
    """Steps fed by the same chunks; None: `read_windows`, for the most diverse batches. A rank
    holds about 4 · block_steps · global_batch / ranks windows in memory."""


def plan_for(store: SegmentSource, config: OrderConfig) -> Plan:
    """The plan of `config` over a window store; ConfigError for an empty split or a wrong option."""
    return plan_of(store.segments(config.split), store.chunk_windows, config)


def plan_of(segments: Iterable[SegmentLike], chunk_windows: int, config: OrderConfig) -> Plan:
    """The plan of `config` over segments whose parts are stored in chunks of `chunk_windows`."""
    for name, number in (("global_batch", config.global_batch), ("block_steps", config.block_steps or 1)):
        if number < 1:
            raise ConfigError(name, value=number, expected="1 or more")
    read_windows = config.read_windows or chunk_windows
    if read_windows < 1 or read_windows % chunk_windows:
        raise ConfigError("read_windows", value=read_windows, expected=f"a multiple of {chunk_windows}")
    by_cohort: dict[str, list[SegmentLike]] = {}
    for segment in segments:
        by_cohort.setdefault(segment.cohort, []).append(segment)
    sizes = {cohort: sum(s.n for s in own) for cohort, own in by_cohort.items()}
    if not sum(sizes.values()):
        raise ConfigError(f"split {config.split!r}", value="no windows", expected="a split with windows in it")
    shares = epoch_shares(sizes, config.mixture)
    return Plan(
        seed=config.seed,
        global_batch=config.global_batch,
        block_steps=config.block_steps or read_windows,
        cohorts=tuple(ChunkOrder.of(cohort, by_cohort[cohort], read_windows) for cohort in shares),
        shares=tuple(shares.values()),
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The order of one run. Make it with `plan_for` or `plan_of`."""

    seed: int
    global_batch: int
    block_steps: int
    cohorts: tuple[ChunkOrder, ...]
    shares: tuple[int, ...]
    """Windows of each cohort in one epoch."""

    # sizes

    @cached_property
    def epoch_windows(self) -> int:
        return sum(self.shares)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that cover the first epoch (the last of them may begin the second)."""
        return -(-self.epoch_windows // self.global_batch)

    def epoch_of(self, step: int) -> int:
        """The epoch in which `step` begins."""
        return step * self.global_batch // self.epoch_windows

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change whenever any window id at any position would."""
        order = [(c.cohort, c.chunk_windows, c.segments) for c in self.cohorts]
        return digest_json([_ORDER_VERSION, self.seed, self.global_batch, self.block_steps, order, self.shares])

    # steps and ranks

    def columns(self, world: int = 1, rank: int = 0) -> tuple[int, int]:
        """The columns [first, last) of every batch that belong to `rank`; ConfigError if impossible."""
        if not 1 <= world <= self.global_batch:
            raise ConfigError("world", value=world, expected=f"1 to global_batch = {self.global_batch}")
        if not 0 <= rank < world:
            raise ConfigError("rank", value=rank, expected=f"0 to {world - 1}")
        return rank * self.global_batch // world, (rank + 1) * self.global_batch // world

    def ids(self, step: int, world: int = 1, rank: int = 0) -> IntArray:
        """The window ids of `rank`'s share of `step`, in the order in which they stand in the batch."""
        return self.ids_of_steps(step, step + 1, world, rank)[0]

    def ids_of_steps(self, start_step: int, stop_step: int, world: int = 1, rank: int = 0) -> IntArray:
        """The same for a run of steps, a row each: (steps, columns of the rank)."""
        if start_step < 0:
            raise ConfigError("step", value=start_step, expected="0 or more")
        position = self._positions(start_step, stop_step, world, rank)
        return self.ids_at(position.ravel()).reshape(position.shape)

    def epochs_of_steps(self, start_step: int, stop_step: int, world: int = 1, rank: int = 0) -> IntArray:
        """The epoch of each window of a run of steps: (steps, columns of the rank)."""
        return self._positions(start_step, stop_step, world, rank) // self.epoch_windows

    def repeats_of_steps(self, start_step: int, stop_step: int, world: int = 1, rank: int = 0) -> IntArray:
        """How often each window of a run of steps has come before in its epoch: (steps, columns of the rank).

        All 0 where the mixture shows every window once in an epoch.
        """
        position = self._positions(start_step, stop_step, world, rank)
        return self.repeats_at(position.ravel()).reshape(position.shape)

    def _positions(self, start_step: int, stop_step: int, world: int, rank: int) -> IntArray:
        """Places in the endless stream: (steps, columns of the rank)."""
        first, last = self.columns(world, rank)
        return np.arange(start_step, stop_step)[:, None] * self.global_batch + np.arange(first, last)

    def blocks(self, start_step: int, stop_step: int) -> Iterator[tuple[int, int]]:
        """The runs of steps [start, stop) that share chunks: the units of reading."""
        while start_step < stop_step:
            end = min((start_step // self.block_steps + 1) * self.block_steps, stop_step)
            yield start_step, end
            start_step = end

    # positions to ids and back

    def ids_at(self, position_B: IntArray) -> IntArray:
        """The window ids at positions of the endless stream."""
        position_B = np.asarray(position_B, np.int64)
        start_B = self._cell_starts(position_B)
        ids_B = np.empty_like(position_B)
        for start in np.unique(start_B):
            here = start_B == start
            ids_B[here] = self._cell(int(start)).ids_at(position_B[here])
        return ids_B

    def repeats_at(self, position_B: IntArray) -> IntArray:
        """How often the windows at these positions have come before in their epoch, in the order of their cohort."""
        position_B = np.asarray(position_B, np.int64)
        repeat_B = np.zeros_like(position_B)
        if all(share == order.size for share, order in zip(self.shares, self.cohorts, strict=True)):
            return repeat_B  # an epoch is one pass
        start_B = self._cell_starts(position_B)
        for start in np.unique(start_B):
            here = start_B == start
            repeat_B[here] = self._cell(int(start)).repeats_at(position_B[here])
        return repeat_B

    def positions_of(self, ids_B: IntArray, epoch: int) -> tuple[IntArray, IntArray]:
        """Where `ids_B` stand in one epoch: (positions, ids at them), sorted by position.

        An id that the epoch does not hold is absent, one that a repeat shows twice is there twice.
        """
        ids_B = np.unique(np.asarray(ids_B, np.int64))
        found = [self._positions_in_cohort(c, ids_B, epoch) for c in range(len(self.cohorts))]
        position_B = np.concatenate(found)
        position_B = np.sort(position_B)
        return position_B, self.ids_at(position_B)

    def _positions_in_cohort(self, c: int, ids_B: IntArray, epoch: int) -> IntArray:
        order, share = self.cohorts[c], self.shares[c]
        first, last = epoch * share, (epoch + 1) * share
        passes = range(first // order.size, -(-last // order.size))
        index_B = np.concatenate([order.index_of(ids_B, p, self.seed) for p in passes])
        index_B = np.sort(index_B[(index_B >= first) & (index_B < last)]) - first
        start_B = self._cell_starts(epoch * self.epoch_windows + self._first_position(c, index_B))
        found = [self._cell(int(start)).positions_of(c, index_B[start_B == start]) for start in np.unique(start_B)]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _first_position(self, c: int, index_B: IntArray) -> IntArray:
        """The place in the epoch at which the mixture calls cohort `c` for the (index+1)-th time."""
        low_B, high_B = np.zeros_like(index_B), np.full_like(index_B, self.epoch_windows)
        # Smallest p with count(p) > index; the call that raised the count to it stands at p - 1.
        while np.any(low_B < high_B):
            middle_B = (low_B + high_B) // 2
            enough_B = counts_at(middle_B, self.shares)[:, c] > index_B
            low_B, high_B = np.where(enough_B, low_B, middle_B + 1), np.where(enough_B, middle_B, high_B)
        return low_B - 1

    # cells

    def _cell_starts(self, position_B: IntArray) -> IntArray:
        """The start of each position's cell: a block, or the piece of a block that lies in one epoch."""
        block = self.block_steps * self.global_batch
        return np.maximum(position_B // block * block, position_B // self.epoch_windows * self.epoch_windows)

    def _cell(self, start: int) -> _Cell:
        block = self.block_steps * self.global_batch
        epoch = start // self.epoch_windows
        stop = min((start // block + 1) * block, (epoch + 1) * self.epoch_windows)
        return _Cell(self, start, stop, epoch)


class _Cell:
    """Positions [start, stop) of one epoch and one block, and the grid that they fill."""

    def __init__(self, plan: Plan, start: int, stop: int, epoch: int) -> None:
        self._plan, self._start, self._stop, self._epoch = plan, start, stop, epoch
        bounds = np.array([start, stop]) - epoch * plan.epoch_windows
        self._before_C, after_C = counts_at(bounds, plan.shares)
        self._run_ends_C = np.cumsum(after_C - self._before_C)
        self._run_starts_C = self._run_ends_C - (after_C - self._before_C)
        # Whole columns, so that a column stays one chunk.
        columns = max(1, (stop - start) // plan.block_steps)
        self._rotation = int(hash_u64("block", plan.seed, start) % np.uint64(columns)) * plan.block_steps

    def ids_at(self, position_B: IntArray) -> IntArray:
        ids_B = np.empty_like(position_B)
        for c, here, index in self._in_cohorts(position_B):
            ids_B[here] = self._plan.cohorts[c].ids_at(index, self._plan.seed)
        return ids_B

    def repeats_at(self, position_B: IntArray) -> IntArray:
        repeat_B = np.empty_like(position_B)
        for c, here, index in self._in_cohorts(position_B):
            order, first = self._plan.cohorts[c], self._epoch * self._plan.shares[c]
            # Whole passes since the epoch began show a window once each; the one it began in may have shown it before.
            began = first // order.size
            passes = index // order.size - began
            ids = order.ids_at(index, self._plan.seed)
            missed = order.index_of(ids, began, self._plan.seed) < first
            repeat_B[here] = passes - (missed & (passes > 0))
        return repeat_B

    def _in_cohorts(self, position_B: IntArray) -> Iterator[tuple[int, NDArray[np.bool_], IntArray]]:
        """(cohort, which positions are its, their places in its endless sequence)."""
        row_B, column_B = np.divmod(position_B, self._plan.global_batch)
        place_B = self._column_start(column_B) + row_B - self._top_row(column_B) + self._rotation
        place_B %= self._stop - self._start
        cohort_B = np.searchsorted(self._run_ends_C, place_B, side="right")
        index_B = place_B - self._run_starts_C[cohort_B] + self._before_C[cohort_B]
        for c in np.unique(cohort_B):
            here = cohort_B == c
            yield int(c), here, index_B[here] + self._epoch * self._plan.shares[c]

    def positions_of(self, c: int, index_B: IntArray) -> IntArray:
        """The positions of the windows that stand at `index_B` of cohort `c`'s share of this epoch."""
        place_B = index_B - self._before_C[c] + self._run_starts_C[c]
        place_B = (place_B - self._rotation) % (self._stop - self._start)
        starts_G = self._column_start(np.arange(self._plan.global_batch + 1))
        column_B = np.searchsorted(starts_G, place_B, side="right") - 1
        row_B = place_B - starts_G[column_B] + self._top_row(column_B)
        return row_B * self._plan.global_batch + column_B

    def _column_start(self, column_B: IntArray) -> IntArray:
        """How many positions of the cell stand in columns left of `column_B`."""
        width = self._plan.global_batch

        def left_of(position: int) -> IntArray:
            return position // width * column_B + np.minimum(position % width, column_B)

        return left_of(self._stop) - left_of(self._start)

    def _top_row(self, column_B: IntArray) -> IntArray:
        """The first row of each column: a cell may begin in the middle of a row."""
        width = self._plan.global_batch
        return self._start // width + (self._start % width > column_B)
