"""Recordings of a group of files into one part: looked at, named, written end to end.

A part is written by one process, a recording at a time and a block at a time, so memory does not grow with
either. Nothing is visible until the part's rows are committed (`register`).
"""

from __future__ import annotations

import hashlib
import itertools
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.admission import NOBODY, Admission
from xmae_dist.ingest.check import Gaps, Look, look
from xmae_dist.ingest.datasets.catalogue import Archive
from xmae_dist.ingest.formats.items import Item, TakenItem, as_taken
from xmae_dist.ingest.formats.mapping import Mapping as TableMapping
from xmae_dist.ingest.formats.source import Opened, Raw, SourceChannel, SourceRecording, is_missing, physical
from xmae_dist.ingest.naming import names_of
from xmae_dist.ingest.readers import formats_of
from xmae_dist.ingest.written import Outcome, WrittenPart
from xmae_dist.storage import uri
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.part import PartChannel, PartWriter

COPIES_AT_ONCE = 64
COPY_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Wear:
    """The device of a cohort and where each channel was worn (corpus channel name -> body site)."""

    device: str = ""
    body_sites: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PartTask:
    """One part to write: what a worker needs to know, and no more."""

    corpus_url: str
    cohort: str
    part_id: str
    items: tuple[Item, ...]
    mapping: TableMapping | Archive | None = None
    wear: Wear = Wear()
    header_subjects: bool = False
    admission: Admission = NOBODY


def write_part(task: PartTask, until_s: float = math.inf) -> Iterator[Outcome | WrittenPart]:
    """Writes the part; yields an outcome for each recording as it is done, and the written part at the end.

    It ends early, after a whole item, when the monotonic clock has passed `until_s`: its items say how far it came. A
    part in which nothing could be kept is given up; it then has no rows.
    """
    formats = formats_of(task.mapping, task.header_subjects)
    done: dict[str, TakenItem] = {}
    with PartWriter.claim(task.corpus_url, task.cohort, task.part_id) as part:
        arrays = _Arrays(part, task.wear)
        rows: list[IndexRow] = []
        outcomes: list[Outcome] = []
        for item, folder in _local(task.items):
            for recording in formats[item.format].recordings(item, folder):
                if not isinstance(recording, tuple) and recording.origin.recording_id in task.admission.there:
                    continue
                outcome, new_rows = _convert(recording, item, arrays, task.admission)
                rows += new_rows
                outcomes.append(outcome)
                yield outcome
            done[item.name] = as_taken(item)
            if time.monotonic() > until_s:
                break
    yield WrittenPart(
        part=part.part,
        items=done,
        outcomes=tuple(outcomes),
        rows=tuple(rows),
    )


def _local(items: Iterable[Item]) -> Iterator[tuple[Item, Path]]:
    """Items with a local folder of their files: their own, or copies of remote ones that are removed afterwards."""
    for folder_url, group in itertools.groupby(items, lambda item: item.folder_url):
        if uri.is_local(folder_url):
            place = uri.local_path(folder_url)
            yield from ((item, place) for item in group)
            continue
        for some in _copied_at_once(group):
            with tempfile.TemporaryDirectory(prefix="xmae-ingest-") as folder:
                _copy(folder_url, dict.fromkeys(name for item in some for name in item.files), Path(folder))
                yield from ((item, Path(folder)) for item in some)


