"""Append-only writing and exact reading of one sharded Zarr v3 array, along its first axis.

A row is a sample (channels) or a window (window stores). Rows are compressed chunk by chunk as they come, so a
writer holds one shard's compressed bytes and one chunk's rows, whatever the length. `zarr.json` is written last:
an array that was not closed does not exist for any reader.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from xmae_dist.core.errors import IntegrityError, StorageError
from xmae_dist.storage import uri
from xmae_dist.storage.shard_codec import (
    ABSENT,
    ChecksumError,
    decode_chunk,
    decode_index,
    encode_chunk,
    encode_shard,
    index_bytes,
)

ARRAY_FORMAT = "xmae-array/v1"
CHUNK_BYTES = 2**20
SHARD_CHUNKS = 96  # 96 MiB of samples: 16 to 96 MiB stored, over the compression seen on real signals
_KEPT_CHUNKS = 4


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a closed array holds: rows along the first axis, stored objects and bytes (without zarr.json)."""

    length: int
    objects: int
    bytes: int


class ShardedWriter:
    """Writes an array of shape (n, *row_shape) below `url`; nothing is visible before `close()`.

    `chunk_rows` and `shard_rows` (a multiple of it) default to about 1 MiB and 96 MiB of raw values. Used as a
    context manager it closes on success and leaves an invisible remainder on an exception. Not thread-safe.
    """

    def __init__(
        self,
        url: str,
        *,
        dtype: np.typing.DTypeLike,
        row_shape: tuple[int, ...] = (),
        chunk_rows: int | None = None,
        shard_rows: int | None = None,
        dimension_names: Sequence[str] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.url = uri.normalise(url)
        self.dtype = np.dtype(dtype)
        self.row_shape = tuple(row_shape)
        row_bytes = self.dtype.itemsize * int(np.prod(self.row_shape))
        self.chunk_rows = chunk_rows or max(1, CHUNK_BYTES // row_bytes)
        self.shard_rows = shard_rows or self.chunk_rows * SHARD_CHUNKS
        if self.shard_rows % self.chunk_rows:
            raise ValueError(f"shard_rows {self.shard_rows} is not a multiple of chunk_rows {self.chunk_rows}")
        self._dimension_names = tuple(dimension_names) or None
        self._attributes = {"format": ARRAY_FORMAT, **(attributes or {})}
        self._pending: list[np.ndarray] = []
        self._pending_rows = 0
        self._chunks: list[bytes] = []
        self._length = self._objects = self._bytes = 0
        self._uploader = ThreadPoolExecutor(1, thread_name_prefix="shard-put")
        self._upload: Future[None] | None = None
        self._closed = False

    def __enter__(self) -> ShardedWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def append(self, rows: np.ndarray) -> int:
        """Lays `rows` (k, *row_shape) at the end; returns the index of the first. The dtype must already be right."""
        rows = np.asarray(rows)
        if rows.dtype != self.dtype or rows.shape[1:] != self.row_shape:
            raise TypeError(
                f"{self.url}: got {rows.dtype} rows of shape {rows.shape[1:]}, expected {self.dtype} {self.row_shape}"
            )
        if self._closed:
            raise ValueError(f"{self.url} is closed")
        start = self._length
        self._length += len(rows)
        taken = 0
        while taken < len(rows):
            step = min(len(rows) - taken, self.chunk_rows - self._pending_rows)
            whole = step == self.chunk_rows
            piece = rows[taken : taken + step]
            self._pending.append(piece if whole else piece.copy())  # the caller may reuse its buffer
            self._pending_rows += step
            taken += step
            if self._pending_rows == self.chunk_rows:
                self._finish_chunk()
        return start

    def close(self) -> Summary:
        """Writes what is left, then `zarr.json`, which makes the array visible."""
        if not self._closed:
            if self._pending_rows:
                shape = (self.chunk_rows - self._pending_rows, *self.row_shape)
                self._pending.append(np.zeros(shape, self.dtype))
                self._finish_chunk()
            if self._chunks:
                self._finish_shard()
            self._await_upload()
            self.abandon()
            uri.write_bytes(uri.join(self.url, "zarr.json"), self._metadata())
        return Summary(length=self._length, objects=self._objects, bytes=self._bytes)

    def abandon(self) -> None:
        """Gives up: what was written stays invisible."""
        self._closed = True
        self._uploader.shutdown(wait=True)
        self._pending, self._chunks = [], []

    def _finish_chunk(self) -> None:
        rows = self._pending[0] if len(self._pending) == 1 else np.concatenate(self._pending)
        self._chunks.append(encode_chunk(rows))
        self._pending, self._pending_rows = [], 0
        if len(self._chunks) * self.chunk_rows == self.shard_rows:
            self._finish_shard()

    def _finish_shard(self) -> None:
        data = b"".join(encode_shard(self._chunks, self.shard_rows // self.chunk_rows))
        target = uri.join(self.url, shard_key(self._objects, len(self.row_shape)))
        self._await_upload()  # at most one shard waits: memory stays bounded
        self._upload = self._uploader.submit(uri.write_bytes, target, data)
        self._chunks = []
        self._objects += 1
        self._bytes += len(data)

    def _await_upload(self) -> None:
        if self._upload is not None:
            self._upload.result()
            self._upload = None

    def _metadata(self) -> bytes:
        """`zarr.json` as zarr itself writes it for an array of this shape and these codecs."""
        store = MemoryStore()
        zarr.create_array(
            store,
            shape=(self._length, *self.row_shape),
            dtype=self.dtype,
            chunks=(self.chunk_rows, *self.row_shape),
            shards={"shape": (self.shard_rows, *self.row_shape), "index_location": "start"},  # type: ignore[arg-type]
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            fill_value=0,
            dimension_names=self._dimension_names,
            attributes=dict(self._attributes),
        )
        document = sync(store.get("zarr.json", zarr.core.buffer.default_buffer_prototype()))
        if document is None:
            raise StorageError(self.url, value="no metadata from zarr", expected="a zarr.json", fix="report this")
        return bytes(document.to_bytes())


def shard_key(number: int, extra_axes: int) -> str:
    """Key of shard `number` below the array: `c/7`, or `c/7/0/0` where rows have two axes."""
    return "/".join(["c", str(number), *["0"] * extra_axes])


class ShardedReader:
    """Reads rows of an array that `ShardedWriter` wrote; keeps shard indexes and the last few chunks.

    A bad or missing chunk raises IntegrityError naming part, array and chunk. Safe between threads; picklable.
    """

    def __init__(self, url: str) -> None:
        self.url = uri.normalise(url)
        document = json.loads(uri.read_bytes(uri.join(self.url, "zarr.json")))
        self.attributes: dict[str, Any] = document.get("attributes", {})
        if self.attributes.get("format") != ARRAY_FORMAT:
            raise StorageError(
                self.url, value=f"array format {self.attributes.get('format')!r}", expected=ARRAY_FORMAT,
                fix="check the URL, or write the array again with this version",
            )  # fmt: skip
        self.shape: tuple[int, ...] = tuple(document["shape"])
        self.dtype = np.dtype(document["data_type"])
        sharding = document["codecs"][0]["configuration"]
        self.chunk_rows: int = sharding["chunk_shape"][0]
        self.shard_rows: int = document["chunk_grid"]["configuration"]["chunk_shape"][0]
        self._forget()

    def _forget(self) -> None:
        self._indexes: dict[int, np.ndarray] = {}
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_indexes", "_kept", "_lock")}

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
    def n_shards(self) -> int:
        return -(-self.length // self.shard_rows)

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
        """Rows at `indices` (any order, repeats allowed), each chunk read once: (len(indices), *row_shape)."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not (0 <= indices.min() and indices.max() < self.length):
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
        """(number, rows) of each chunk in ascending `numbers`; neighbours within a shard come in one request."""
        per_shard = self.shard_rows // self.chunk_rows
        numbers = list(numbers)
        at = 0
        while at < len(numbers):
            shard = numbers[at] // per_shard
            end = at
            while end < len(numbers) and numbers[end] // per_shard == shard:
                end += 1
            yield from self._chunks_of_shard(shard, numbers[at:end])
            at = end

    def _chunks_of_shard(self, shard: int, numbers: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        with self._lock:
            kept = {number: self._kept[number] for number in numbers if number in self._kept}
        wanted = [number for number in numbers if number not in kept]
        stored = self._fetch(shard, wanted) if wanted else {}
        for number in numbers:
            if number in kept:
                yield number, kept[number]
            else:
                chunk = self._decode(number, stored.pop(number))
                self._keep(number, chunk)
                yield number, chunk

    def _keep(self, number: int, chunk: np.ndarray) -> None:
        with self._lock:
            self._kept[number] = chunk
            while len(self._kept) > _KEPT_CHUNKS:
                self._kept.popitem(last=False)

    def _decode(self, number: int, data: bytes) -> np.ndarray:
        try:
            return decode_chunk(data, self.dtype, (self.chunk_rows, *self.shape[1:]))
        except ChecksumError as error:
            raise self._damage(number, str(error)) from error

    def _fetch(self, shard: int, numbers: list[int]) -> dict[int, bytes]:
        """Stored bytes of chunks of one shard; runs that lie side by side are one ranged read."""
        index = self._index(shard, numbers[0])
        base = shard * (self.shard_rows // self.chunk_rows)
        runs: list[list[int]] = []
        for number in numbers:
            offset, size = index[number - base]
            if offset == ABSENT:
                raise self._damage(number, "absent from its shard")
            if runs and int(sum(index[runs[-1][-1] - base])) == int(offset):
                runs[-1].append(number)
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
        with self._lock:
            if shard in self._indexes:
                return self._indexes[shard]
        data = self._ranges(shard, [0], [index_bytes(self.shard_rows // self.chunk_rows)], number)[0]
        try:
            index = decode_index(data)
        except (ChecksumError, ValueError) as error:
            raise self._damage(number, f"index of its shard: {error}") from error
        with self._lock:
            self._indexes[shard] = index
        return index

    def _ranges(self, shard: int, starts: list[int], stops: list[int], number: int) -> list[bytes]:
        fs, path = uri.filesystem(uri.join(self.url, shard_key(shard, len(self.shape) - 1)))
        with uri.storage_errors(self.url):
            try:
                if len(starts) == 1:
                    return [fs.cat_file(path, start=starts[0], end=stops[0])]
                return list(fs.cat_ranges([path] * len(starts), starts, stops, on_error="raise"))
            except FileNotFoundError as error:
                raise self._damage(number, "its object is missing") from error
            except OSError as error:
                if "not satisfiable" in str(error):  # the object ends before the range
                    raise self._damage(number, "its object is cut short") from error
                raise

    def _damage(self, number: int, what: str) -> IntegrityError:
        part, array = self.url.split("/")[-2:]
        per_shard = self.shard_rows // self.chunk_rows
        key = shard_key(number // per_shard, len(self.shape) - 1)
        return IntegrityError(
            f"part {part}, array {array}, chunk {number}", value=f"{what} ({self.url}/{key})",
            expected="the bytes that were written",
            fix="restore that object from a copy or ingest the part again; `xmae verify` lists all damage",
        )  # fmt: skip
