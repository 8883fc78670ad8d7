"""Reads every stored byte that a snapshot refers to, and says exactly what is not as it was written.

Two checks overlap on purpose: each chunk carries a CRC-32C, which finds the place of damage, and each
index row carries the SHA-256 of its raw samples, which also finds bytes that were exchanged for other
valid ones.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmae_dist.core.errors import IntegrityError, StorageError
from xmae_dist.storage import uri
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.shard_reader import ShardedReader
from xmae_dist.storage.snapshot import Snapshot

Advance = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong. `chunk` is None where a whole array or a recording's digest is meant."""

    kind: str  # "missing" (array), "chunk" (damaged), "digest" (of a recording), "length" (row outside the array)
    part: str
    array: str
    chunk: int | None
    recordings: tuple[str, ...]
    detail: str

    def __str__(self) -> str:
        place = f"part {self.part}, array {self.array}" + ("" if self.chunk is None else f", chunk {self.chunk}")
        named = ", ".join(self.recordings[:3]) + (", …" if len(self.recordings) > 3 else "")
        return f"{self.kind}: {place}: {self.detail}" + (f" [recordings {named}]" if named else "")


def verify(snapshot: Snapshot, advance: Advance | None = None, *, threads: int = 2) -> Iterator[Finding]:
    """Yields what is wrong, array by array; nothing where every byte is right.

    `advance(mebibytes)` is told of raw data as it is checked. Store failures (not damage) raise StorageError.
    """
    lock = threading.Lock()

    def told(mebibytes: float) -> None:
        if advance is not None:
            with lock:
                advance(mebibytes)

    arrays = rows_by_array(snapshot)
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        checks = [pool.submit(_check_array, snapshot.url, path, rows, told) for path, rows in arrays.items()]
        try:
            for check in checks:
                yield from check.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def rows_by_array(snapshot: Snapshot) -> dict[str, list[IndexRow]]:
    """Rows of each array in the order in which they lie there."""
    arrays: dict[str, list[IndexRow]] = {}
    for row in sorted(snapshot.rows(), key=lambda row: (row.array_path, row.offset)):
        arrays.setdefault(row.array_path, []).append(row)
    return arrays


def size_mib(snapshot: Snapshot) -> float:
    """Raw mebibytes that `verify` will read, for its progress display."""
    total = 0
    for path in rows_by_array(snapshot):
        try:
            reader = ShardedReader(uri.join(snapshot.url, path))
        except (StorageError, IntegrityError):
            continue  # verify reports it
        total += reader.length * reader.dtype.itemsize
    return total / 2**20


def _check_array(url: str, path: str, rows: list[IndexRow], advance: Advance) -> list[Finding]:
    part, array = path.split("/")[-2:]
    try:
        reader = ShardedReader(uri.join(url, path))
    except (IntegrityError, StorageError) as error:
        uri.probe(url)  # an unreachable store is not damage
        names = _names(rows)
        return [_finding("missing", part, array, None, names, f"cannot be opened ({error.value})")]
    findings: list[Finding] = []
    inside = []
    for row in rows:
        if row.offset + row.length > reader.length:
            detail = f"samples [{row.offset}, {row.offset + row.length}) of {reader.length}"
            findings.append(_finding("length", part, array, None, _names([row]), detail))
        else:
            inside.append(_RowHash(row))
    for number, chunk in reader.scan():
        low = number * reader.chunk_rows
        touched = [one for one in inside if one.overlaps(low, low + reader.chunk_rows)]
        if isinstance(chunk, IntegrityError):
            names = _names([one.row for one in touched])
            findings.append(_finding("chunk", part, array, number, names, str(chunk.value)))
        for one in touched:
            one.take(low, None if isinstance(chunk, IntegrityError) else chunk)
        advance(min(reader.chunk_rows, reader.length - low) * reader.dtype.itemsize / 2**20)
    for one in inside:
        if one.differs():
            detail = f"samples are not those of the index (SHA-256 {one.row.digest[:12]}… expected)"
            findings.append(_finding("digest", part, array, None, _names([one.row]), detail))
    return findings


class _RowHash:
    """SHA-256 of one row's samples, fed chunk by chunk; gives up once a chunk of it is damaged."""

    def __init__(self, row: IndexRow) -> None:
        self.row = row
        self._stop = row.offset + row.length
        self._hash: Any = hashlib.sha256()

    def overlaps(self, low: int, high: int) -> bool:
        return self.row.offset < high and low < self._stop

    def take(self, low: int, chunk: np.ndarray | None) -> None:
        if chunk is None:
            self._hash = None
        elif self._hash is not None:
            mine = chunk[max(0, self.row.offset - low) : self._stop - low]
            self._hash.update(np.ascontiguousarray(mine.astype(mine.dtype.newbyteorder("<"), copy=False)))

    def differs(self) -> bool:
        return self._hash is not None and self._hash.hexdigest() != self.row.digest


def _names(rows: list[IndexRow]) -> tuple[str, ...]:
    return tuple(row.recording_id for row in rows)


def _finding(kind: str, part: str, array: str, chunk: int | None, recordings: tuple[str, ...], detail: str) -> Finding:
    return Finding(kind=kind, part=part, array=array, chunk=chunk, recordings=recordings, detail=detail)
