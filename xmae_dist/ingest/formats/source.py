"""What every reader of recordings hands over: channels, and their samples in blocks.

A block is a mapping from channel key to a one-dimensional array of raw samples. Integer channels mark a
missing sample with the lowest value of their type, floating ones with NaN. `blocks()` may be called more than
once; each call reads the recording anew, so that memory does not grow with its length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.core.units import canonical_unit

Raw = NDArray[np.int16] | NDArray[np.int32] | NDArray[np.float32]
Block = Mapping[str, Raw]


@dataclass(frozen=True, kw_only=True)
class SourceChannel:
    """One signal as its device stored it; physical value = raw · scale + offset, in `unit`.

    `key` is unique in the recording, `source_name` is what the file calls it. `name` is the corpus name where
    the source declares one (a mapping file), else None: the naming conventions decide. `checksum` is the sum
    of all raw samples modulo 2^16 where the file states it, a missing one counted as `missing_mark`.
    """

    key: str
    source_name: str
    rate_hz: float
    dtype: str
    unit: str
    scale: float = 1.0
    offset: float = 0.0
    name: str | None = None
    device: str | None = None
    body_site: str | None = None
    checksum: int | None = None
    missing_mark: int = 0


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who and when: identity of a recording and what its own file says about it."""

    recording_id: str
    subject_id: str | None = None
    start_time_ns: int | None = None
    clock_id: str | None = None
    labels: Mapping[str, float] = field(default_factory=dict)
    label_text: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a person should know of how the file was read, for the report."""


class SourceRecording(Protocol):
    """A recording read in blocks. Reading raises InputError where the file is not what it says."""

    @property
    def origin(self) -> Origin: ...

    @property
    def channels(self) -> tuple[SourceChannel, ...]: ...

    def blocks(self) -> Iterator[Block]: ...


Opened = SourceRecording | tuple[str, InputError]
"""A recording, or the name of one that cannot be read and why."""


class HeldRecording:
    """A recording that is in memory whole."""

    def __init__(self, origin: Origin, channels: tuple[SourceChannel, ...], signals: Mapping[str, Raw]) -> None:
        self.origin, self.channels, self._signals = origin, channels, signals

    def blocks(self) -> Iterator[Block]:
        yield self._signals


def missing_value(dtype: str | np.dtype) -> float | int:
    """The raw value that marks a missing sample: NaN, or the lowest integer of the type."""
    kind = np.dtype(dtype)
    return float("nan") if kind.kind == "f" else int(np.iinfo(kind).min)


def is_missing(raw: Raw) -> NDArray[np.bool_]:
    """True where a raw sample is missing (same shape as `raw`)."""
    missing = ~np.isfinite(raw) if raw.dtype.kind == "f" else raw == missing_value(raw.dtype)
    return np.asarray(missing)


def physical(raw: Raw, channel: SourceChannel) -> NDArray[np.float32]:
    """Raw samples as float32 in `channel.unit`, missing ones as NaN."""
    if raw.dtype.kind == "f" and channel.scale == 1.0 and channel.offset == 0.0:
        values = raw.astype(np.float32)
    else:
        values = (raw.astype(np.float64) * channel.scale + channel.offset).astype(np.float32)
    missing = is_missing(raw)
    if missing.any():
        values[missing] = np.nan
    return values


def all_missing(n: int, dtype: str | np.dtype) -> Raw:
    """(n,) samples that were not recorded."""
    return np.full(n, missing_value(dtype), dtype=dtype)


def device_unit(unit: str | None) -> tuple[str, float]:
    """The canonical unit and the factor to it, or the device's own word where we know none: files name many."""
    try:
        return canonical_unit(unit or "")
    except InputError:
        return (unit or "nu").strip(), 1.0


def distinct_keys(names: Sequence[str | None]) -> list[str]:
    """A distinct key for each signal: its name, with a number where several share one."""
    counts: Counter[str] = Counter()
    keys = []
    for name in names:
        plain = name or "signal"
        counts[plain] += 1
        keys.append(plain if counts[plain] == 1 else f"{plain} #{counts[plain]}")
    return keys
