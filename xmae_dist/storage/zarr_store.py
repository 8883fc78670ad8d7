"""Signals and windows as Zarr arrays.

A channel array holds the recordings of one part laid end to end (a CF contiguous ragged array), as the device
delivered them: physical = raw * scale + offset, an integer sentinel marks a missing sample, NaN a missing
float. A window array holds (n, C, L) float16 windows of equal length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xmae_dist.core.errors import InputError
from xmae_dist.storage.shard_reader import ShardedReader
from xmae_dist.storage.shard_writer import ARRAY_FORMAT, ShardedWriter, Summary

__all__ = [
    "ARRAY_FORMAT",
    "ChannelAttributes",
    "ChannelReader",
    "ChannelSummary",
    "ChannelWriter",
    "WindowArrayReader",
    "WindowArrayWriter",
]

ChannelSummary = Summary


@dataclass(frozen=True, kw_only=True)
class ChannelAttributes:
    """Attributes of a channel array; `storage/schemas/channel-attributes.json` is made from this class."""

    rate_hz: float = field(metadata={"doc": "samples per second, by the device's own clock"})
    unit: str = field(metadata={"doc": "unit of the physical value: mV, mmHg, nu (no unit), g, ..."})
    scale: float = field(default=1.0, metadata={"doc": "physical = raw * scale + offset"})
    offset: float = field(default=0.0, metadata={"doc": "physical = raw * scale + offset"})
    missing: int | None = field(
        default=None, metadata={"doc": "raw integer that marks a missing sample; null in float arrays (NaN)"}
    )
    device: str = field(default="", metadata={"doc": "make or model of the sensor"})
    body_site: str = field(default="", metadata={"doc": "where it was worn: wrist, finger, chest, ..."})


class ChannelWriter:
    """Appends raw 1-D signals to one array; see `ShardedWriter` for what is visible when.

    A signed integer dtype marks missing samples by its least value unless `missing` says otherwise.
    """

    def __init__(
        self,
        url: str,
        *,
        dtype: np.typing.DTypeLike,
        rate_hz: float,
        unit: str,
        scale: float = 1.0,
        offset: float = 0.0,
        missing: int | None = None,
        attrs: Mapping[str, Any] | None = None,
        chunk_samples: int | None = None,
        shard_samples: int | None = None,
    ) -> None:
        self.dtype = np.dtype(dtype)
        if not (np.isfinite(rate_hz) and rate_hz > 0):
            raise InputError(f"sampling rate of {url}", value=rate_hz, expected="a positive number of Hz")
        if missing is None and self.dtype.kind == "i":
            missing = int(np.iinfo(self.dtype).min)
        extra = dict(attrs or {})
        self.attributes = ChannelAttributes(
            rate_hz=float(rate_hz),
            unit=unit,
            scale=float(scale),
            offset=float(offset),
            missing=missing,
            device=str(extra.pop("device", "")),
            body_site=str(extra.pop("body_site", "")),
        )
        self._writer = ShardedWriter(
            url,
            dtype=self.dtype,
            chunk_rows=chunk_samples,
            shard_rows=shard_samples,
            dimension_names=("sample",),
            attributes={"kind": "channel", **dataclasses.asdict(self.attributes), **extra},
        )

    def append(self, raw: np.ndarray) -> int:
        """Lays a raw signal (n,) at the end and returns the sample offset of its start."""
        return self._writer.append(np.atleast_1d(raw))

    def close(self) -> Summary:
        """Makes the array visible. Safe to call twice."""
        return self._writer.close()

    def abandon(self) -> None:
        """Gives up; nothing becomes visible."""
        self._writer.abandon()


class ChannelReader:
    """Reads a channel array by sample numbers."""

    def __init__(self, url: str) -> None:
        self._reader = ShardedReader(url)
        names = [attribute.name for attribute in dataclasses.fields(ChannelAttributes)]
        self.attributes = ChannelAttributes(**{name: self._reader.attributes[name] for name in names})

    @property
    def url(self) -> str:
        return self._reader.url

    @property
    def rate_hz(self) -> float:
        return self.attributes.rate_hz

    @property
    def unit(self) -> str:
        return self.attributes.unit

    @property
    def length(self) -> int:
        return self._reader.length

    @property
    def dtype(self) -> np.dtype:
        return self._reader.dtype

    @property
    def stored(self) -> ShardedReader:
        """The array below: chunk and shard geometry, attributes."""
        return self._reader

    def read_raw(self, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop) as stored."""
        return self._reader.read_rows(start, stop)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples [start, stop) in `unit`, float32; missing samples are NaN."""
        raw = self.read_raw(start, stop)
        physical = raw.astype(np.float32)
        if self.attributes.scale != 1.0:
            physical *= np.float32(self.attributes.scale)
        if self.attributes.offset != 0.0:
            physical += np.float32(self.attributes.offset)
        if self.attributes.missing is not None:
            physical[raw == self.attributes.missing] = np.nan
        return physical


class WindowArrayWriter:
    """Appends windows (k, C, L) to one float16 array (n, C, L), sharded along the first axis."""

    def __init__(
        self,
        url: str,
        *,
        channels: int,
        length: int,
        dtype: np.typing.DTypeLike = np.float16,
        attrs: Mapping[str, Any] | None = None,
        chunk_windows: int | None = None,
        shard_windows: int | None = None,
    ) -> None:
        self._writer = ShardedWriter(
            url,
            dtype=dtype,
            row_shape=(channels, length),
            chunk_rows=chunk_windows,
            shard_rows=shard_windows,
            dimension_names=("window", "channel", "sample"),
            attributes={"kind": "windows", **(attrs or {})},
        )

    def append(self, windows_BCL: np.ndarray) -> int:
        """Lays windows at the end and returns the number of the first; values are cast to the array's
        dtype.
        """
        return self._writer.append(np.asarray(windows_BCL).astype(self._writer.dtype, copy=False))

    def close(self) -> Summary:
        return self._writer.close()

    def abandon(self) -> None:
        self._writer.abandon()


class WindowArrayReader(ShardedReader):
    """Windows by position: `read(start, stop)` or `gather(indices)`, both (n, C, L) in the stored dtype."""

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.read_rows(start, stop)
