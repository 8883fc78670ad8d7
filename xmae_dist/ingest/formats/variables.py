"""MATLAB and HDF5 files by a mapping: a channel is a variable, or one row or column of it, at a rate of its own.

HDF5, and with it MATLAB from version 7.3, is read in pieces. Older `.mat` files are compressed as a whole variable, so
those that the mapping names are held in memory. Formats: https://docs.hdfgroup.org/hdf5 and, for `.mat`, what
`scipy.io.loadmat` documents.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xmae_dist.core.errors import InputError, some_of
from xmae_dist.core.units import canonical_unit
from xmae_dist.ingest.formats.label_cells import split_kinds
from xmae_dist.ingest.formats.mapping import ChannelMapping, Mapping
from xmae_dist.ingest.formats.protocol import library
from xmae_dist.ingest.formats.source import Block, Origin, SourceChannel
from xmae_dist.ingest.formats.table import subject_of

BLOCK_SAMPLES = 2**20
_HDF5 = b"\x89HDF\r\n\x1a\n"
_PICKED = re.compile(r"(.+?)\[(\d+)\]")
_PER_SECOND = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9, "minutes": 1 / 60}
# Wider integers are kept as float32, which holds 24 bits: none of our devices has more. The lowest int16 may be a
# sample here, so that it takes 32 bits to mark a missing one.
_KEPT_AS = {"i1": "int16", "u1": "int16", "i2": "int32", "u2": "int32", "i4": "int32"}


class VariablesRecording:
    """One file; the recording is as long as its longest channel.

    Raises InputError where the file cannot be opened, lacks a variable, or holds something else there than numbers in
    one row or column; on reading, where the times contradict the declared rate.
    """

    def __init__(self, path: Path, recording_id: str, mapping: Mapping) -> None:
        self._path, self._mapping = path, mapping
        with opened(path, _wanted(mapping)) as file:
            chosen = [(channel, self._chosen(file, channel)) for channel in mapping.channels]
            self._places = [place for _, (place, _) in chosen]
            self.channels = tuple(self._channel(channel, place, kind) for channel, (place, kind) in chosen)
            numbers, text = split_kinds({name: _scalar(file, place, path) for name, place in mapping.labels.items()})
            start_ns = self._start_ns(file)
        self.origin = Origin(
            recording_id=recording_id,
            subject_id=subject_of(recording_id, mapping),
            start_time_ns=start_ns,
            labels=numbers,
            label_text=text,
        )

    def blocks(self) -> Iterator[Block]:
        with opened(self._path, _wanted(self._mapping)) as file:
            self._check_times(file)
            tracks = [_Vector(file, place, self._path) for place in self._places]
            for start in range(0, max(track.length for track in tracks), BLOCK_SAMPLES):
                yield {
                    channel.key: track.read(start, start + BLOCK_SAMPLES).astype(channel.dtype)
                    for channel, track in zip(self.channels, tracks, strict=True)
                }

    def _chosen(self, file: Any, channel: ChannelMapping) -> tuple[str, np.dtype]:
        """The first place of a channel that is there, and the type of its numbers."""
        there = [place for place in channel.columns if _find(file, place) is not None]
        place = (there or list(channel.columns))[0]
        return place, _Vector(file, place, self._path).dtype

    def _channel(self, channel: ChannelMapping, place: str, stored: np.dtype) -> SourceChannel:
        unit, factor = canonical_unit(channel.unit)
        rate_hz = channel.rate_hz or self._mapping.rate_hz
        assert rate_hz is not None, "the mapping was checked to state one"
        return SourceChannel(
            key=place,
            source_name=place,
            name=channel.name,
            rate_hz=rate_hz,
            dtype=_KEPT_AS.get(f"{stored.kind}{stored.itemsize}", "float32"),
            unit=unit,
            scale=channel.scale * factor,
            offset=channel.offset * factor,
            device=channel.device,
            body_site=channel.body_site,
        )

    def _start_ns(self, file: Any) -> int | None:
        time = self._mapping.time
        if time is None or not time.unix:
            return None
        seconds = float(_Vector(file, time.column, self._path).read(0, 1)[0]) / self._per_second()
        # Whole seconds apart: a float of all nanoseconds since 1970 is rounded to hundreds of them.
        return int(seconds // 1) * 10**9 + round(seconds % 1 * 1e9)

    def _check_times(self, file: Any) -> None:
        """Times serve to check the rate of the mapping: variables have no rows that could be missing."""
        time, rate_hz = self._mapping.time, self._mapping.rate_hz
        if time is None or rate_hz is None:
            return
        times = _Vector(file, time.column, self._path)
        first = float(times.read(0, 1)[0])
        for start in range(0, times.length, BLOCK_SAMPLES):
            seconds = (times.read(start, start + BLOCK_SAMPLES).astype(np.float64) - first) / self._per_second()
            ideal = np.arange(start, start + len(seconds)) / rate_hz
            # What drifts by less than the tolerance is the device's clock; a step is a gap that nobody marked.
            off = np.abs(seconds - ideal) - np.maximum(time.gap_after_samples / rate_hz, ideal * time.rate_tolerance)
            if not (off <= 0).all():
                at = int(np.flatnonzero(~(off <= 0))[0])
                raise InputError(
                    f"times {time.column} of {self._path.name}",
                    value=f"{seconds[at]:.6g} s at sample {start + at + 1}",
                    expected=f"{ideal[at]:.6g} s at {rate_hz:g} Hz",
                    fix="correct rate_hz or time.format, or split the file where it has a gap",
                )

    def _per_second(self) -> float:
        assert self._mapping.time is not None
        kind = self._mapping.time.format
        if kind not in _PER_SECOND:
            raise InputError(
                f"mapping of {self._path.name}: time.format",
                value=repr(kind),
                expected="one of " + ", ".join(_PER_SECOND),
            )
        return _PER_SECOND[kind]


class _Vector:
    """One row of numbers in a file, read in pieces."""

    def __init__(self, file: Any, place: str, path: Path) -> None:
        found = _find(file, place)
        if found is None:
            raise InputError(
                f"variable {place!r} of {path.name}",
                value="not in the file",
                expected="one of " + some_of(sorted(places(file))),
                fix="correct the mapping file",
            )
        self._array, self._number = found
        shape = tuple(size for size in self._array.shape if size != 1)
        if self._array.dtype.kind not in "iuf" or len(shape) > (1 if self._number is None else 2) or not shape:
            raise InputError(
                f"variable {place!r} of {path.name}",
                value=f"{self._array.dtype} of shape {'x'.join(map(str, self._array.shape))}",
                expected="numbers in one row or column",
                fix="name the row or column of a matrix by its number, from 0: 'signals[2]'",
            )
        if len(self._array.shape) > 2:
            raise InputError(f"variable {place!r} of {path.name}", value="3 dimensions", expected="a row or a matrix")
        self._along = int(np.argmax(self._array.shape))
        across = min(self._array.shape) if len(self._array.shape) == 2 else 1
        if self._number is not None and self._number >= across:
            raise InputError(
                f"variable {place!r} of {path.name}", value=f"{across} signals", expected=f"at most [{across - 1}]"
            )
        self.dtype = self._array.dtype
        self.length = int(self._array.shape[self._along])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Numbers [start, stop), fewer at the end."""
        if len(self._array.shape) == 1:
            return np.asarray(self._array[start:stop])
        number = self._number or 0
        piece = self._array[start:stop, number] if self._along == 0 else self._array[number, start:stop]
        return np.asarray(piece)


