"""What a cohort holds minus what the table holds of it: recordings to embed, and recordings to take away.

Both sides are streamed into sorted runs on local disk and compared neighbour by neighbour, so memory does not grow with
the cohort: one run (`storage.ordered`). The difference itself is a pair of files in a folder of the caller's, read back
batch by batch. About 20 µs of CPU a recording of the cohort, most of it for the digest of its content.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import IntegrityError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.storage import index
from xmae_dist.storage.ordered import Runs

MISSING_SCHEMA = index.arrow_schema().append(pa.field("content", pa.string()))
GONE_SCHEMA = pa.schema([("recording_id", pa.string()), ("replaced", pa.bool_())])
HELD_SCHEMA = pa.schema([("recording_id", pa.string()), ("generation", pa.int64()), ("content", pa.string())])
_ROW_SCHEMA = pa.schema([*(field.with_nullable(True) for field in MISSING_SCHEMA), ("generation", pa.int64())])
_NOW = 2**62  # above every generation: the corpus's row of a recording comes after all of the table's
_MOST_HOURS, _MOST_RECORDINGS = 64.0, 16_384
_PARTS = 128


@dataclass(frozen=True, kw_only=True)
class WorkBatch:
    """Recordings that one worker encodes into one part, sorted by id; `key` depends on their contents and place."""

    key: str
    recordings: pa.Table
    """MISSING_SCHEMA, a row a recording."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Kept in local files below `folder`."""

    folder: Path
    missing: int
    """Recordings to embed."""
    hours: float
    """Of signal in these."""
    gone: int
    """Recordings of which the table holds rows that must leave it."""
    digest: str
    """Of all that it says."""

    @property
    def empty(self) -> bool:
        return not self.missing and not self.gone

    def batches(self) -> Iterator[WorkBatch]:
        """The missing recordings, sorted by id, in batches of equal hours: 128 of them or more, unless that were less
        than an hour each; none of more than 64 hours or 16,384 recordings.
        """
        most_hours = min(_MOST_HOURS, max(1.0, self.hours / _PARTS))
        for number, rows in enumerate(_cut(_read(self.folder / "missing"), most_hours)):
            digest = hashlib.sha256(_lines(rows)).hexdigest()[:16]
            yield WorkBatch(key=f"{number:06d}-{digest}", recordings=rows)

    def taken_away(self) -> Iterator[pa.RecordBatch]:
        """GONE_SCHEMA, sorted by recording id; `replaced`: the recording is among the missing too."""
        return _read(self.folder / "gone")


def content_digest(
    samples: str, rate_hz: float, gaps: list[list[int]], start_time_ns: int | None, subject_id: str
) -> str:
    """Digest of whatever changes the embedding of a recording: samples, rate, gaps, time, and whose it is."""
    facts = {
        "samples": samples, "rate_hz": rate_hz, "gaps": gaps, "start_time_ns": start_time_ns, "subject": subject_id
    }  # fmt: skip
    return digest_json(facts)


def difference(
    wanted: Iterable[pa.RecordBatch], held: Iterable[pa.RecordBatch], folder: str, *, embed: bool = True
) -> Difference:
    """`wanted`: the cohort's rows of the source channel, all columns. `held`: HELD_SCHEMA, the newest row of a
    recording counts, and null content is none. With `embed` False nothing is missing: what the cohort has with other
    content, or not at all, is gone. Raises IntegrityError where a recording has the channel twice.
    """
    runs, files = Path(folder) / "runs", Path(folder)
    runs.mkdir(exist_ok=True)
    rows = Runs(
        itertools.chain(map(_as_held, held), map(_as_wanted, wanted)), ("recording_id", "generation"), str(runs)
    )
    total, hours, gone, digest = 0, 0.0, 0, hashlib.sha256()
    with _writer(files / "missing", MISSING_SCHEMA) as missing_file, _writer(files / "gone", GONE_SCHEMA) as gone_file:
        for missing_rows, gone_rows in _compared(iter(rows), embed):
            missing_file.write_batch(missing_rows)
            gone_file.write_batch(gone_rows)
            total, gone = total + missing_rows.num_rows, gone + gone_rows.num_rows
            hours += pc.sum(pc.divide(missing_rows["length"], missing_rows["rate_hz"])).as_py() or 0.0
            digest.update(
                _lines(missing_rows) + b"-" + b"\n".join(gone_rows["recording_id"].cast(pa.binary()).to_pylist())
            )
    for spilled in runs.iterdir():
        spilled.unlink()
    return Difference(folder=files, missing=total, hours=hours / 3600, gone=gone, digest=digest.hexdigest()[:32])


