"""Recordings of a group of files into one part: looked at, named, written end to end.

A part is written by one process, a recording at a time and a block at a time, so memory does not grow with
either. Nothing is visible until the part's rows are committed (`register`).
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.archives.catalogue import Archive, recordings_of
from xmae_dist.ingest.check import Gaps, Look, look
from xmae_dist.ingest.discover import Item
from xmae_dist.ingest.formats.mapping import Mapping as TableMapping
from xmae_dist.ingest.formats.source import Raw, SourceChannel, SourceRecording, is_missing, physical
from xmae_dist.ingest.formats.table import ColumnsRecording, rows_channels, rows_recordings
from xmae_dist.ingest.formats.wfdb import WfdbRecording
from xmae_dist.ingest.naming import channel_names, family
from xmae_dist.storage import uri
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.part import PartChannel, PartWriter


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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one recording. `dropped`: source channel -> reason. `reason`: why it was rejected."""

    name: str
    item: str
    kept: bool
    reason: str = ""
    dropped: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    hours: float = 0.0


@dataclass(frozen=True, kw_only=True)
class WrittenPart:
    """A closed part: its rows (not yet committed; subjects and manifest labels are still to come) and
    outcomes.
    """

    part: str
    items: Mapping[str, str]
    outcomes: tuple[Outcome, ...]
    rows: tuple[IndexRow, ...]


def write_part(task: PartTask) -> Iterator[Outcome | WrittenPart]:
    """Writes the part; yields an outcome for each recording as it is done, and the written part at the end.

    A part in which nothing could be kept is given up; it then has no rows.
    """
    with contextlib.ExitStack() as stack:
        folder_of = {item.name: stack.enter_context(_local_folder(item)) for item in task.items}
        native = _native_families(task, folder_of)
        part = stack.enter_context(PartWriter.claim(task.corpus_url, task.cohort, task.part_id))
        rows: list[IndexRow] = []
        outcomes: list[Outcome] = []
        for item in task.items:
            for recording in _recordings(item, folder_of[item.name], task.mapping):
                outcome, new_rows = _convert(recording, item, part, native, task.wear)
                rows += new_rows
                outcomes.append(outcome)
                yield outcome
    yield WrittenPart(
        part=part.part,
        items={item.name: item.fingerprint for item in task.items},
        outcomes=tuple(outcomes),
        rows=tuple(rows),
    )


@contextlib.contextmanager
def _local_folder(item: Item) -> Iterator[Path]:
    """A local folder with the files of `item`: its own, or a copy of a remote one that is removed afterwards."""
    if uri.is_local(item.folder_url):
        yield uri.local_path(item.folder_url)
        return
    with tempfile.TemporaryDirectory(prefix="xmae-ingest-") as folder:
        fs, root = uri.filesystem(item.folder_url)
        for name in item.files:
            target = uri.path_below(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with uri.storage_errors(uri.join(item.folder_url, name)):
                fs.get_file(f"{root}/{name}", str(target))
        yield Path(folder)


def _recordings(
    item: Item, folder: Path, mapping: TableMapping | Archive | None
) -> Iterator[SourceRecording | tuple[str, InputError]]:
    head = folder / item.head
    try:
        if mapping is None:
            yield WfdbRecording(head, item.name)
        elif isinstance(mapping, Archive):
            yield from recordings_of(mapping, head, item.name)
        elif mapping.layout == "columns":
            yield ColumnsRecording(head, item.name, mapping)
        else:
            yield from rows_recordings(head, mapping)
    except InputError as error:
        yield item.name, error


def _native_families(task: PartTask, folder_of: Mapping[str, Path]) -> frozenset[str]:
    """Families of channels that all recordings of the part store alike, so that one array can keep their
    integers.

    Where calibrations differ (bedside monitors choose a gain per record) physical values are stored as
    float32, which holds every 24-bit integer exactly: an array per gain would be an object per recording.
    """
    kinds: dict[str, set[tuple[object, ...]]] = {}
    for item in task.items:
        with contextlib.suppress(InputError):
            channels = _declared(item, folder_of[item.name], task.mapping)
            for channel, name in zip(channels, _names(channels), strict=True):
                kind = (channel.dtype, channel.scale, channel.offset, channel.unit)
                kinds.setdefault(family(name), set()).add(kind)
    return frozenset(name for name, found in kinds.items() if len(found) == 1)


def _declared(item: Item, folder: Path, mapping: TableMapping | Archive | None) -> tuple[SourceChannel, ...]:
    head = folder / item.head
    if mapping is None:
        return WfdbRecording(head, item.name).channels
    if isinstance(mapping, Archive):
        return next(mapping.recordings(head, item.name)).channels
    if mapping.layout == "columns":
        return ColumnsRecording(head, item.name, mapping).channels
    return rows_channels(head, mapping)


def _names(channels: Iterable[SourceChannel]) -> list[str]:
    channels = list(channels)
    if all(channel.name for channel in channels):
        return [str(channel.name) for channel in channels]
    return channel_names([channel.source_name for channel in channels])


def _convert(
    recording: SourceRecording | tuple[str, InputError],
    item: Item,
    part: PartWriter,
    native: frozenset[str],
    wear: Wear,
) -> tuple[Outcome, list[IndexRow]]:
    if isinstance(recording, tuple):
        return Outcome(name=recording[0], item=item.name, kept=False, reason=str(recording[1])), []
    name = recording.origin.recording_id
    try:
        seen = look(recording)
        if not seen.usable:
            reason = "no channel can be kept: " + "; ".join(f"{key}: {why}" for key, why in seen.dropped.items())
            return Outcome(name=name, item=item.name, kept=False, reason=reason, dropped=seen.dropped), []
        rows = _write(recording, seen, part, native, wear)
    except InputError as error:
        return Outcome(name=name, item=item.name, kept=False, reason=str(error)), []
    hours = max(row.duration_s for row in rows) / 3600
    channels = tuple(row.channel for row in rows)
    return Outcome(name=name, item=item.name, kept=True, dropped=seen.dropped, channels=channels, hours=hours), rows


def _write(
    recording: SourceRecording, seen: Look, part: PartWriter, native: frozenset[str], wear: Wear
) -> list[IndexRow]:
    names = _names(seen.usable)
    tracks = [
        _Track(channel, _array(part, channel, name, family(name) in native, wear), name)
        for channel, name in zip(seen.usable, names, strict=True)
    ]
    for block in seen.blocks(recording):
        for track in tracks:
            track.append(block[track.channel.key])
    return [track.row(recording, part) for track in tracks]


def _array(part: PartWriter, channel: SourceChannel, name: str, native: bool, wear: Wear) -> PartChannel:
    integers = native and channel.dtype != "float32"
    return part.channel(
        name,
        dtype=channel.dtype if integers else "float32",
        rate_hz=channel.rate_hz,
        unit=channel.unit,
        scale=channel.scale if integers else 1.0,
        offset=channel.offset if integers else 0.0,
        device=channel.device or wear.device,
        body_site=channel.body_site or wear.body_sites.get(name) or wear.body_sites.get("", ""),
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
