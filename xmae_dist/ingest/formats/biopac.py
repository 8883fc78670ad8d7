"""Biopac AcqKnowledge (`.acq`), read by `bioread`: in pieces, or a channel at a time where the file is compressed.

Channels have rates of their own, whole fractions of the file's. `bioread` keeps going where a file ends early and fills
up with zeros; here such a file is refused. Format: BIOPAC Application Note 156.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.events import Event, labels_of
from xmae_dist.ingest.formats.protocol import library, parsing
from xmae_dist.ingest.formats.source import Block, Opened, Origin, SourceChannel, device_unit, distinct_keys

BLOCK_BYTES = 2**20
_KIND = "an AcqKnowledge file"


class BiopacRecording:
    """One `.acq` file. Raises InputError where it cannot be parsed, or holds less than its header says."""

    def __init__(self, path: Path, recording_id: str) -> None:
        self._path = path
        with parsing(path, _KIND), path.open("rb") as file:
            reader = self._reader(file)
            channels = reader.datafile.channels
            keys = distinct_keys([channel.name for channel in channels])
            self.channels = tuple(_channel(key, channel) for key, channel in zip(keys, channels, strict=True))
            created = reader.datafile.earliest_marker_created_at
            markers = list(reader.event_markers or ())
            base_hz = float(reader.samples_per_second)
            length_s = max(channel.point_count / channel.samples_per_second for channel in channels)
        numbers, text = labels_of(
            [Event(one.sample_index / base_hz, None, one.text or "") for one in markers], length_s
        )
        self.origin = Origin(
            recording_id=recording_id,
            start_time_ns=None if created is None else _nanoseconds(created),
            labels=numbers,
            label_text=text,
        )

    def blocks(self) -> Iterator[Block]:
        with self._path.open("rb") as file:
            with parsing(self._path, _KIND):
                reader = self._reader(file)
                pieces = self._whole(reader) if reader.is_compressed else self._pieces(reader)
            while True:
                with parsing(self._path, _KIND):
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece

    def _pieces(self, reader: Any) -> Iterator[Block]:
        for buffers in reader.stream(target_chunk_size=BLOCK_BYTES):
            yield {
                channel.key: buffer.buffer.astype(channel.dtype)
                for channel, buffer in zip(self.channels, buffers, strict=True)
            }

    def _whole(self, reader: Any) -> Iterator[Block]:
        """All of a compressed file at once: each channel in it is one compressed piece."""
        reader._read_data(None)
        yield {
            channel.key: held.raw_data.astype(channel.dtype)
            for channel, held in zip(self.channels, reader.datafile.channels, strict=True)
        }

    def _reader(self, file: Any) -> Any:
        bioread = library("bioread", "biopac")
        # It writes every header that it cannot read to the terminal; what matters is in our error.
        logging.getLogger("bioread").setLevel(logging.CRITICAL)
        reader = bioread.reader.Reader.read_headers(file)
        if reader.datafile is None or not reader.datafile.channels:
            raise InputError(f"file {self._path.name}", value="no readable header", expected=_KIND)
        needed = reader.data_start_offset + reader.data_length
        if self._path.stat().st_size < needed or min(c.point_count for c in reader.datafile.channels) < 0:
            raise InputError(
                f"file {self._path.name}",
                value=f"{self._path.stat().st_size} bytes (truncated)",
                expected=f"{needed} bytes for what its header says",
                fix="copy the file again from its source",
            )
        return reader


def opened(path: Path, name: str, header_subjects: bool) -> Iterator[Opened]:
    """The recording of a file; it names no person."""
    yield BiopacRecording(path, name)


def _channel(key: str, channel: Any) -> SourceChannel:
    unit, factor = device_unit(_UNIT_WORDS.get(channel.units.strip().lower(), channel.units))
    integer = channel.dtype.kind == "i"
    return SourceChannel(
        key=key,
        source_name=channel.name,
        rate_hz=float(channel.samples_per_second),
        # The lowest of 16 bits may be a sample: our mark needs 32.
        dtype="int32" if integer else "float32",
        unit=unit,
        scale=(float(channel.raw_scale_factor) if integer else 1.0) * factor,
        offset=(float(channel.raw_offset) if integer else 0.0) * factor,
    )


_UNIT_WORDS = {"volts": "V", "microsiemens": "uS", "degrees c": "degC", "deg c": "degC", "g's": "g"}


def _nanoseconds(created: datetime.datetime) -> int:
    zoned = created if created.tzinfo else created.replace(tzinfo=datetime.UTC)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (zoned - epoch) // datetime.timedelta(microseconds=1) * 1000
