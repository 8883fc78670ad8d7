"""Bytes of one Zarr v3 shard, as zarr's `sharding_indexed` codec defines them.

    shard = index (n_chunks × 2 little-endian uint64: offset, nbytes; then CRC-32C) followed by the chunks
    chunk = zstd(little-endian samples) followed by its CRC-32C

The index stands at the start, so one plain ranged read fetches it (some servers lack suffix ranges) and it
can be kept by the reader: after that a chunk costs one request. zarr's own reader asks for the index every
time and reports damage without saying where; arrays written here remain ordinary Zarr arrays that it opens.
"""

from __future__ import annotations

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd

ABSENT = np.uint64(2**64 - 1)
_CRC_BYTES = 4
_ZSTD_LEVEL = 1


class ChecksumError(ValueError):
    """A stored checksum does not belong to its bytes."""


def index_bytes(n_chunks: int) -> int:
    """Size of the index of a shard of `n_chunks` chunks."""
    return 16 * n_chunks + _CRC_BYTES


def encode_chunk(samples: np.ndarray) -> bytes:
    """Compressed, checksummed bytes of one chunk (C order, little-endian)."""
    little = np.ascontiguousarray(samples.astype(samples.dtype.newbyteorder("<"), copy=False))
    return _sealed(bytes(Zstd(level=_ZSTD_LEVEL).encode(little.reshape(-1))))


def decode_chunk(data: bytes, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Samples of one chunk. Raises ChecksumError where a bit has changed."""
    try:
        raw = Zstd().decode(_unsealed(data))
    except RuntimeError as error:  # what numcodecs raises for a malformed frame
        raise ChecksumError(f"not a zstd frame ({error})") from error
    samples = np.frombuffer(raw, dtype=dtype.newbyteorder("<"))
    if samples.size != int(np.prod(shape)):
        raise ChecksumError(f"{samples.size} values where {int(np.prod(shape))} belong")
    return samples.reshape(shape).astype(dtype, copy=False)


def encode_shard(chunks: list[bytes], n_chunks: int) -> list[bytes]:
    """The pieces of a shard object in order; places past `len(chunks)` are marked absent."""
    return [_sealed(index_of(np.array([len(chunk) for chunk in chunks], np.int64), n_chunks).tobytes()), *chunks]


def index_of(chunk_bytes: np.ndarray, n_chunks: int) -> np.ndarray:
    """(n_chunks, 2) uint64 of offsets and sizes, of a shard whose first chunks have these stored sizes."""
    index = np.full((n_chunks, 2), ABSENT, dtype="<u8")
    here = index[: len(chunk_bytes)]
    here[:, 0] = index_bytes(n_chunks) + np.cumsum(chunk_bytes) - chunk_bytes
    here[:, 1] = chunk_bytes
    return index


def decode_index(data: bytes) -> np.ndarray:
    """(n_chunks, 2) uint64 of offsets and sizes. Raises ChecksumError where a bit has changed."""
    return np.frombuffer(_unsealed(data), dtype="<u8").reshape(-1, 2)


def _sealed(body: bytes) -> bytes:
    return body + int(google_crc32c.value(body)).to_bytes(_CRC_BYTES, "little")


def _unsealed(data: bytes) -> bytes:
    body, crc = data[:-_CRC_BYTES], int.from_bytes(data[-_CRC_BYTES:], "little")
    if len(data) < _CRC_BYTES or google_crc32c.value(body) != crc:
        raise ChecksumError("CRC-32C does not match")
    return body
