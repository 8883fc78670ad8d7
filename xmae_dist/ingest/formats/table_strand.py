"""Columns of one table file that share a rate: which of its rows are samples, and where they lie in time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats import table_cells
from xmae_dist.ingest.formats.mapping import Mapping
from xmae_dist.ingest.formats.source import Block, Raw, SourceChannel, missing_value
from xmae_dist.ingest.formats.table_clock import Limits, Timeline, steps_of, timeline
from xmae_dist.ingest.formats.table_resample import Resampler
from xmae_dist.ingest.formats.table_time import UNIT_S, TimeCells, start_ns

# A file below this size is parsed once.
_HELD_BYTES = 16 * 2**20
# Times beyond this many rows lie in a temporary file.
_HELD_ROWS = 2**22
# A column with values in so regular a part of the rows has a rate of its own.
_REGULAR = 0.95
_FEWEST_FILLED = 20
# Repeats are dropped where nearly all rows that share a time are repeats.
_ALL_BUT = 0.9
# The clocks of devices differ from their nominal rate by less than this.
_WORTH_NOTING = 2e-3


class TableFile:
    """One file under its mapping: its rows in batches, parsed once where it is small."""

    def __init__(self, path: Path, mapping: Mapping) -> None:
        self.path, self.mapping = path, mapping
        self.schema = table_cells.schema(path, mapping)
        if mapping.time is not None:
            table_cells.require(self.schema, [mapping.time.column], path, mapping)
        self._held: list[pa.RecordBatch] | None = None

    @cached_property
    def rate_hz(self) -> float:
        """Rows a second, as declared or told above the table; of its fastest channel where neither says."""
        stated = table_cells.stated_rate_hz(self.path, self.mapping)
        return stated or max(channel.rate_hz or 0.0 for channel in self.mapping.channels)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All columns that the mapping names."""
        if self._held is not None:
            yield from self._held
            return
        time = [self.mapping.time.column] if self.mapping.time is not None else []
        named = [column for channel in self.mapping.channels for column in channel.columns]
        columns = [name for name in dict.fromkeys([*named, *time]) if name in self.schema.names]
        rows = table_cells.read_batches(self.path, self.mapping, columns, time)
        if self.path.stat().st_size <= _HELD_BYTES:
            self._held = list(rows)
            yield from self._held
        else:
            yield from rows

    def liveliest(self, columns: Sequence[str]) -> str:
        """The first of `columns` that holds more than one value; the first of all where none does."""
        low, high = dict.fromkeys(columns, np.inf), dict.fromkeys(columns, -np.inf)
        for batch in self.batches():
            for column in columns:
                values = table_cells.floats(batch.column(column), self.mapping, column)
                values = values[np.isfinite(values)]
                if values.size:
                    low[column] = min(low[column], float(values.min()))
                    high[column] = max(high[column], float(values.max()))
        return next((column for column in columns if low[column] < high[column]), columns[0])


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """Rows on a grid, the first at `first_s` after the first cell of the file. `repeats` (rows,) are left out;
    `timeline` is None where rows are samples as they stand.
    """

    timeline: Timeline | None
    repeats: NDArray[np.bool_] | None
    cells: TimeCells | None
    rows: int
    rows_per_s: float
    first_s: float = 0.0
    notes: tuple[str, ...] = ()


