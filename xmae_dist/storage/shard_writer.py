"""Append-only writing of one sharded Zarr v3 array along its first axis.

A row is a sample (channels) or a window (window stores). Rows are compressed chunk by chunk as they come,
so a writer holds one shard's compressed bytes and one chunk's rows, whatever the length. `zarr.json` is
written last: an array that was not closed does not exist for any reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmae_dist.core.errors import StorageError
from xmae_dist.storage import uri
from xmae_dist.storage.shard_codec import (
    encode_chunk,
    encode_shard,
)

ARRAY_FORMAT = "xmae-array/v1"
CHUNK_BYTES = 2**20
SHARD_CHUNKS = 96  # 96 MiB of samples: 56 to 80 MiB stored for challenge2015 (1.2 to 1.7 fold)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a closed array holds: rows along the first axis, stored objects and bytes (without zarr.json)."""

    length: int
    objects: int
    bytes: int
    chunk_bytes: tuple[int, ...] = ()
    """Stored size of each chunk, in order."""


class ShardedWriter:
    """Writes an array of shape (n, *row_shape) below `url`; nothing is visible before `close()`.

    `chunk_rows` and `shard_rows` (a multiple of it) default to about 1 MiB and 96 MiB of raw values. Used
    as a context manager it closes on success and leaves an invisible remainder on an exception. Not
    thread-safe.
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
        self.url = uri.checked_place(url)
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
        self._chunk_bytes: list[int] = []
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
        """Lays `rows` (k, *row_shape) at the end; returns the index of the first. The dtype must already
        be right.
        """
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
        return Summary(
            length=self._length, objects=self._objects, bytes=self._bytes, chunk_bytes=tuple(self._chunk_bytes)
        )

    def abandon(self) -> None:
        """Gives up: what was written stays invisible."""
        self._closed = True
        self._uploader.shutdown(wait=True)
        self._pending, self._chunks = [], []

    def _finish_chunk(self) -> None:
        rows = self._pending[0] if len(self._pending) == 1 else np.concatenate(self._pending)
        self._chunks.append(encode_chunk(rows))
        self._chunk_bytes.append(len(self._chunks[-1]))
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
        import zarr  # half a second, which a process that writes no array does not spend
        from zarr.codecs import Crc32cCodec, ZstdCodec
        from zarr.core.sync import sync
        from zarr.storage import MemoryStore

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
