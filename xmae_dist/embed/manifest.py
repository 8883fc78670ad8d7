"""Which recordings a table holds, and of which content: a Delta table beside the rows, a row a recording and change.

    <table>/_manifests/     partitioned by lineage: recording_id, content, windows, generation, request, parent

A request appends what it changes before its own commit, so rows of a request that then died, or lost a race, may be
there. The embedding table states which request a lineage is at, and every row names the parent of its request, the one
before it: rows of this chain count, and no others. Of a recording the row of the greatest generation counts; one with
null content says that the recording left. Recordings that gave no windows have a row too.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.embed import manifest_v1
from xmae_dist.embed.positions import Position
from xmae_dist.embed.request import NOT_WANTED, Lineage, OvertakenError, Request
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.file_actions import DataFile, FileChange, statistics
from xmae_dist.storage.ordered import Runs
from xmae_dist.storage.table import PinnedTable, Table

SCHEMA = pa.schema(
    [
        ("lineage", pa.string()),
        ("recording_id", pa.string()),
        ("content", pa.string()),
        ("windows", pa.int64()),
        ("generation", pa.int64()),
        ("request", pa.string()),
        ("parent", pa.string()),
    ]
)
_ROWS_A_FILE = 262_144
_FILES_LEFT = 16
"""So many more files than needed are let be: each costs a read a request of its own."""
_KEYS = ["recording_id", "generation", "content"]


def manifest_table(table_url: str) -> Table:
    return Table(uri.join(table_url, "_manifests"))


def held(table_url: str, lineage: Lineage, position: Position) -> Iterator[pa.RecordBatch]:
    """The rows of a lineage that count at a position: `recording_id`, `generation` and `content`, in no certain order.
    A recording has one for each change. Raises IntegrityError where the manifest of that position is missing.
    """
    if not position.generation:
        return
    there = manifest_table(table_url).newest()
    if there is None or there.transaction_version(lineage.id) is None:
        yield from (batch.select(_KEYS) for batch in manifest_v1.rows(table_url, lineage, position))
        return
    counting = _chain(_parents(there, lineage.id), position.request)
    for batch in there.stream([*_KEYS, "request"], [("lineage", "=", lineage.id)]):
        yield _among(batch, counting).select(_KEYS)


def _parents(there: PinnedTable, lineage_id: str) -> dict[str, str | None]:
    """The parent of each request that has rows of a lineage."""
    found: dict[str, str | None] = {}
    for batch in there.stream(["request", "parent"], [("lineage", "=", lineage_id)]):
        pairs = pa.Table.from_batches([batch]).group_by(["request", "parent"]).aggregate([])
        found.update(zip(pairs["request"].to_pylist(), pairs["parent"].to_pylist(), strict=True))
    return found


def _chain(parents: Mapping[str, str | None], last: str) -> list[str]:
    """The requests that led to `last`, and it."""
    found: list[str] = []
    at: str | None = last
    while at is not None and at in parents:
        found.append(at)
        at = parents[at]
    return found


def append(table_url: str, request: Request, windows: Iterable[np.ndarray], position: Position) -> None:
    """Puts what a request changes into the manifest, once. `windows`: of each batch, in order, windows by recording.

    The first time for a lineage of a table of format v1, what that had listed is carried over with it. Held in memory:
    as many rows as one file has.
    """
    table = manifest_table(table_url)
    table.create(SCHEMA, partition_by=["lineage"])
    there = table.newest()
    assert there is not None, "it was just made"
    if there.transaction_version(request.id) is not None:
        return
    changes = _changes(request, windows, position.request or None)
    if position.generation and there.transaction_version(request.lineage.id) is None:
        changes = itertools.chain(manifest_v1.rows(table_url, request.lineage, position), changes)
    files = [_put(table.url, request.lineage.id, request.id, rows) for rows in _in_files(changes)]
    # The second id says that the lineage is here; two requests that both carry v1 over would list the same.
    begun = [] if there.transaction_version(request.lineage.id) is not None else [(request.lineage.id, 1)]
    if table.replace_files(FileChange(add=files), txn=[(request.id, request.generation), *begun]) is None and begun:
        append(table_url, request, windows, position)


def settle(
    table: Table,
    there: PinnedTable,
    lineage_id: str,
    position: Position,
    staged: Collection[str],
    folder: str,
    *,
    dry_run: bool,
) -> int:
    """Writes the manifest of a lineage again with only the rows that count, under the request of the `position`: of
    each recording the newest, if it did not leave. Rows of requests that neither led there nor are `staged` go too.

    Returns how many go; where none do, and there are few files, nothing is written. One run of rows is held in memory,
    the rest waits below `folder`; about 15 µs of CPU a row, and as much again where it is written.

    `there`: the version of the manifest `table` to begin from. Raises OvertakenError where another did it meanwhile, or
    where the request of the `position` was put there later: without its rows nothing of what led to it would count.
    """
    files = _files(there, lineage_id)
    of_it = [("lineage", "=", lineage_id)]
    parents = _parents(there, lineage_id)
    if not _knows(there, parents, position):
        raise OvertakenError
    counting = _chain(parents, position.request)
    undecided = [one for one in parents if one in staged and one not in counting]
    total = sum(file.rows for file in files)

    def runs(batches: Iterator[pa.RecordBatch]) -> Runs:
        return Runs(
            (_among(batch, [*counting, *undecided]) for batch in batches), ("recording_id", "generation"), folder
        )

    sorted_rows = there.collected(runs, SCHEMA.names, of_it)

    def kept() -> Iterator[pa.RecordBatch]:
        return _newest(iter(sorted_rows), set(undecided), position.request)

    left = sum(batch.num_rows for batch in kept())
    needed = -(-left // _ROWS_A_FILE)
    if not dry_run and (left < total or len(files) > needed + _FILES_LEFT):
        # By a name that no file ever had: one that another vacuum may be removing, or that goes by the same commit.
        name = f"settled-{uuid.uuid4().hex}"
        written = [_put(table.url, lineage_id, name, rows) for rows in _in_files(kept())]
        change = FileChange(add=written, remove=files)
        table.replace_files(change, guard=lambda base: _still_there(files, _files(base, lineage_id)))
    return total - left


def _knows(there: PinnedTable, parents: Collection[str], position: Position) -> bool:
    """Whether a version of the manifest has what the request of a position put there, which may be no row by now."""
    if position.content == NOT_WANTED:  # no request: `embed.retirement` puts nothing there
        return True
    return position.request in parents or there.transaction_version(position.request) is not None


def _newest(rows: Iterator[pa.RecordBatch], undecided: set[str], request: str) -> Iterator[pa.RecordBatch]:
    """Of sorted rows: of each recording the last that is decided, unless its content is null, and all undecided."""
    last: dict[str, Any] | None = None
    for batch in rows:
        kept: list[dict[str, Any]] = []
        for row in batch.to_pylist():
            if row["request"] in undecided:
                kept.append(row)
                continue
            if last is not None and last["recording_id"] != row["recording_id"] and last["content"] is not None:
                kept.append(last)
            last = {**row, "request": request, "parent": None}
        yield pa.RecordBatch.from_pylist(kept, schema=SCHEMA)
    if last is not None and last["content"] is not None:
        yield pa.RecordBatch.from_pylist([last], schema=SCHEMA)


def _among(batch: pa.RecordBatch, requests: Sequence[str]) -> pa.RecordBatch:
    return batch.filter(pc.is_in(batch["request"], value_set=pa.array(requests, pa.string())))


def _files(there: PinnedTable, lineage_id: str) -> list[DataFile]:
    partition = {"lineage": lineage_id}
    return [
        DataFile(path=one["path"], bytes=one["size_bytes"], partition=partition, rows=one["num_records"])
        for one in there.files(partition).to_pylist()
    ]


def _still_there(files: Sequence[DataFile], now: Sequence[DataFile]) -> list[str]:
    if not {one.path for one in files} <= {one.path for one in now}:
        raise OvertakenError
    return []


def _changes(request: Request, windows: Iterable[np.ndarray], parent: str | None) -> Iterator[pa.RecordBatch]:
    for batch, counts in zip(request.difference.batches(), windows, strict=True):
        names, contents = (batch.recordings[name].combine_chunks() for name in ("recording_id", "content"))
        yield _rows(request, parent, names, contents, pa.array(counts, pa.int64()))
    for gone in request.difference.taken_away():
        names = gone.filter(pc.invert(gone["replaced"]))["recording_id"]
        yield _rows(request, parent, names, pa.nulls(len(names), pa.string()), pa.array([0] * len(names), pa.int64()))


def _rows(
    request: Request, parent: str | None, names: pa.Array, contents: pa.Array, windows: pa.Array
) -> pa.RecordBatch:
    same = {"lineage": request.lineage.id, "generation": request.generation, "request": request.id, "parent": parent}
    columns: dict[str, pa.Array] = {"recording_id": names, "content": contents, "windows": windows}
    columns |= {name: pa.array([value] * len(names), SCHEMA.field(name).type) for name, value in same.items()}
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def _in_files(changes: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    for batch in changes:
        held.append(batch)
        if sum(one.num_rows for one in held) >= _ROWS_A_FILE:
            yield pa.Table.from_batches(held)
            held = []
    if sum(one.num_rows for one in held):
        yield pa.Table.from_batches(held)


def _put(manifest_url: str, lineage: str, name: str, rows: pa.Table) -> DataFile:
    data = parquet.encode(rows.drop_columns("lineage"))
    path = f"lineage={lineage}/{name}-{sha256_hex(data)[:32]}.parquet"
    uri.write_bytes(uri.join(manifest_url, path), data)
    stats = statistics(rows, ["recording_id", "generation", "request"])
    return DataFile(path=path, bytes=len(data), partition={"lineage": lineage}, rows=len(rows), stats=stats)