def places(file: Any, prefix: str = "") -> Iterator[str]:
    """Places of all arrays of numbers in an open file."""
    for name in file:
        value = file[name]
        if hasattr(value, "keys"):
            yield from places(value, f"{prefix}{name}/")
        elif getattr(value, "dtype", None) is not None and value.dtype.kind in "iuf" and value.ndim:
            yield f"{prefix}{name}"


def array_at(file: Any, place: str) -> Any:
    """The array at a place that `places` gave."""
    found = _find(file, place)
    assert found is not None, place
    return found[0]


@contextlib.contextmanager
def opened(path: Path, wanted: set[str] | None = None) -> Iterator[Any]:
    """The file as nested mappings of arrays; of an older MATLAB file the variables that are `wanted` (None: all)."""
    with path.open("rb") as file:
        # MATLAB puts a text of 512 bytes before the HDF5 file that it writes.
        hdf5 = _HDF5 in (file.read(8), file.read(512)[504:])
    try:
        if hdf5:
            with library("h5py", "ingest").File(path, "r") as opened_file:
                yield opened_file
        else:
            yield _old_matlab(path, wanted)
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, zlib.error, struct.error, EOFError) as error:
        raise InputError(
            f"file {path.name}", value=f"unreadable ({error})", expected="an HDF5 or MATLAB file", fix="copy it again"
        ) from error


def _old_matlab(path: Path, wanted: set[str] | None) -> dict[str, Any]:
    import scipy.io

    try:
        loaded = scipy.io.loadmat(path, variable_names=None if wanted is None else sorted(wanted), simplify_cells=True)
    except (scipy.io.matlab.MatReadError, IndexError, AttributeError, MemoryError) as error:
        # Damage leads its parser astray in many ways; others are told by the caller.
        raise ValueError(str(error) or type(error).__name__) from error
    return {name: _arrays(value) for name, value in loaded.items() if not name.startswith("__")}


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _arrays(inner) for name, inner in value.items()}
    return value if isinstance(value, str) else np.asarray(value)


def _wanted(mapping: Mapping) -> set[str]:
    """Names of the outermost variables that a mapping reads."""
    places = [place for channel in mapping.channels for place in channel.columns]
    places += [*mapping.labels.values(), *([mapping.time.column] if mapping.time else [])]
    return {re.split(r"[/.\[]", place.strip("/"))[0] for place in places}


def _find(file: Any, place: str) -> tuple[Any, int | None] | None:
    """The array at a place, and which of its signals; fields of structs are told apart by '/' or '.'."""
    picked = _PICKED.fullmatch(place)
    name, number = (picked.group(1), int(picked.group(2))) if picked else (place, None)
    value = file
    for step in re.split(r"[/.]", name.strip("/")):
        if not hasattr(value, "keys") or step not in value:
            return None
        value = value[step]
    return (value, number) if hasattr(value, "shape") and hasattr(value, "dtype") else None


def _scalar(file: Any, place: str, path: Path) -> Any:
    """A number or a text at a place, as a cell of a table would hold it."""
    value: Any = file
    for step in re.split(r"[/.]", place.strip("/")):
        if not hasattr(value, "keys") or step not in value:
            raise InputError(f"label variable {place!r} of {path.name}", value="not in the file", expected="it")
        value = value[step]
    if isinstance(value, str):
        return value
    held = np.asarray(value[()])
    if held.dtype.kind in "SO" and held.size == 1:
        one = held.ravel()[0]
        return one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)
    if held.dtype == np.uint16 and held.size > 1:  # how MATLAB 7.3 writes a text
        return "".join(map(chr, held.ravel()))
    if held.size != 1:
        raise InputError(f"label variable {place!r} of {path.name}", value=f"{held.size} values", expected="one")
    return held.ravel()[0].item()