def _as_held(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = {name: batch[name] for name in HELD_SCHEMA.names}
    return pa.RecordBatch.from_arrays(
        [columns.get(field.name, pa.nulls(batch.num_rows, field.type)) for field in _ROW_SCHEMA], schema=_ROW_SCHEMA
    )


def _as_wanted(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [batch[name] for name in index.columns()]
    entries = index.entries_of(batch["gaps"])
    gaps = [[[gap["start"], gap["stop"]] for gap in one or ()] for one in entries.to_pylist()]
    facts = (batch[name].to_pylist() for name in ("digest", "rate_hz", "start_time_ns", "subject_id"))
    contents = [
        content_digest(samples, rate_hz, spans, start_ns, subject)
        for samples, rate_hz, start_ns, subject, spans in zip(*facts, gaps, strict=True)
    ]
    generation = pa.array(np.full(batch.num_rows, _NOW))
    arrays = [*columns, pa.array(contents, pa.string()), generation]
    return pa.RecordBatch.from_arrays(
        [array.cast(field.type) for array, field in zip(arrays, _ROW_SCHEMA, strict=True)], schema=_ROW_SCHEMA
    )


def _compared(rows: Iterator[pa.RecordBatch], embed: bool) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Missing and gone recordings among sorted rows, batch by batch; every row is seen with its neighbours."""
    waiting: pa.Table | None = None  # the last two rows: one that was compared, one that waits for its successor
    for batch in itertools.chain(rows, [None]):
        pieces = [piece for piece in (waiting, batch and pa.Table.from_batches([batch])) if piece is not None]
        if not pieces:
            return
        window = pa.concat_tables(pieces).combine_chunks()
        first = 0 if waiting is None or len(waiting) == 1 else 1
        stop = len(window) - (batch is not None)
        yield from _compared_rows(window, first, stop, embed)
        waiting = window.slice(max(0, stop - 1))


def _compared_rows(
    window: pa.Table, first: int, stop: int, embed: bool
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Of rows [first, stop) of a window that has the row before and after them, where there is one."""
    if stop <= first:
        return
    names, contents = (window[name].to_numpy() for name in ("recording_id", "content"))
    known = pc.is_valid(window["content"]).to_numpy()
    wanted = window["generation"].to_numpy() == _NOW
    as_last = np.zeros(len(window), bool)  # whether it is the recording of the row before
    as_last[1:] = names[1:] == names[:-1]
    as_next = np.zeros(len(window), bool)
    as_next[:-1] = as_last[1:]
    _refuse_twins(window, wanted & as_last & _row_before(wanted))
    held = as_last & _row_before(known)
    equal = held & (contents == _row_before(contents))
    replaced, left = wanted & held & ~equal, ~wanted & ~as_next & known
    here = np.zeros(len(window), bool)
    here[first:stop] = True
    missing = window.filter(pa.array(wanted & ~equal & here & embed))
    gone = pa.table([window["recording_id"], pa.array(replaced & embed)], schema=GONE_SCHEMA)
    gone = gone.filter(pa.array((replaced | left) & here))
    yield _one_batch(missing.select(MISSING_SCHEMA.names).cast(MISSING_SCHEMA)), _one_batch(gone)


def _row_before(values: np.ndarray) -> np.ndarray:
    """Of each row, the value of the one before it; of the first, something."""
    return np.roll(values, 1)


def _refuse_twins(window: pa.Table, twins: np.ndarray) -> None:
    if twins.any():
        row = window.slice(int(np.argmax(twins)), 1).to_pylist()[0]
        raise IntegrityError(
            f"recording {row['cohort']}/{row['recording_id']}",
            value=f"channel {row['channel']} twice",
            expected="one row per channel",
            fix="`xmae repair` names the copies and can drop one",
        )


def _cut(rows: Iterator[pa.RecordBatch], most_hours: float) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    hours = n = 0.0
    for batch in rows:
        first = 0
        for at, length_s in enumerate(pc.divide(batch["length"], batch["rate_hz"]).to_pylist()):
            if n and (hours >= most_hours or n >= _MOST_RECORDINGS):
                yield pa.Table.from_batches([*held, batch.slice(first, at - first)])
                held, first, hours, n = [], at, 0.0, 0
            hours, n = hours + length_s / 3600, n + 1
        held.append(batch.slice(first))
    if n:
        yield pa.Table.from_batches(held)


def _lines(rows: pa.Table | pa.RecordBatch) -> bytes:
    """What a digest of missing recordings is taken of."""
    lines = pc.binary_join_element_wise(rows["recording_id"], rows["content"], "\0")
    return "\n".join(lines.to_pylist()).encode()


def _one_batch(rows: pa.Table) -> pa.RecordBatch:
    return (rows.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema=rows.schema)])[0]


def _writer(path: Path, schema: pa.Schema) -> pa.RecordBatchFileWriter:
    return pa.ipc.new_stream(str(path), schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))


def _read(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as batches:
        yield from batches
