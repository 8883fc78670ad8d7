"""EDF, EDF+C, EDF+D and BDF: records of fixed size, read a few at a time.

The `edfio` package reads the header. What it leaves out is here: blocks of BDF (it reads such a file whole), the times
of records, so that what EDF+D left out becomes missing samples instead of being glued together, and a refusal of files
that hold less, or more, than their header says. Format: https://www.edfplus.info/specs/index.html
"""

from __future__ import annotations

import datetime
import io
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.events import Event, labels_of
from xmae_dist.ingest.formats.protocol import library
from xmae_dist.ingest.formats.source import (
    Block,
    Origin,
    SourceChannel,
    all_missing,
    device_unit,
    distinct_keys,
)

BLOCK_BYTES = 8 * 2**20
# A longer pause between two records is a damaged time, or recordings that should be files of their own.
LONGEST_GAP_S = 7 * 86400.0
_FIXED, _PER_SIGNAL = 256, 256
_LABEL_BYTES, _BEFORE_WIDTHS, _WIDTH_BYTES = 16, 216, 8
# Onset, duration, and texts of a time-stamped annotation list.
_TAL = re.compile(rb"([+-]\d+(?:\.\d*)?)(?:\x15(\d+(?:\.\d*)?))?\x14([^\x00]*)\x14(?:\x00|$)")
# What writers put where the date is unknown; EDF knows none before.
_MARK = 0x14  # ends onsets and texts in annotations
_NO_DATE = datetime.date(1985, 1, 1)


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """A signal's place in a record, in bytes; `width` samples of it."""

    start: int
    width: int


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Records that follow each other without a gap; `start_s` from the first record of the file."""

    first: int
    count: int
    start_s: float


class EdfRecording:
    """One EDF or BDF file on local disk; `beside` holds annotations of the same recording in a file of their own.

    Raises InputError where the header cannot be parsed, the file is shorter or longer than it says, or it holds no
    signal. With `header_subjects` the code of its patient field is the subject.
    """

    def __init__(
        self, path: Path, recording_id: str, header_subjects: bool = False, beside: Path | None = None
    ) -> None:
        self._file = _RecordFile(path)
        header = self._file.header
        self.channels = _channels(self._file)
        if not self.channels:
            raise InputError(
                f"file {path.name}",
                value="annotations only",
                expected="signals",
                fix="name it like its recording with '-Hypnogram' or '-annotations' at the end, in the same folder",
            )
        self._runs, events = self._file.walk()
        start = _start_time(header, path)
        if beside is not None:
            events = events + _events_beside(beside, start)
        labels, text = labels_of(events, self._length_s())
        self.origin = Origin(
            recording_id=recording_id,
            subject_id=_patient(header) if header_subjects else None,
            start_time_ns=None if start is None else _nanoseconds(start),
            labels=labels,
            label_text=text,
        )

    def blocks(self) -> Iterator[Block]:
        slots = [self._file.signals[at] for at in range(len(self.channels))]
        done = [0] * len(slots)
        for run in self._runs:
            due = [round(run.start_s * channel.rate_hz) for channel in self.channels]
            yield from self._gap([max(0, to - at) for to, at in zip(due, done, strict=True)])
            done = [max(at, to) + run.count * slot.width for at, to, slot in zip(done, due, slots, strict=True)]
            for pieces in self._file.samples(run.first, run.first + run.count, slots):
                yield {
                    channel.key: raw.astype(channel.dtype, copy=False)
                    for channel, raw in zip(self.channels, pieces, strict=True)
                }

    def _gap(self, counts: list[int]) -> Iterator[Block]:
        pieces = math.ceil(max(counts) * 4 * len(counts) / BLOCK_BYTES)
        for at in range(pieces):
            yield {
                channel.key: all_missing(n * (at + 1) // pieces - n * at // pieces, channel.dtype)
                for channel, n in zip(self.channels, counts, strict=True)
            }

    def _length_s(self) -> float:
        last = self._runs[-1]
        return last.start_s + last.count * self._file.duration_s


class _RecordFile:
    """Layout of a file: its header, and where each signal and annotation lies in a record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            fixed = file.read(_FIXED)
            self.bytes_per_sample = 3 if fixed[:8] == b"\xffBIOSEMI" else 2
            total = _number(fixed[252:256], "number of signals", path)
            described = file.read(total * _PER_SIGNAL)
        if len(fixed) < _FIXED or len(described) < total * _PER_SIGNAL or total < 1:
            raise InputError(
                f"header of {path.name}",
                value=f"{len(fixed) + len(described)} bytes for {total} signals (truncated)",
                expected=f"{_FIXED + max(total, 1) * _PER_SIGNAL} bytes",
                fix="copy the file again from its source",
            )
        self.signals, self.annotations, self._record_bytes = self._layout(described, total)
        self._data_at = _FIXED + total * _PER_SIGNAL
        with path.open("rb") as file:
            self.header = _header(file.read(self._data_at + self._record_bytes), self.bytes_per_sample, path)
        self.duration_s = float(self.header.data_record_duration)
        self.records = self._counted(_number(fixed[236:244], "number of records", path))
        if self.signals and not self.duration_s > 0:
            raise InputError(f"header of {path.name}", value="records of 0 s", expected="a duration, for its signals")

    def walk(self) -> tuple[list[_Run], list[Event]]:
        """Runs of records without a gap, and all annotations; times from the first record.

        Raises InputError where the times of records overlap, or lie further apart than `LONGEST_GAP_S`.
        """
        if not self.annotations:
            return [_Run(first=0, count=self.records, start_s=0.0)], []
        onsets_R, events = self._stamps()
        at_R = onsets_R - onsets_R[0]
        events = [Event(one.onset_s - float(onsets_R[0]), one.duration_s, one.text) for one in events]
        if not self.signals:
            return [_Run(first=0, count=self.records, start_s=0.0)], events
        half_sample_s = self.duration_s / (2 * max(slot.width for slot in self.signals))
        # What a record's time is beyond its place in a file without gaps moves only where there is a gap.
        beyond_R = at_R - np.arange(self.records) * self.duration_s
        runs = []
        first = 0
        while first < self.records:
            moved = np.flatnonzero(np.abs(beyond_R[first:] - beyond_R[first]) > half_sample_s)
            stop = first + int(moved[0]) if len(moved) else self.records
            runs.append(_Run(first=first, count=stop - first, start_s=float(at_R[first])))
            if stop < self.records:
                gap_s = float(beyond_R[stop] - beyond_R[stop - 1])
                if gap_s < -half_sample_s:
                    said = f"{at_R[stop]:.6f} s after the first, within the one before"
                    raise self._at(stop, said, "times that increase")
                if gap_s > LONGEST_GAP_S:
                    raise self._at(stop, f"a gap of {gap_s:.0f} s", f"at most {LONGEST_GAP_S:.0f} s")
            first = stop
        return runs, events

    def _stamps(self) -> tuple[NDArray[np.float64], list[Event]]:
        """The time of each record, (R,) seconds, and all annotations."""
        onsets_R = np.empty(self.records)
        events: list[Event] = []
        first = 0
        for texts in self._annotation_texts():
            count = len(texts[0])
            # As most records are: their time and no event.
            alone, onsets_R[first : first + count] = _onsets_alone(texts[0])
            for at in np.flatnonzero(~alone if len(texts) == 1 else np.ones(count, dtype=bool)).tolist():
                record = first + at
                stamps = [_annotations(text[at].tobytes().rstrip(b"\0"), self.path, record) for text in texts]
                if not stamps[0]:
                    raise self._at(record, "no time", "the time-keeping annotation of every record")
                onsets_R[record] = stamps[0][0].onset_s
                # The first stamp of the first list tells the record's time and no event.
                events += [event for event in stamps[0][1:] if event.text]
                events += [event for other in stamps[1:] for event in other if event.text]
            first += count
        return onsets_R, events

    def samples(self, first: int, last: int, slots: list[_Slot]) -> Iterator[list[NDArray[Any]]]:
        """Digital samples of `slots` in records [first, last), a piece of each at a time."""
        step = max(1, BLOCK_BYTES // self._record_bytes)
        # A writer may put all of a recording into one record.
        pieces = math.ceil(self._record_bytes / BLOCK_BYTES)
        if pieces == 1:
            for table in self._tables(first, last, step):
                yield [self._decoded(table[:, s.start : self._end(s)]) for s in slots]
            return
        with self.path.open("rb") as file:
            for record in range(first, last):
                for at in range(pieces):
                    yield [self._piece(file, record, slot, at, pieces) for slot in slots]

    def _piece(self, file: Any, record: int, slot: _Slot, at: int, pieces: int) -> NDArray[Any]:
        start, stop = slot.width * at // pieces, slot.width * (at + 1) // pieces
        place = record * self._record_bytes + slot.start + start * self.bytes_per_sample
        piece = np.empty((stop - start) * self.bytes_per_sample, np.uint8)
        self._read(file, place, piece)
        return self._decoded(piece)

    def _annotation_texts(self) -> Iterator[list[NDArray[np.uint8]]]:
        """What some records hold of each annotation signal: (records, bytes), zeros at the end."""
        for table in self._tables(0, self.records, max(1, BLOCK_BYTES // self._record_bytes)):
            yield [table[:, slot.start : self._end(slot)] for slot in self.annotations]

    def _tables(self, first: int, last: int, step: int) -> Iterator[NDArray[np.uint8]]:
        """Records [first, last), `step` at a time, as (records, bytes); each is overwritten by the next."""
        room = np.empty((min(step, last - first), self._record_bytes), np.uint8)
        with self.path.open("rb") as file:
            for record in range(first, last, step):
                table = room[: min(step, last - record)]
                self._read(file, record * self._record_bytes, table.reshape(-1))
                yield table

    def _read(self, file: Any, start: int, into: NDArray[np.uint8]) -> None:
        file.seek(self._data_at + start)
        if file.readinto(into.data) < len(into):
            raise InputError(f"file {self.path.name}", value="became shorter while it was read", fix="copy it again")

    def _decoded(self, raw: NDArray[np.uint8]) -> NDArray[Any]:
        if self.bytes_per_sample == 2:
            return raw.copy().reshape(-1).view("<i2")
        wide = np.zeros((raw.size // 3, 4), np.uint8)
        wide[:, 1:] = raw.reshape(-1, 3)
        return wide.reshape(-1).view("<i4") >> 8

    def _end(self, slot: _Slot) -> int:
        return slot.start + slot.width * self.bytes_per_sample

    def _layout(self, described: bytes, total: int) -> tuple[list[_Slot], list[_Slot], int]:
        signals: list[_Slot] = []
        annotations: list[_Slot] = []
        at = 0
        for number in range(total):
            label = described[number * _LABEL_BYTES : (number + 1) * _LABEL_BYTES].rstrip()
            place = total * _BEFORE_WIDTHS + number * _WIDTH_BYTES
            width = _number(described[place : place + _WIDTH_BYTES], "samples in a record", self.path)
            if width < 1:
                raise InputError(
                    f"signal {label.decode('latin-1')} of {self.path.name}",
                    value=f"{width} samples in a record",
                    expected="1 or more",
                )
            slot = _Slot(start=at, width=width)
            (annotations if label in (b"EDF Annotations", b"BDF Annotations") else signals).append(slot)
            at += width * self.bytes_per_sample
        return signals, annotations, at

    def _counted(self, stated: int) -> int:
        """Records that the file holds, which must be those that its header states (-1: it does not say)."""
        held_bytes = self.path.stat().st_size - self._data_at
        held, rest = divmod(held_bytes, self._record_bytes)
        if held < 1 or (stated >= 0 and (held != stated or rest)):
            what = "truncated" if held < max(stated, 1) else "more than its header says"
            raise InputError(
                f"file {self.path.name}",
                value=f"{held_bytes} bytes of records ({what})",
                expected=f"{max(stated, 1) * self._record_bytes} bytes for {max(stated, 1)} records",
                fix="copy the file again from its source",
            )
        return held

    def _at(self, record: int, value: str, expected: str) -> InputError:
        fix = "split the file there, or repair its annotations"
        return InputError(f"record {record + 1} of {self.path.name}", value=value, expected=expected, fix=fix)


def _header(raw: bytes, bytes_per_sample: int, path: Path) -> Any:
    """The header as edfio reads it, given the first record too, which may hold a fraction of the start's second."""
    edfio = library("edfio", "edf")
    read = edfio.read_bdf if bytes_per_sample == 3 else edfio.read_edf
    try:
        with warnings.catch_warnings():
            # Of these it warns that the file is shorter than its header says.
            warnings.simplefilter("ignore")
            header = read(io.BytesIO(raw))
            float(header.data_record_duration)
            return header
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise InputError(
            f"header of {path.name}", value=f"unreadable ({error})", expected="an EDF or BDF header"
        ) from error


def _channels(file: _RecordFile) -> tuple[SourceChannel, ...]:
    channels = []
    signals = file.header.signals
    for key, signal, slot in zip(distinct_keys([s.label for s in signals]), signals, file.signals, strict=True):
        try:
            scale, offset = _calibration(signal)
        except (ValueError, ZeroDivisionError) as error:
            raise InputError(
                f"signal {key} of {file.path.name}", value=str(error), expected="a physical and a digital range"
            ) from error
        unit, factor = device_unit(signal.physical_dimension)
        channels.append(
            SourceChannel(
                key=key,
                source_name=signal.label,
                rate_hz=slot.width / file.duration_s,
                dtype=_dtype(file.bytes_per_sample, signal.digital_min),
                unit=unit,
                scale=scale * factor,
                offset=offset * factor,
            )
        )
    return tuple(channels)


def _calibration(signal: Any) -> tuple[float, float]:
    gain = (signal.physical_max - signal.physical_min) / (signal.digital_max - signal.digital_min)
    if gain == 0 or not math.isfinite(gain):
        raise ValueError(f"physical range {signal.physical_min:g} to {signal.physical_max:g}")
    return gain, signal.physical_max - gain * signal.digital_max


def _dtype(bytes_per_sample: int, digital_min: int) -> str:
    """EDF marks no missing samples: where the lowest integer may be a sample it must not become our mark."""
    return "int16" if bytes_per_sample == 2 and digital_min > np.iinfo(np.int16).min else "int32"


def _start_time(header: Any, path: Path) -> datetime.datetime | None:
    """Wall time of the first sample; None where the date was taken out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = header.startdatetime
    except ValueError as error:
        if type(error).__name__ == "AnonymizedDateError":
            return None
        raise InputError(f"header of {path.name}", value=str(error), expected="a start date and time") from error
    return None if start.date() == _NO_DATE else start


def _nanoseconds(start: datetime.datetime) -> int:
    epoch = datetime.datetime(1970, 1, 1)
    return (start - epoch) // datetime.timedelta(microseconds=1) * 1000


def _patient(header: Any) -> str | None:
    code = header.local_patient_identification.split(" ")[0]
    return code if code not in ("", "X") else None


def _events_beside(path: Path, start: datetime.datetime | None) -> list[Event]:
    """Annotations of a file of their own, with times from the start of the recording."""
    file = _RecordFile(path)
    _, events = file.walk()
    own = _start_time(file.header, path)
    shift_s = (own - start).total_seconds() if own is not None and start is not None else 0.0
    return [Event(event.onset_s + shift_s, event.duration_s, event.text) for event in events]


def _onsets_alone(texts: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which texts (R, bytes) are an onset and nothing more, `+12.5` and two marks; and that onset in seconds; (R,)
    each.
    """
    number, mark = (texts >= ord("0")) & (texts <= ord("9")), texts == _MARK
    length = mark.argmax(axis=1)
    within = np.arange(texts.shape[1]) < length[:, None]
    digits, dots = (number & within).sum(axis=1), ((texts == ord(".")) & within).sum(axis=1)
    signed = np.isin(texts[:, 0], (ord("+"), ord("-"))) & number[:, 1]
    # Two marks after the number, and zeros after them.
    alone = signed & (digits + dots + 1 == length) & (dots <= 1) & (mark.sum(axis=1) == 2)
    alone &= mark[np.arange(len(texts)), np.minimum(length + 1, texts.shape[1] - 1)]
    alone &= (texts != 0).sum(axis=1) == length + 2
    said = np.where(within, texts, 0)
    said[~alone] = 0
    said[~alone, 0] = ord("0")
    onsets_s = np.ascontiguousarray(said).view(f"S{texts.shape[1]}").ravel().astype(np.float64)
    return alone, onsets_s


def _annotations(raw: bytes, path: Path, record: int) -> list[Event]:
    found = []
    for onset, duration, texts in _TAL.findall(raw):
        for text in texts.split(b"\x14"):
            found.append(Event(float(onset), float(duration) if duration else None, text.decode("utf-8", "replace")))
    if not found and raw.strip(b"\x00"):
        raise InputError(
            f"annotations of record {record + 1} of {path.name}",
            value=repr(raw[:40]),
            expected="time-stamped annotations of EDF+",
        )
    return found


def _number(field: bytes, what: str, path: Path) -> int:
    try:
        return int(field.decode("ascii").strip())
    except ValueError as error:
        raise InputError(
            f"header of {path.name}",
            value=f"{field!r} as {what}",
            expected="an EDF or BDF header",
            fix="check the file",
        ) from error
