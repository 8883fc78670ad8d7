"""Exact reading of rows of a sharded Zarr v3 array; damage is named by part, array and chunk.

A reader keeps shard indexes, so after the first chunk of a shard every further one costs one ranged read, and
the last few chunks, so recordings that share a chunk are decoded once. Who reads straight on is read ahead for.
A reader that is told the array's layout asks for neither metadata nor indexes: each chunk costs one ranged read.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmae_dist.core.errors import IntegrityError, StorageError
from xmae_dist.storage import uri
from xmae_dist.storage.segment_cache import SegmentCache
from xmae_dist.storage.shard_codec import (
    ABSENT,
    ChecksumError,
    decode_chunk,
    decode_index,
    index_bytes,
    index_of,
)
from xmae_dist.storage.shard_writer import ARRAY_FORMAT, shard_key

_KEPT_CHUNKS = 4
_READ_AHEAD_CHUNKS = 8
# A request costs the client as much CPU as reading a MiB or two (docs/streams.md), and far more time to wait for.
_GAP_BYTES = 1 << 20
_GAPS_BYTES = 16 << 20  # all gaps that are read with the chunks of one fetch: what it holds too much
_CHUNKS_AT_ONCE = 64  # of one request, so that a long read does not hold a whole shard twice


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What `zarr.json` and the shard indexes of an array say, kept where it is read for many arrays at once."""

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk_rows: int
    shard_rows: int
    chunk_bytes: np.ndarray
    """Stored size of each chunk, in order."""


