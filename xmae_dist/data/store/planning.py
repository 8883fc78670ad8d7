"""Which recordings go into which part of a window store, as the rows of a snapshot stream by in order.

Parts are planned from the snapshot alone. A part holds whole sources of one cohort and split, in the order of subject
and recording, about as many windows as keep its objects between a few and 64 MiB: the sum of all possible windows
divided by the parts wanted, within limits. Once that sum asks for the largest parts, no more is counted.

Cost: two passes over sorted rows, the first of them over a million possible windows at most. Memory: the rows of one
open part for each split, and for each cohort too where sources have partners on other clocks, since people wear several
devices and are gone through one by one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.data.store.part import MAX_PART_WINDOWS
from xmae_dist.data.windows import source_table
from xmae_dist.data.windows.source import WindowSource
from xmae_dist.data.windows.spans import windows_within
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SPLITS, SplitConfig
from xmae_dist.storage import index
from xmae_dist.storage.snapshot import recording_of

_MIN_PART_WINDOWS = 1024
_PARTS_WANTED = 32  # enough for a small corpus to keep a small cluster busy
_RECORDING = ("cohort", "subject_id", "recording_id")


@dataclass(frozen=True, kw_only=True)
class SourceBlock:
    """Neighbouring sources (S) of one cohort."""

    cohort: str
    rows: pa.Table
    """`source_table.SCHEMA`, numbered from 0."""
    subject_S: pa.Array
    possible_S: np.ndarray
    """Windows that each might give at most, judged by lengths alone."""


@dataclass(frozen=True, kw_only=True)
class PartRows:
    """The place of a part to be, and the rows of its sources, numbered from 0."""

    cohort: str
    split: str
    part: str
    rows: pa.Table


# -- blocks ----------------------------------------------------------------------------------------------------------


def blocks_of_rows(batches: Iterable[pa.RecordBatch], spec: WindowSpec) -> Iterator[SourceBlock]:
    """Every recording as a source; index rows come in the order of cohort, subject, recording and channel.

    Raises IntegrityError where a channel of a recording stands twice.
    """
    held = index.arrow_schema().empty_table()
    for batch in batches:
        rows = pa.concat_tables([held, pa.Table.from_batches([batch]).select(index.columns())])
        last = int(_begins(rows, _RECORDING)[-1])
        yield from _by_cohort(rows.slice(0, last), spec)
        held = rows.slice(last)  # the last recording may go on in the next batch
    yield from _by_cohort(held, spec)


def _by_cohort(rows: pa.Table, spec: WindowSpec) -> Iterator[SourceBlock]:
    if not rows.num_rows:
        return
    rows = rows.combine_chunks()
    cohort_starts = _begins(rows, ("cohort",))
    for first, stop in itertools.pairwise([*cohort_starts.tolist(), rows.num_rows]):
        yield _block(rows.slice(first, stop - first), spec)


def _block(rows: pa.Table, spec: WindowSpec) -> SourceBlock:
    first_S = _begins(rows, _RECORDING)
    _check_channels(rows, first_S)
    return SourceBlock(
        cohort=rows["cohort"][0].as_py(),
        rows=source_table.of_recordings(rows, first_S),
        subject_S=rows["subject_id"].take(pa.array(first_S)).combine_chunks(),
        possible_S=_possible(rows, first_S, spec),
    )


def _begins(rows: pa.Table, keys: Sequence[str]) -> np.ndarray:
    """Rows that differ from the one before in any of `keys`, the first row among them."""
    differs = np.zeros(rows.num_rows, bool)
    differs[:1] = True
    for name in keys:
        column = rows[name]
        differs[1:] |= pc.not_equal(column.slice(1), column.slice(0, rows.num_rows - 1)).to_numpy()
    return np.flatnonzero(differs)


def _check_channels(rows: pa.Table, first_S: np.ndarray) -> None:
    if len(_begins(rows, (*_RECORDING, "channel"))) == rows.num_rows:
        return
    for first, stop in itertools.pairwise([*first_S.tolist(), rows.num_rows]):
        recording_of(list(index.from_arrow(rows.slice(first, stop - first))), "")  # raises for the one that is meant


def _possible(rows: pa.Table, first_S: np.ndarray, spec: WindowSpec) -> np.ndarray:
    """As `spans.possible_windows` of each recording: by the shortest of the required channels that it has."""
    duration_R = rows["length"].to_numpy() / rows["rate_hz"].to_numpy()
    required_R = pc.is_in(rows["channel"], pa.array(spec.require)).to_numpy()
    shortest_S = np.minimum.reduceat(np.where(required_R, duration_R, np.inf), first_S)
    longest_S = np.maximum.reduceat(duration_R, first_S)
    return windows_within(np.where(np.isinf(shortest_S), longest_S, shortest_S), spec)


def block_of_sources(sources: Sequence[WindowSource], spec: WindowSpec) -> SourceBlock:
    """Sources of one cohort, with their partners."""
    return SourceBlock(
        cohort=sources[0].recording.cohort,
        rows=source_table.of_sources(sources),
        subject_S=pa.array([source.recording.subject_id for source in sources]),
        possible_S=np.array([source.possible_windows(spec) for source in sources]),
    )


# -- parts -----------------------------------------------------------------------------------------------------------


def part_windows(blocks: Iterable[SourceBlock]) -> int:
    """How many possible windows a part holds, as a rule; `blocks` are taken until that is known."""
    total = 0
    for block in blocks:
        total += int(block.possible_S.sum())
        if total >= MAX_PART_WINDOWS * _PARTS_WANTED:
            break
    return int(np.clip(total / _PARTS_WANTED, _MIN_PART_WINDOWS, MAX_PART_WINDOWS))


def plan_parts(blocks: Iterable[SourceBlock], split: SplitConfig, size: int, *, mixed: bool) -> Iterator[PartRows]:
    """Every source in exactly one part, of about `size` possible windows; parts come as they are full.

    Cohorts follow one another, unless `mixed`.
    """
    groups = [blocks] if mixed else (own for _, own in itertools.groupby(blocks, key=lambda block: block.cohort))
    for group in groups:
        yield from _filled(group, split, size)


def _filled(blocks: Iterable[SourceBlock], split: SplitConfig, size: int) -> Iterator[PartRows]:
    filling: dict[tuple[str, int], _Filling] = {}
    for block in blocks:
        split_S = _splits(block.subject_S, split)
        for number in np.unique(split_S).tolist():
            part = filling.setdefault((block.cohort, number), _Filling(cohort=block.cohort, split=SPLITS[number]))
            yield from part.add(block, np.flatnonzero(split_S == number), size)
    for part in filling.values():
        yield part.taken()


def _splits(subject_S: pa.Array, split: SplitConfig) -> np.ndarray:
    """The place in SPLITS of each subject."""
    coded = subject_S.dictionary_encode()
    place_U = np.array([SPLITS.index(split.of(subject)) for subject in coded.dictionary.to_pylist()])
    return place_U[coded.indices.to_numpy()]


@dataclass
class _Filling:
    """The part of a cohort and split that is being filled."""

    cohort: str
    split: str
    number: int = 0
    pieces: list[pa.Table] = field(default_factory=list)
    sources: int = 0
    windows: int = 0

    def add(self, block: SourceBlock, which_S: np.ndarray, size: int) -> Iterator[PartRows]:
        """Takes in some sources of a block; parts that no further source fits into come out."""
        while which_S.size:
            ends_S = np.cumsum(block.possible_S[which_S])
            fit = int(np.searchsorted(ends_S, size - self.windows, side="right"))
            fit = max(fit, 0 if self.sources else 1)  # one that fits nowhere is a part of its own
            self._take(block.rows, which_S[:fit])
            self.windows += int(ends_S[fit - 1]) if fit else 0
            which_S = which_S[fit:]
            if which_S.size:
                yield self.taken()

    def _take(self, rows: pa.Table, which_S: np.ndarray) -> None:
        source_R = rows["source"].to_numpy()
        chosen = np.flatnonzero(np.isin(source_R, which_S))
        if not chosen.size:
            return
        piece = rows.take(pa.array(chosen))
        renumbered = np.searchsorted(which_S, source_R[chosen]).astype(np.int32) + np.int32(self.sources)
        self.pieces.append(piece.set_column(0, piece.schema.field(0), pa.array(renumbered)))
        self.sources += which_S.size

    def taken(self) -> PartRows:
        """What is in it, as a part; the next one begins."""
        part = PartRows(
            cohort=self.cohort, split=self.split, part=f"p{self.number:06d}", rows=pa.concat_tables(self.pieces)
        )
        self.number, self.pieces, self.sources, self.windows = self.number + 1, [], 0, 0
        return part
