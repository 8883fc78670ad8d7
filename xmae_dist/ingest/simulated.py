"""Simulated cohorts into a corpus: subjects are made where their part is written, spread over the cluster.

A subject depends on the cohort's specification and its own number alone, so subjects are to a simulated cohort
what files are to a recorded one: they are grouped into parts, a killed run goes on where it was, and asking for
more of them later adds the missing ones.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

from xmae_dist.cluster import fanout
from xmae_dist.core.errors import UsageError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.core.progress import progress
from xmae_dist.core.units import canonical_unit
from xmae_dist.ingest import register as registered
from xmae_dist.ingest.commits import Commits
from xmae_dist.ingest.formats.items import Item, as_taken
from xmae_dist.ingest.gather import Gathered
from xmae_dist.ingest.grouping import groups
from xmae_dist.ingest.labels import Meanings
from xmae_dist.ingest.offer import Offer
from xmae_dist.ingest.outcomes import OutcomeLog
from xmae_dist.ingest.register import Register
from xmae_dist.ingest.twins import Twins
from xmae_dist.ingest.written import Note, Outcome, WrittenPart, write_note
from xmae_dist.simulate.cohorts import CohortSpec, SimulatedRecording, simulate_subject, subject_id
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.part import PartWriter, checked_name

_BYTES_PER_SAMPLE = 2


@dataclass(frozen=True, kw_only=True)
class SimulationTask:
    """Some subjects of a cohort, to be written as one part of each device's cohort."""

    corpus_url: str
    spec: CohortSpec
    part_id: str
    items: tuple[Item, ...]
    notes_url: str
    settings: str
    number: int


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
    took_s: float


def cohort_of(spec: CohortSpec, device: str) -> str:
    """A cohort is one campaign of one device: worn together, each device of a specification gets its own."""
    return spec.name if len(spec.devices) == 1 else f"{spec.name}-{device}"


def simulate_into(corpus_url: str, spec: CohortSpec, *, part_bytes: int = 256 * 2**20) -> SimulationReport:
    """Writes what the corpus lacks of `spec`, and commits it.

    Raises UsageError where a cohort of this name was simulated with other options.
    """
    started = time.monotonic()
    cohorts = tuple(checked_name("cohort", cohort_of(spec, device.name)) for device in spec.devices)
    corpus = Corpus.open_or_create(corpus_url)
    identity = {key: value for key, value in dataclasses.asdict(spec).items() if key != "subjects"}
    register = Register(corpus, spec.name, identity, cohorts)
    register.finish_interrupted()
    withdrawn = corpus.withdrawn.read()
    offer, left_out = Offer(), []
    for item in _items(spec, digest_json(identity)):
        if item.name in withdrawn.subjects:
            left_out.append(item.name)
        else:
            offer.add(item)
    register.sort(offer, withdrawn)
    if differ := offer.count(registered.CHANGED):
        raise UsageError(
            f"cohort {spec.name}",
            value=f"simulated before with other options ({differ} subjects differ)",
            expected="the same options, or a new cohort",
            fix="name the new one with --cohort",
        )
    subjects, resumed = offer.count(registered.NEW), register.resume(offer)
    log = OutcomeLog(corpus.url, spec.name)
    commits = Commits(register, lambda there: Gathered((), Meanings(()), "", there=there), log, Twins())
    for note in _notes(corpus, spec, register, offer, resumed, part_bytes):
        commits.add(note)
    commits.finish()
    return SimulationReport(
        cohorts=cohorts,
        subjects=subjects,
        left_out=tuple(left_out),
        recordings=log.kept.count,
        hours=log.hours,
        parts=commits.totals.parts * len(spec.devices),
        resumed_parts=len(resumed),
        version=max(commits.totals.versions, default=None),
        took_s=round(time.monotonic() - started, 2),
    )


def _items(spec: CohortSpec, fingerprint: str) -> Iterator[Item]:
    seconds = spec.minutes * 60.0 * spec.recordings_per_subject
    rates = sum(channel.rate_hz for device in spec.devices for channel in device.channels)
    size = int(rates * seconds * _BYTES_PER_SAMPLE)
    for at in range(spec.subjects):
        name = subject_id(spec, at)
        yield Item(name=name, folder_url="", head=str(at), files=(), bytes=size, fingerprint=fingerprint)


def _notes(
    corpus: Corpus, spec: CohortSpec, register: Register, offer: Offer, resumed: list[Note], part_bytes: int
) -> Iterator[Note]:
    """Notes of all parts, those of an interrupted run first."""
    yield from (dataclasses.replace(note, task=number) for number, note in enumerate(resumed))
    count = offer.count(registered.NEW)
    if not count:
        return
    grouped = groups(offer.items(registered.NEW), offer.bytes(registered.NEW), part_bytes, fanout.cores())
    tasks = (
        SimulationTask(
            corpus_url=corpus.url,
            spec=spec,
            part_id=register.part_id(group),
            items=group,
            notes_url=register.notes_url,
            settings=register.settings,
            number=number,
        )
        for number, group in enumerate(grouped, len(resumed))
    )
    with progress(f"simulate {spec.name}", count, "subjects") as shown:
        for event in fanout.stream(write_subjects, tasks):
            if isinstance(event, Note):
                yield event
            else:
                shown.advance(1, event)


def write_subjects(task: SimulationTask) -> Iterator[str | Note]:
    """Simulates and writes subjects one by one; yields each one's name when it is done, and at the end where the part
    is noted.
    """
    writers = {
        device.name: PartWriter.claim(task.corpus_url, cohort_of(task.spec, device.name), task.part_id)
        for device in task.spec.devices
    }
    rows: list[IndexRow] = []
    outcomes: list[Outcome] = []
    for item in task.items:
        for recording in simulate_subject(task.spec, int(item.head)):
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
    written = WrittenPart(
        part=next(iter(writers.values())).part,
        items={item.name: as_taken(item) for item in task.items},
        outcomes=tuple(outcomes),
        rows=tuple(rows),
    )
    yield dataclasses.replace(write_note(task.notes_url, task.settings, written), task=task.number)


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