class Strand:
    """Channels of one rate in one file. `sparse`: their values stand in some rows only, where another rate is read
    from the same file; `named`: its notes name the file, of several in a recording.

    Reading raises InputError where times contradict the declared rate.
    """

    def __init__(
        self, file: TableFile, channels: Sequence[SourceChannel], rate_hz: float, *, sparse: bool, named: bool
    ) -> None:
        self._file, self.channels, self.rate_hz = file, tuple(channels), rate_hz
        self._sparse, self._named = sparse, named
        self._thing = f"times of {file.path.name}"
        if sparse:
            self._thing += f", column {self.channels[0].source_name!r}"

    @property
    def notes(self) -> tuple[str, ...]:
        where = f"{self._file.path.name}: " if self._named else ""
        return tuple(where + note for note in self._placed.notes)

    @cached_property
    def start_ns(self) -> int | None:
        """Wall time of the first sample, ns since 1970; None where the file does not tell."""
        mapping, placed = self._file.mapping, self._placed
        clock = mapping.time is not None and mapping.time.format == "clock"
        header = table_cells.header_start(self._file.path, mapping)
        return start_ns(placed.cells, self._offset_s, header, clock)

    @property
    def start_s(self) -> float | None:
        """When the first sample was taken, on the clock that files of one recording share; None if unknown."""
        if self.start_ns is not None:
            return self.start_ns / 1e9
        cells = self._placed.cells
        if cells is None:
            return self._offset_s if self._sparse else None
        return cells.first_s + self._offset_s

    def blocks(self) -> Iterator[Block]:
        """Samples of the channels, missing ones put in where rows are missing."""
        if self._file.mapping.resample:
            yield from self._resampled()
            return
        timeline = self._placed.timeline
        gaps = list(timeline.gaps) if timeline is not None else []
        row = 0
        for batch, rows in self._rows():
            holes = [(at - row, count) for at, count in gaps if row <= at < row + len(rows)]
            block = {channel.key: self._raw(batch, rows, channel) for channel in self.channels}
            yield {key: _with_holes(raw, holes) for key, raw in block.items()} if holes else block
            row += len(rows)

    @property
    def _offset_s(self) -> float:
        timeline = self._placed.timeline
        return self._placed.first_s + (0.0 if timeline is None else timeline.offset_s)

    def _raw(self, batch: pa.RecordBatch, rows: NDArray[np.int64], channel: SourceChannel) -> Raw:
        """A column as raw samples of the channel's type, nulls as missing."""
        column = batch.column(channel.source_name)
        if channel.dtype != "float32":
            filled = column.cast(pa.int64()).fill_null(missing_value(channel.dtype))
            raw = filled.to_numpy(zero_copy_only=False).astype(channel.dtype)
        else:
            raw = table_cells.floats(column, self._file.mapping, channel.source_name).astype(np.float32)
        return raw if len(rows) == len(raw) else raw[rows]

    def _rows(self) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int64]]]:
        """Batches with the rows of them that are samples of this strand."""
        repeats, at = self._placed.repeats, 0
        for batch in self._file.batches():
            rows = self._filled(batch)
            if repeats is not None:
                kept = rows[~repeats[at : at + len(rows)]]
                at += len(rows)
                rows = kept
            yield batch, rows

    def _filled(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        if not self._sparse:
            return np.arange(batch.num_rows)
        filled = np.zeros(batch.num_rows, dtype=bool)
        for channel in self.channels:
            filled |= batch.column(channel.source_name).is_valid().to_numpy(zero_copy_only=False)
        return np.flatnonzero(filled)

    @cached_property
    def _placed(self) -> _Placed:
        mapping = self._file.mapping
        if not self._sparse:
            self._check_every_row_filled()
        if mapping.time is None and not self._sparse:
            return _Placed(timeline=None, repeats=None, cells=None, rows=0, rows_per_s=self.rate_hz)
        cells = TimeCells(mapping, self._file.path.name) if mapping.time is not None else None
        with _Gathered() as gathered:
            same: list[NDArray[np.bool_]] = []
            for times_s, repeats in self._times(cells):
                gathered.add(times_s)
                same.append(repeats)
            times_s = gathered.whole()
            repeats = np.concatenate(same) if same else np.empty(0, dtype=bool)
            if not len(times_s):
                return _Placed(timeline=None, repeats=None, cells=cells, rows=0, rows_per_s=self.rate_hz)
            return self._on_grid(cells, times_s, repeats)

    def _on_grid(self, cells: TimeCells | None, times_s: NDArray[np.float64], repeats: NDArray[np.bool_]) -> _Placed:
        mapping = self._file.mapping
        if mapping.resample:
            return self._to_resample(cells, times_s)
        limits = self._limits()
        drop = _worth_dropping(times_s, repeats)
        try:
            found = timeline(times_s[~repeats] if drop else times_s, limits, self._thing)
        except InputError:
            if not drop:
                raise
            drop = False
            found = timeline(times_s, limits, self._thing)
        notes = self._noted(found, int(repeats.sum()) if drop else 0)
        if cells is not None and cells.absolute and cells.first_ns() is None:
            notes.append("its dates lie beyond the year 2262: the start is left unknown")
        return _Placed(
            timeline=found,
            repeats=repeats if drop else None,
            cells=cells,
            rows=found.rows,
            rows_per_s=found.rate_hz,
            first_s=float(times_s[0]),
            notes=tuple(notes),
        )

    def _noted(self, found: Timeline, dropped: int) -> list[str]:
        notes: list[str] = []
        if dropped:
            notes.append(f"{dropped:,} repeated rows dropped (equal in time and in every value)")
        drift = found.rate_hz / self.rate_hz - 1
        # Of a short file's span half a sample is a notable part.
        if abs(drift) > _WORTH_NOTING + 1 / max(found.rows, 1):
            notes.append(
                f"{found.rate_hz:.5g} samples per second measured where {self.rate_hz:g} are declared: "
                f"times within it are out by up to {abs(drift):.2%}"
            )
        if found.scatter_samples > 0.5:
            notes.append(
                f"its times scatter by up to {found.scatter_samples / self.rate_hz * 1e3:.0f} ms around steady "
                "ones and are taken as times of arrival; set resample = true if samples were taken then"
            )
        return notes

    def _limits(self) -> Limits:
        time = self._file.mapping.time
        if time is None:
            return Limits(rate_hz=self.rate_hz)
        return Limits(
            rate_hz=self.rate_hz,
            gap_after_samples=time.gap_after_samples,
            longest_gap_s=time.longest_gap_s,
            rate_tolerance=time.rate_tolerance,
            packet_stamp=time.packet_stamp,
            unit_s=UNIT_S.get(time.format, 1.0),
        )

    def _times(self, cells: TimeCells | None) -> Iterator[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
        """Seconds after the first sample of each row that is one, and whether it repeats the row before it."""
        last_s, last = np.nan, None
        row = 0
        for batch in self._file.batches():
            rows = self._filled(batch)
            if cells is not None:
                assert self._file.mapping.time is not None
                times_s = cells.seconds(batch.column(self._file.mapping.time.column))[rows]
            else:
                times_s = (rows + row) / self._file.rate_hz
            row += batch.num_rows
            if not len(rows):
                continue
            still = np.flatnonzero(np.diff(times_s, prepend=last_s) == 0)
            repeats = np.zeros(len(rows), dtype=bool)
            if len(still):
                values = self._values(batch, rows)
                before = np.concatenate([values[:1] if last is None else last, values[:-1]])
                equal = (values[still] == before[still]) | (np.isnan(values[still]) & np.isnan(before[still]))
                repeats[still] = equal.all(axis=1)
            last_s, last = times_s[-1], self._values(batch.slice(int(rows[-1]), 1), np.array([0]))
            yield times_s, repeats

    def _values(self, batch: pa.RecordBatch, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        columns = [batch.column(channel.source_name) for channel in self.channels]
        names = [channel.source_name for channel in self.channels]
        values = [table_cells.floats(column, self._file.mapping, n) for column, n in zip(columns, names, strict=True)]
        return np.stack(values, axis=1)[rows]

    def _check_every_row_filled(self) -> None:
        """Raises InputError where a column has a value in every k-th row only: it has a rate of its own."""
        batch = next((one for one in self._file.batches() if one.num_rows), None)
        if batch is None:
            return
        for channel in self.channels:
            column = batch.column(channel.source_name)
            if column.null_count < 0.4 * len(column):
                continue
            filled = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            steps = np.diff(filled)
            usual = int(np.median(steps)) if len(steps) else 0
            if len(filled) < _FEWEST_FILLED or usual < 2 or np.mean(np.abs(steps - usual) <= 1) < _REGULAR:
                continue
            rate_hz = self.rate_hz * len(steps) / (filled[-1] - filled[0])
            raise InputError(
                f"column {channel.source_name!r} of {self._file.path.name}",
                value=f"a value in about every {usual}th row",
                expected="a value in each row, or a rate of its own",
                fix=f"give the channel rate_hz in the mapping file ({rate_hz:.5g} if rows come at {self.rate_hz:g} Hz)",
            )

    def _to_resample(self, cells: TimeCells | None, times_s: NDArray[np.float64]) -> _Placed:
        steps_s = np.diff(times_s)
        back = np.flatnonzero(~(steps_s >= 0))
        if len(back) or len(times_s) < 2:
            raise InputError(
                self._thing,
                value=f"a step back at row {back[0] + 2}" if len(back) else f"{len(times_s)} rows",
                expected="times that increase",
                fix="put the rows in order, or split the file where the clock was set",
            )
        rows_per_s = float((len(times_s) - 1) / (times_s[-1] - times_s[0])) if times_s[-1] > times_s[0] else 0.0
        if not 0.2 < rows_per_s / self.rate_hz < 50:
            raise InputError(
                self._thing,
                value=f"{rows_per_s:.6g} rows per second to resample to {self.rate_hz:g} Hz",
                expected="rows of about that rate, or up to fifty times it",
                fix="correct time.format or rate_hz in the mapping file",
            )
        self._check_resampled_gaps(steps_s)
        note = f"resampled from {rows_per_s:.5g} rows per second to {self.rate_hz:g} Hz ({steps_of(times_s)})"
        return _Placed(
            timeline=None,
            repeats=None,
            cells=cells,
            rows=len(times_s),
            rows_per_s=rows_per_s,
            first_s=float(times_s[0]),
            notes=(note,),
        )

    def _check_resampled_gaps(self, steps_s: NDArray[np.float64]) -> None:
        longest_s = self._limits().longest_gap_s
        if steps_s.max() > longest_s:
            raise InputError(
                self._thing,
                value=f"a gap of {steps_s.max():.0f} s before row {int(np.argmax(steps_s)) + 2}",
                expected=f"at most {longest_s:g} s",
                fix="split the file there, or raise time.longest_gap_s",
            )

    def _resampled(self) -> Iterator[Block]:
        placed, mapping = self._placed, self._file.mapping
        if not placed.rows:
            return
        resampler = Resampler(self.rate_hz, placed.rows_per_s, mapping.bridge_s)
        cells = TimeCells(mapping, self._file.path.name)
        assert mapping.time is not None
        first_s: float | None = None
        for batch in self._file.batches():
            rows = self._filled(batch)
            times_s = cells.seconds(batch.column(mapping.time.column))[rows]
            if not len(rows):
                continue
            first_s = float(times_s[0]) if first_s is None else first_s
            yield self._as_block(resampler.push(times_s - first_s, self._values(batch, rows)))
        yield self._as_block(resampler.finish())

    def _as_block(self, samples_MC: NDArray[np.float64]) -> Block:
        return {channel.key: samples_MC[:, at].astype(np.float32) for at, channel in enumerate(self.channels)}


class _Gathered:
    """Times of a file in one array: in memory, or in a temporary file where they are many."""

    def __init__(self) -> None:
        self._held: list[NDArray[np.float64]] = []
        self._rows = 0
        self._file: Any = None

    def __enter__(self) -> _Gathered:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, times_s: NDArray[np.float64]) -> None:
        self._held.append(times_s)
        self._rows += len(times_s)
        if sum(map(len, self._held)) > _HELD_ROWS:
            self._file = self._file or tempfile.TemporaryFile(prefix="xmae-times-")  # noqa: SIM115
            for part in self._held:
                part.tofile(self._file)
            self._held = []

    def whole(self) -> NDArray[np.float64]:
        if self._file is None:
            return np.concatenate(self._held) if self._held else np.empty(0)
        for part in self._held:
            part.tofile(self._file)
        self._file.flush()
        return np.memmap(self._file, dtype=np.float64, mode="r", shape=(self._rows,))


def _worth_dropping(times_s: NDArray[np.float64], repeats: NDArray[np.bool_]) -> bool:
    """Whether rows that share a time do so because they are repeats, and not because a packet has one time."""
    parts = (times_s[at : at + _HELD_ROWS + 1] for at in range(0, len(times_s), _HELD_ROWS))
    still = sum(int(np.count_nonzero(np.diff(part) == 0)) for part in parts)
    return bool(still) and int(repeats.sum()) >= _ALL_BUT * still


def _with_holes(raw: Raw, holes: list[tuple[int, int]]) -> Raw:
    """`raw` with `count` missing samples put before each row of `holes` = [(row, count), …]."""
    mark = missing_value(raw.dtype)
    pieces: list[NDArray[Any]] = []
    start = 0
    for row, count in holes:
        pieces += [raw[start:row], np.full(count, mark, dtype=raw.dtype)]
        start = row
    return np.concatenate([*pieces, raw[start:]])
