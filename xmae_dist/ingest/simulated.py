"""Simulated cohorts into a corpus: subjects are made where their part is written, spread over the cluster.

A subject depends on the cohort's specification and its own number alone, so subjects are to a simulated cohort
what files are to a recorded one: they are grouped into parts, a killed run goes on where it was, and asking for
more of them later adds the missing ones.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from xmae_dist.cluster import fanout
from xmae_dist.core.errors import UsageError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.core.progress import progress
from xmae_dist.core.units import canonical_unit
from xmae_dist.ingest.formats.items import Item
from xmae_dist.ingest.grouping import groups
from xmae_dist.ingest.register import Register, taken_items
from xmae_dist.ingest.written import Note, Outcome, WrittenPart
from xmae_dist.simulate.cohorts import CohortSpec, SimulatedRecording, simulate_subject, subject_id
from xmae_dist.storage.corpus import AlreadyThereError, Corpus
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.part import PartWriter, checked_name

_BYTES_PER_SAMPLE = 2


@dataclass(frozen=True, kw_only=True)
class SimulationTask:
    """Some subjects of a cohort, to be written as one part of each device's cohort."""

    corpus_url: str
    spec: CohortSpec
    part_id: str
    subjects: tuple[int, ...]
    items: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True)
class SimulationReport:
    """What is in the corpus after the run. `version` is None where all of it was there before."""

    cohorts: tuple[str, ...]
    subjects: int
    left_out: tuple[str, ...]
    """Subjects who were withdrawn."""
    recordings: int
    hours: float
    parts: int
    resumed_parts: int
    version: int | None
    txn: str
    took_s: float


def cohort_of(spec: CohortSpec, device: str) -> str:
    """A cohort is one campaign of one device: worn together, each device of a specification gets its own."""
    return spec.name if len(spec.devices) == 1 else f"{spec.name}-{device}"


def simulate_into(corpus_url: str, spec: CohortSpec, *, part_bytes: int = 256 * 2**20) -> SimulationReport:
    """Writes what the corpus lacks of `spec`, and commits it once.

    Raises UsageError where a cohort of this name was simulated with other options.
    """
    started = time.monotonic()
    cohorts = tuple(checked_name("cohort", cohort_of(spec, device.name)) for device in spec.devices)
    corpus = Corpus.open_or_create(corpus_url)
    identity = {key: value for key, value in dataclasses.asdict(spec).items() if key != "subjects"}
    register = Register(corpus, spec.name, identity, cohorts)
    register.finish_interrupted()
    withdrawn = corpus.withdrawn.read()
    items = _items(spec, digest_json(identity))
    todo = register.sort([item for item in items if item.name not in withdrawn.subjects], withdrawn)
    if todo.changed:
        raise UsageError(
            f"cohort {spec.name}",
            value=f"simulated before with other options ({len(todo.changed)} subjects differ)",
            expected="the same options, or a new cohort",
            fix="name the new one with --cohort",
        )
    resumed = register.resumable(todo.new)
    done = {name for note in resumed for name in note.items}
    notes = resumed + _write(corpus, spec, register, [item for item in todo.new if item.name not in done], part_bytes)
    parts = [register.read(note) for note in notes]
    rows = sorted((row for part in parts for row in part.rows), key=lambda row: (row.array_path, row.offset))
    txn = register.txn_id(todo.new)
    try:
        version = register.commit(rows, txn) if rows else None
    except AlreadyThereError:  # another run simulates the same subjects, and was first
        rows = _without(rows, register.there())
        version = register.commit(rows, txn) if rows else None
    if rows:
        register.close(txn, {name: one for part in parts for name, one in taken_items(part).items()}, notes)
    return SimulationReport(
        cohorts=cohorts,
        subjects=len(todo.new),
        left_out=tuple(item.name for item in items if item.name in withdrawn.subjects),
        recordings=sum(len(part.outcomes) for part in parts),
        hours=sum(outcome.hours for part in parts for outcome in part.outcomes),
        parts=len({(row.cohort, row.part) for row in rows}),
        resumed_parts=len(resumed),
        version=version,
        txn=txn,
        took_s=round(time.monotonic() - started, 2),
    )


def _without(rows: list[IndexRow], there: Mapping[tuple[str, str], set[tuple[str, str, str]]]) -> list[IndexRow]:
    """Rows that the corpus has not got meanwhile."""
    return [
        row
        for row in rows
        if (row.subject_id, row.channel, row.digest) not in there.get((row.cohort, row.recording_id), ())
    ]


def _items(spec: CohortSpec, fingerprint: str) -> list[Item]:
    seconds = spec.minutes * 60.0 * spec.recordings_per_subject
    rates = sum(channel.rate_hz for device in spec.devices for channel in device.channels)
    size = int(rates * seconds * _BYTES_PER_SAMPLE)
    return [
        Item(name=subject_id(spec, at), folder_url="", head=str(at), files=(), bytes=size, fingerprint=fingerprint)
        for at in range(spec.subjects)
    ]


def _write(corpus: Corpus, spec: CohortSpec, register: Register, items: list[Item], part_bytes: int) -> list[Note]:
    if not items:
        return []
    tasks = [
        SimulationTask(
            corpus_url=corpus.url,
            spec=spec,
            part_id=register.part_id(group),
            subjects=tuple(int(item.head) for item in group),
            items=group,
        )
        for group in groups(items, part_bytes, fanout.cores())
    ]
    notes: list[Note] = []
    with progress(f"simulate {spec.name}", len(items), "subjects") as shown:
        for event in fanout.stream(write_subjects, tasks):
            if isinstance(event, str):
                shown.advance(1, event)
                continue
            notes.append(register.keep(event))
    return notes


def write_subjects(task: SimulationTask) -> Iterator[str | WrittenPart]:
    """Simulates and writes subjects one by one; yields each one's name when it is done, and the part at the end."""
    writers = {
        device.name: PartWriter.claim(task.corpus_url, cohort_of(task.spec, device.name), task.part_id)
        for device in task.spec.devices
    }
    rows: list[IndexRow] = []
    outcomes: list[Outcome] = []
    for subject, item in zip(task.subjects, task.items, strict=True):
        for recording in simulate_subject(task.spec, subject):
            added = _append(recording, writers[recording.device])
            rows += added
            hours = max(row.duration_s for row in added) / 3600
            names = tuple(row.channel for row in added)
            outcomes.append(
                Outcome(name=recording.recording_id, item=item.name, kept=True, channels=names, hours=hours)
            )
        yield item.name
    for writer in writers.values():
        writer.close()
    first = next(iter(writers.values()))
    yield WrittenPart(
        part=first.part,
        items={item.name: item.fingerprint for item in task.items},
        outcomes=tuple(outcomes),
        rows=tuple(rows),
    )


def _append(recording: SimulatedRecording, part: PartWriter) -> list[IndexRow]:
    rows = []
    for name, channel in recording.channels.items():
        unit, factor = canonical_unit(channel.unit)
        array = part.channel(
            name,
            dtype=channel.raw.dtype,
            rate_hz=channel.rate_hz,
            unit=unit,
            scale=channel.scale * factor,
            offset=channel.offset * factor,
            device=recording.device,
            body_site=recording.body_site,
        )
        rows.append(
            array.add(
                channel.raw,
                subject_id=recording.subject_id,
                recording_id=recording.recording_id,
                clock_id=recording.clock_id,
                source_name=name,
                start_time_ns=recording.start_time_ns,
                gaps=channel.gaps,
                labels=recording.labels,
                label_text=recording.label_text,
            )
        )
    return rows
