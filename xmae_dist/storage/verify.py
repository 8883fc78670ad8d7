"""Reads every stored byte that a snapshot refers to, and says exactly what is not as it was written.

Two checks overlap on purpose: each chunk carries a CRC-32C, which finds the place of damage, and each
index row carries the SHA-256 of its raw samples, which also finds bytes that were exchanged for other
valid ones.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from xmae_dist.core.errors import IntegrityError, StorageError
from xmae_dist.storage import uri
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.shard_reader import ShardedReader
from xmae_dist.storage.snapshot import Snapshot

Advance = Callable[[float], None]
# Arrays whose rows are held while they wait to be checked.
_WAITING_A_THREAD = 4


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong. `chunk` is None where a whole array or a recording's digest is meant."""

    kind: str
    """ "missing" (array), "chunk" (damaged), "digest" (of a recording), "length" (row outside the array), or "contents"
    (of a cohort, which are not as its commits state).
    """
    part: str
    array: str
    chunk: int | None
    recordings: tuple[str, ...]
    detail: str
    cohort: str | None = None
    """Where a cohort is meant, which then has no part or array."""

    def __str__(self) -> str:
        if self.cohort is not None:
            return f"{self.kind}: cohort {self.cohort}: {self.detail}"
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

    yield from _contents(snapshot)
    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        waiting: deque[Future[list[Finding]]] = deque()
        try:
            for path, rows in snapshot.arrays():
                waiting.append(pool.submit(_check_array, snapshot.url, path, rows, told))
                if len(waiting) > _WAITING_A_THREAD * threads:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _contents(snapshot: Snapshot) -> Iterator[Finding]:
    """Cohorts whose rows do not come to what the log states of them; nothing of a version that states nothing."""
    counted = snapshot.counted()
    for cohort in sorted({*snapshot.contents, *counted}):
        stated, found = snapshot.contents.get(cohort), counted.get(cohort)
        told = [f"{one.rows} rows, {one.digest[:12]}…" if one else "no rows" for one in (stated, found)]
        if told[0] != told[1]:
            detail = f"its rows come to {told[1]}, the log states {told[0]}"
            yield Finding(kind="contents", cohort=cohort, part="", array="", chunk=None, recordings=(), detail=detail)


def size_mib(snapshot: Snapshot) -> float:
    """Raw mebibytes that `verify` will read, for its progress display."""
    total = 0
    for path in _array_paths(snapshot):
        try:
            reader = ShardedReader(uri.join(snapshot.url, path))
        except (StorageError, IntegrityError):
            continue  # verify reports it
        total += reader.length * reader.dtype.itemsize
    return total / 2**20


def _array_paths(snapshot: Snapshot) -> list[str]:
    paths: set[str] = set()
    for batch in snapshot.batches(["array_path"]):
        paths.update(pc.unique(batch["array_path"]).to_pylist())
    return sorted(paths)


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
