"""`.vital` files of Vital Recorder: a gzip stream of packets, read by their published specification.

A header, then packets of (type, length, body); type 0 describes a track, type 1 holds a record of it. All numbers are
little-endian; texts have their length before them. Format: https://vitaldb.net/docs (Vital File Format)
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.protocol import parsing
from xmae_dist.ingest.formats.source import (
    HeldRecording,
    Opened,
    Origin,
    Raw,
    SourceChannel,
    device_unit,
    distinct_keys,
    missing_value,
)

_FORMATS = {1: "<f4", 2: "<f8", 3: "<i1", 4: "<u1", 5: "<i2", 6: "<u2", 7: "<i4", 8: "<u4"}
_KEPT_AS = {"<f4": "float32", "<f8": "float32", "<i1": "int16", "<u1": "int16", "<i2": "int16", "<u4": "float32"}
# A longer file has a damaged time.
LONGEST_S = 30 * 86400.0
_WAVE, _TRACK, _RECORD = 1, 0, 1


@dataclass(kw_only=True)
class Track:
    """A track as its packet describes it, and its records: (time in s, samples)."""

    name: str
    dtype: str
    rate_hz: float
    gain: float
    offset: float
    records: list[tuple[float, np.ndarray]] = field(default_factory=list)

    unit: str = ""

    @property
    def kept_as(self) -> str:
        return _KEPT_AS.get(self.dtype, "int32")

    @property
    def integer(self) -> bool:
        return self.dtype not in ("<f4", "<f8")


def opened(path: Path, name: str, header_subjects: bool) -> Iterator[Opened]:
    """All waveforms of a file on one time axis, with holes where nothing was recorded; a file names no person."""
    tracks = [track for track in tracks_of(path) if track.records]
    if not tracks:
        raise InputError(f"file {path.name}", value="no waveform", expected="at least one")
    start_s = min(track.records[0][0] for track in tracks)
    channels, signals = [], {}
    for key, track in zip(distinct_keys([track.name for track in tracks]), tracks, strict=True):
        unit, factor = device_unit(track.unit)
        channels.append(
            SourceChannel(
                key=key,
                # The device stands before the name; conventions know the name.
                source_name=track.name.rsplit("/", 1)[-1],
                rate_hz=track.rate_hz,
                dtype=track.kept_as,
                unit=unit,
                scale=(track.gain if track.integer else 1.0) * factor,
                offset=(track.offset if track.integer else 0.0) * factor,
                device=track.name.rpartition("/")[0] or None,
            )
        )
        signals[key] = laid_out(track, start_s)
    origin = Origin(recording_id=name, start_time_ns=round(start_s * 1e9))
    yield HeldRecording(origin, tuple(channels), signals)


def laid_out(track: Track, start_s: float) -> Raw:
    """(n,) samples of a track from `start_s` on, holes marked as missing."""
    dtype = track.kept_as
    last_s, last = track.records[-1]
    length = round((last_s - start_s) * track.rate_hz) + len(last)
    if not last_s - start_s < LONGEST_S:
        raise InputError(
            f"track {track.name}", value=f"{last_s - start_s:.0f} s long", expected=f"below {LONGEST_S:.0f}"
        )
    raw = np.full(length, missing_value(dtype), dtype)
    for at_s, samples in track.records:
        first = round((at_s - start_s) * track.rate_hz)
        raw[first : first + len(samples)] = samples[: length - first].astype(dtype)
    return raw


def tracks_of(path: Path) -> list[Track]:
    """Waveforms of a file, the records of each in the order of time. Raises InputError."""
    with parsing(path, "a .vital file"), gzip.open(path, "rb") as file:
        tracks = _parsed(file.read(), path)
    for track in tracks:
        track.records.sort(key=lambda record: record[0])
    return tracks


def _parsed(data: bytes, path: Path) -> list[Track]:
    if data[:4] != b"VITA":
        raise InputError(f"file {path.name}", value=f"begins with {data[:4]!r}", expected="b'VITA'")
    (header_length,) = struct.unpack_from("<H", data, 8)
    at = 10 + header_length
    tracks: dict[int, Track | None] = {}
    devices: dict[int, str] = {}
    while at + 5 <= len(data):
        kind, length = struct.unpack_from("<bI", data, at)
        body = data[at + 5 : at + 5 + length]
        if len(body) < length:
            raise InputError(f"file {path.name}", value="ends within a packet (truncated)", fix="download it again")
        at += 5 + length
        if kind == 9:
            (device,) = struct.unpack_from("<I", body)
            type_name, place = _text(body, 4)
            devices[device] = (_text(body, place)[0] or type_name) if place < len(body) else type_name
        elif kind == _TRACK:
            number, track = _described(body, devices)
            tracks[number] = track
        elif kind == _RECORD:
            _recorded(body, tracks)
    return [track for track in tracks.values() if track is not None]


def _described(body: bytes, devices: dict[int, str]) -> tuple[int, Track | None]:
    """Number and description of a track; None for one that is no waveform."""
    number, kind, number_format = struct.unpack_from("<HBB", body)
    name, at = _text(body, 4)
    unit, at = _text(body, at)
    _, _, _, rate_hz, gain, offset = struct.unpack_from("<ffIfdd", body, at)
    if kind != _WAVE or number_format not in _FORMATS or not rate_hz > 0:
        return number, None
    after = at + 33  # 32 bytes of numbers and one of the kind of monitor
    device = devices.get(struct.unpack_from("<I", body, after)[0], "") if after + 4 <= len(body) else ""
    full = f"{device}/{name}" if device else name
    return number, Track(name=full, dtype=_FORMATS[number_format], rate_hz=rate_hz, gain=gain, offset=offset, unit=unit)


def _recorded(body: bytes, tracks: dict[int, Track | None]) -> None:
    info_length, at_s, number = struct.unpack_from("<HdH", body)
    track = tracks.get(number)
    if track is None:
        return
    (count,) = struct.unpack_from("<I", body, 2 + info_length)
    samples = np.frombuffer(body, track.dtype, count, 2 + info_length + 4)
    track.records.append((at_s, samples))


def _text(body: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", body, at)
    return body[at + 4 : at + 4 + length].decode("utf-8"), at + 4 + length