def _copied_at_once(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Few enough to fit on any disk, many enough to hide the latency of a store."""
    some: list[Item] = []
    for item in items:
        if some and (len(some) >= COPIES_AT_ONCE or sum(one.bytes for one in some) + item.bytes > COPY_BYTES):
            yield some
            some = []
        some.append(item)
    if some:
        yield some


def _copy(folder_url: str, names: Iterable[str], folder: Path) -> None:
    fs, root = uri.filesystem(folder_url)
    names = list(names)
    targets = [uri.path_below(folder, name) for name in names]
    for place in {target.parent for target in targets}:
        place.mkdir(parents=True, exist_ok=True)
    with uri.storage_errors(folder_url):
        fs.get([f"{root}/{name}" for name in names], [str(target) for target in targets])


def _convert(recording: Opened, item: Item, arrays: _Arrays, admission: Admission) -> tuple[Outcome, list[IndexRow]]:
    if isinstance(recording, tuple):
        return Outcome(name=recording[0], item=item.name, kept=False, reason=str(recording[1])), []
    name = recording.origin.recording_id
    try:
        if refused := admission.refusal(recording.origin, item.name):
            return refused, []
        seen = look(recording)
        if not seen.usable:
            reason = "no channel can be kept: " + "; ".join(f"{key}: {why}" for key, why in seen.dropped.items())
            return Outcome(name=name, item=item.name, kept=False, reason=reason, dropped=seen.dropped), []
        rows = _write(recording, seen, arrays)
    except InputError as error:
        return Outcome(name=name, item=item.name, kept=False, reason=str(error)), []
    hours = max(row.duration_s for row in rows) / 3600
    channels = tuple(row.channel for row in rows)
    notes = (*recording.origin.notes, *seen.doubts)
    kept = Outcome(
        name=name, item=item.name, kept=True, dropped=seen.dropped, channels=channels, hours=hours, notes=notes
    )
    return kept, rows


def _write(recording: SourceRecording, seen: Look, arrays: _Arrays) -> list[IndexRow]:
    names = names_of(seen.usable)
    tracks = [_Track(channel, arrays.of(channel, name), name) for channel, name in zip(seen.usable, names, strict=True)]
    for block in seen.blocks(recording):
        for track in tracks:
            track.append(block[track.channel.key])
    return [track.row(recording, arrays.part) for track in tracks]


class _Arrays:
    """The arrays of a part, a channel's samples in at most two of them for each rate.

    One keeps the device's integers, with the calibration of the channel's first recording; what is calibrated otherwise
    (bedside monitors choose a gain per record) goes into the other as physical values in float32, which holds every
    24-bit integer exactly: an array per gain would be an object per recording.
    """

    def __init__(self, part: PartWriter, wear: Wear) -> None:
        self.part, self._wear = part, wear
        self._first: dict[tuple[str, float], tuple[object, ...]] = {}

    def of(self, channel: SourceChannel, name: str) -> PartChannel:
        calibration = (channel.dtype, channel.scale, channel.offset, channel.unit)
        first = self._first.setdefault((name, channel.rate_hz), calibration)
        integers = channel.dtype != "float32" and calibration == first
        sites = self._wear.body_sites
        return self.part.channel(
            name,
            dtype=channel.dtype if integers else "float32",
            rate_hz=channel.rate_hz,
            unit=channel.unit,
            scale=channel.scale if integers else 1.0,
            offset=channel.offset if integers else 0.0,
            device=channel.device or self._wear.device,
            body_site=channel.body_site or sites.get(name) or sites.get("", ""),
        )


class _Track:
    """One channel of one recording on its way into its array."""

    def __init__(self, channel: SourceChannel, array: PartChannel, name: str) -> None:
        self.channel, self._array, self._name = channel, array, name
        self._gaps, self._hash = Gaps(), hashlib.sha256()
        self._offset: int | None = None
        self._length = 0

    def append(self, raw: Raw) -> None:
        stored = raw if self._array.writer.dtype.kind == "i" else physical(raw, self.channel)
        offset = self._array.append(stored)
        self._offset = offset if self._offset is None else self._offset
        self._length += len(stored)
        self._gaps.add(is_missing(stored))
        little = np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("<"))
        self._hash.update(little.tobytes())

    def row(self, recording: SourceRecording, part: PartWriter) -> IndexRow:
        origin, attributes = recording.origin, self._array.writer.attributes
        return IndexRow(
            subject_id=origin.subject_id or "",
            recording_id=origin.recording_id,
            cohort=part.cohort,
            part=part.part,
            channel=self._name,
            source_name=self.channel.source_name,
            array_path=self._array.array_path,
            offset=self._offset or 0,
            length=self._length,
            rate_hz=attributes.rate_hz,
            unit=attributes.unit,
            start_time_ns=origin.start_time_ns,
            clock_id=origin.clock_id or f"{part.cohort}/{origin.recording_id}",
            gaps=tuple(self._gaps.spans),
            device=attributes.device,
            body_site=attributes.body_site,
            digest=self._hash.hexdigest(),
            labels=origin.labels,
            label_text=origin.label_text,
        )
