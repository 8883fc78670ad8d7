"""Rows in order, however many: sorted runs on local disk, merged batch by batch.

Memory: one run while rows are taken in (RUN_ROWS), one batch of each run while they are merged, which is 1 to 2 MB
for each 131,072 rows of the index. Disk: all rows once (compressed by lz4; about 170 bytes a row of the index), in the
place of temporary files (TMPDIR), unless there is but one run, which stays in memory.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

RUN_ROWS = 131_072
BATCH_ROWS = 4096


class Runs:
    """Rows sorted by `keys`, in runs: taken in once, read back as one sorted stream."""

    def __init__(self, batches: Iterable[pa.RecordBatch], keys: Sequence[str], folder: str) -> None:
        """`folder`: where runs go, empty. Raises what `batches` raises; the folder then holds runs of no use."""
        self._keys, self._folder = list(keys), Path(folder)
        self._spilled: list[Path] = []
        self._last: pa.Table | None = None
        held: list[pa.RecordBatch] = []
        rows = 0
        for batch in batches:
            if not batch.num_rows:
                continue
            if rows + batch.num_rows > RUN_ROWS and held:
                self._spill(self._sorted(held))
                held, rows = [], 0
            held.append(batch)
            rows += batch.num_rows
        if held:
            self._last = self._sorted(held)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """All rows in order, in batches that are not empty: whole runs where there is but one."""
        if not self._spilled and self._last is not None:
            yield from self._last.to_batches()
            return
        runs = [_Run(_read(path), self._keys) for path in self._spilled]
        if self._last is not None:
            runs.append(_Run(iter(self._last.to_batches(max_chunksize=BATCH_ROWS)), self._keys))
        while runs := [run for run in runs if run.batch is not None]:
            # Whatever is not greater than the least last row of these batches has been read from every run.
            bound = min(run.last for run in runs)
            pieces = [piece for run in runs if (piece := run.taken_to(bound)) is not None]
            yield from self._sorted(pieces).to_batches()

    def _sorted(self, batches: Sequence[pa.RecordBatch]) -> pa.Table:
        # Each commit's rows are sorted, and most commits follow one another: often it is enough to sort the batches.
        rows = pa.Table.from_batches(sorted(batches, key=lambda batch: _key(_columns(batch, self._keys), 0)))
        if not _in_order(rows, self._keys):
            rows = rows.sort_by([(key, "ascending") for key in self._keys])
        return rows.combine_chunks()

    def _spill(self, rows: pa.Table) -> None:
        path = self._folder / f"{len(self._spilled)}.arrow"
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, rows.schema, options=options) as sink:
            sink.write_table(rows, max_chunksize=BATCH_ROWS)
        self._spilled.append(path)


def _in_order(rows: pa.Table, keys: Sequence[str]) -> bool:
    """Whether they are sorted already: a tenth of what sorting costs."""
    tied: pa.ChunkedArray | None = None  # of each row but the first: whether it is as the row before, so far
    for key in keys:
        before, after = rows[key].slice(0, rows.num_rows - 1), rows[key].slice(1)
        falls = pc.greater(before, after)
        if pc.any(falls if tied is None else pc.and_(tied, falls)).as_py():
            return False
        same = pc.equal(before, after)
        tied = same if tied is None else pc.and_(tied, same)
    return True


def _columns(batch: pa.RecordBatch, keys: Sequence[str]) -> list[pa.Array]:
    return [batch.column(key) for key in keys]


def _key(columns: Sequence[pa.Array], row: int) -> tuple[Any, ...]:
    return tuple([column[row].as_py() for column in columns])


class _Run:
    """What is left of one sorted run; `batch` is None at its end."""

    def __init__(self, batches: Iterator[pa.RecordBatch], keys: Sequence[str]) -> None:
        self._batches, self._keys = batches, keys
        self._hold(next(batches, None))

    def _hold(self, batch: pa.RecordBatch | None) -> None:
        self.batch = batch
        if batch is not None:
            self._columns = _columns(batch, self._keys)
            self._first, self.last = _key(self._columns, 0), _key(self._columns, batch.num_rows - 1)

    def taken_to(self, bound: tuple[Any, ...]) -> pa.RecordBatch | None:
        """Takes the rows of the batch that are not greater than `bound`; None where there are none."""
        assert self.batch is not None
        if self._first > bound:
            return None
        cut = bisect.bisect_right(range(self.batch.num_rows), bound, key=lambda row: _key(self._columns, row))
        taken, left = self.batch.slice(0, cut), self.batch.slice(cut)
        self._hold(left if left.num_rows else next(self._batches, None))
        return taken


def _read(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as batches:
        yield from batches