class ShardedReader:
    """Reads rows of an array that `ShardedWriter` wrote; keeps shard indexes and the last `kept_chunks` chunks.

    With a `layout` nothing is read before the first chunk is asked for. Who comes back to no chunk keeps none, and is
    not read ahead for. A bad or missing chunk raises IntegrityError naming part, array and chunk. Safe between threads;
    picklable.
    """

    def __init__(
        self,
        url: str,
        cache: SegmentCache | None = None,
        *,
        kept_chunks: int = _KEPT_CHUNKS,
        layout: Layout | None = None,
    ) -> None:
        self.url = uri.normalise(url)
        self.cache = cache
        """Where shards are copied to; None reads them from where they are."""
        self.kept_chunks, self.layout = kept_chunks, layout
        self.attributes: dict[str, Any] = {}
        self.shape: tuple[int, ...]
        self.chunk_rows: int
        self.shard_rows: int
        if layout is None:
            self._ask()
        else:
            self.shape, self.dtype = layout.shape, layout.dtype
            self.chunk_rows, self.shard_rows = layout.chunk_rows, layout.shard_rows
        self._forget()

    def _ask(self) -> None:
        document = json.loads(uri.read_bytes(uri.join(self.url, "zarr.json")))
        self.attributes = document.get("attributes", {})
        if self.attributes.get("format") != ARRAY_FORMAT:
            raise StorageError(
                self.url,
                value=f"array format {self.attributes.get('format')!r}",
                expected=ARRAY_FORMAT,
                fix="check the URL, or write the array again with this version",
            )
        self.shape = tuple(document["shape"])
        self.dtype = np.dtype(document["data_type"])
        sharding = document["codecs"][0]["configuration"]
        self.chunk_rows = sharding["chunk_shape"][0]
        self.shard_rows = document["chunk_grid"]["configuration"]["chunk_shape"][0]

    def _forget(self) -> None:
        self._indexes: dict[int, np.ndarray] = {}
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._ahead: dict[int, bytes] = {}
        self._next = -1
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def length(self) -> int:
        return self.shape[0]

    @property
    def n_chunks(self) -> int:
        return -(-self.length // self.chunk_rows)

    @property
    def most_bytes(self) -> int:
        """What it may come to hold: the index of every shard, the chunks that it keeps and those it reads ahead."""
        indexes = -(-self.length // self.shard_rows) * index_bytes(self.shard_rows // self.chunk_rows)
        chunk = self.chunk_rows * int(np.prod(self.shape[1:])) * self.dtype.itemsize
        return indexes + chunk * (self.kept_chunks + _READ_AHEAD_CHUNKS if self.kept_chunks else 0)

    def chunk_bytes(self) -> np.ndarray:
        """Stored size of each chunk, in order: a request for each shard whose index is not known."""
        per_shard = self.shard_rows // self.chunk_rows
        shards = range(-(-self.length // self.shard_rows))
        sizes = [self._index(shard, shard * per_shard)[:, 1] for shard in shards]
        return np.concatenate([np.empty(0, np.uint64), *sizes])[: self.n_chunks].astype(np.int64)

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) as stored: (stop - start, *row_shape)."""
        if not 0 <= start <= stop <= self.length:
            raise IndexError(f"{self.url}: rows [{start}, {stop}) of {self.length}")
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
        if start == stop:
            return rows
        numbers = range(start // self.chunk_rows, (stop - 1) // self.chunk_rows + 1)
        for number, chunk in self.chunks(numbers):
            first = number * self.chunk_rows
            low, high = max(start, first), min(stop, first + self.chunk_rows)
            rows[low - start : high - start] = chunk[low - first : high - first]
        return rows

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Rows at `indices` (any order, repeats allowed), each chunk read once: (len(indices),
        *row_shape).
        """
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not (indices.min() >= 0 and indices.max() < self.length):
            raise IndexError(f"{self.url}: rows up to {indices.max()} of {self.length}")
        rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
        numbers, inverse = np.unique(indices // self.chunk_rows, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        bounds = np.searchsorted(inverse[order], np.arange(len(numbers) + 1))
        for place, (number, chunk) in enumerate(self.chunks(numbers.tolist())):
            mine = order[bounds[place] : bounds[place + 1]]
            rows[mine] = chunk[indices[mine] - number * self.chunk_rows]
        return rows

    def chunks(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(number, rows) of each chunk in ascending `numbers`; neighbours within a shard come in one
        request.
        """
        per_shard = self.shard_rows // self.chunk_rows
        numbers = list(numbers)
        at = 0
        while at < len(numbers):
            shard = numbers[at] // per_shard
            end = at
            while end < min(len(numbers), at + _CHUNKS_AT_ONCE) and numbers[end] // per_shard == shard:
                end += 1
            yield from self._chunks_of_shard(shard, numbers[at:end])
            at = end

    def scan(self, batch: int = 16) -> Iterator[tuple[int, np.ndarray | IntegrityError]]:
        """(number, rows or what is wrong with them) of every chunk, in order; damage does not end the
        scan.
        """
        per_shard = self.shard_rows // self.chunk_rows
        for first in range(0, self.n_chunks, per_shard):
            last = min(first + per_shard, self.n_chunks)
            for start in range(first, last, batch):
                yield from self._scan_batch(list(range(start, min(start + batch, last))))

    def _scan_batch(self, numbers: list[int]) -> Iterator[tuple[int, np.ndarray | IntegrityError]]:
        try:
            stored = self._fetch(numbers[0] * self.chunk_rows // self.shard_rows, numbers)
        except IntegrityError as error:
            if len(numbers) == 1:
                yield numbers[0], error
            else:  # find out which of them
                for number in numbers:
                    yield from self._scan_batch([number])
            return
        for number in numbers:
            try:
                yield number, self._decode(number, stored.pop(number))
            except IntegrityError as error:
                yield number, error

    def _chunks_of_shard(self, shard: int, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        with self._lock:
            kept = {number: self._kept[number] for number in numbers if number in self._kept}
        wanted = [number for number in numbers if number not in kept]
        stored = self._stored(shard, wanted) if wanted else {}
        for number in numbers:
            if number in kept:
                yield number, kept[number]
            else:
                chunk = self._decode(number, stored.pop(number))
                self._keep(number, chunk)
                yield number, chunk

    def _stored(self, shard: int, numbers: list[int]) -> dict[int, bytes]:
        """Stored bytes of chunks; who reads straight on gets the following chunks in the same request."""
        with self._lock:
            stored = {number: self._ahead[number] for number in numbers if number in self._ahead}
            straight_on = bool(self.kept_chunks) and numbers[0] == self._next
            self._next = numbers[-1] + 1
        missing = [number for number in numbers if number not in stored]
        if missing:
            extra = self._following(shard, missing) if straight_on else []
            fetched = self._fetch(shard, missing + extra)
            with self._lock:
                self._ahead = {number: fetched.pop(number) for number in extra}
            stored.update(fetched)
        return stored

    def _following(self, shard: int, numbers: list[int]) -> list[int]:
        base = shard * (self.shard_rows // self.chunk_rows)
        index = self._index(shard, numbers[0])
        after = range(numbers[-1] + 1, min(numbers[-1] + 1 + _READ_AHEAD_CHUNKS, base + len(index)))
        return [number for number in after if index[number - base][0] != ABSENT]

    def _keep(self, number: int, chunk: np.ndarray) -> None:
        with self._lock:
            self._kept[number] = chunk
            while len(self._kept) > self.kept_chunks:
                self._kept.popitem(last=False)

    def _decode(self, number: int, data: bytes) -> np.ndarray:
        try:
            return decode_chunk(data, self.dtype, (self.chunk_rows, *self.shape[1:]))
        except ChecksumError as error:
            with self._lock:
                self._ahead.clear()  # a short answer, perhaps: who tries again must get it from the store
            self._forget_copies(number)
            raise self._damage(number, str(error)) from error

    def _fetch(self, shard: int, numbers: list[int]) -> dict[int, bytes]:
        """Stored bytes of chunks of one shard; chunks side by side, or nearly where they are far away, are one read."""
        index = self._index(shard, numbers[0])
        base = shard * (self.shard_rows // self.chunk_rows)
        gaps_bytes = _GAPS_BYTES if self.cache is None and not uri.is_local(self.url) else 0
        runs: list[list[int]] = []
        for number in numbers:
            offset, size = index[number - base]
            if offset == ABSENT:
                raise self._damage(number, "absent from its shard")
            gap_bytes = int(offset) - int(sum(index[runs[-1][-1] - base])) if runs else 0
            if runs and 0 <= gap_bytes <= min(_GAP_BYTES, gaps_bytes):
                runs[-1].append(number)
                gaps_bytes -= gap_bytes
            else:
                runs.append([number])
        starts = [int(index[run[0] - base][0]) for run in runs]
        stops = [int(sum(index[run[-1] - base])) for run in runs]
        stored: dict[int, bytes] = {}
        for run, start, data in zip(runs, starts, self._ranges(shard, starts, stops, numbers[0]), strict=True):
            for number in run:
                offset, size = (int(value) for value in index[number - base])
                stored[number] = data[offset - start : offset - start + size]
        return stored

    def _index(self, shard: int, number: int) -> np.ndarray:
        if self.layout is not None:
            per_shard = self.shard_rows // self.chunk_rows
            return index_of(self.layout.chunk_bytes[shard * per_shard : (shard + 1) * per_shard], per_shard)
        with self._lock:
            if shard in self._indexes:
                return self._indexes[shard]
        data = self._ranges(shard, [0], [index_bytes(self.shard_rows // self.chunk_rows)], number)[0]
        try:
            index = decode_index(data)
        except (ChecksumError, ValueError) as error:
            if self.cache is not None:
                self.cache.forget(self._shard_url(shard), 0, len(data) or 1)
            raise self._damage(number, f"index of its shard: {error}") from error
        with self._lock:
            self._indexes[shard] = index
        return index

    def _ranges(self, shard: int, starts: list[int], stops: list[int], number: int) -> list[bytes]:
        with uri.storage_errors(self.url):
            try:
                read = uri.read_ranges if self.cache is None else self.cache.read_ranges
                return read(self._shard_url(shard), starts, stops)
            except FileNotFoundError as error:
                raise self._damage(number, "its object is missing") from error
            except OSError as error:
                if "not satisfiable" in str(error):  # the object ends before the range
                    raise self._damage(number, "its object is cut short") from error
                raise

    def _shard_url(self, shard: int) -> str:
        return uri.join(self.url, shard_key(shard, len(self.shape) - 1))

    def _forget_copies(self, number: int) -> None:
        """A damaged chunk may be a damaged copy: who tries again must get it from the store."""
        if self.cache is None:
            return
        per_shard = self.shard_rows // self.chunk_rows
        shard = number // per_shard
        offset, size = (int(value) for value in self._index(shard, number)[number - shard * per_shard])
        self.cache.forget(self._shard_url(shard), offset, offset + size)

    def _damage(self, number: int, what: str) -> IntegrityError:
        part, array = self.url.split("/")[-2:]
        per_shard = self.shard_rows // self.chunk_rows
        key = shard_key(number // per_shard, len(self.shape) - 1)
        return IntegrityError(
            f"part {part}, array {array}, chunk {number}",
            value=f"{what} ({self.url}/{key})",
            expected="the bytes that were written",
            fix="restore that object from a copy or ingest the part again; `xmae verify` lists all damage",
        )
