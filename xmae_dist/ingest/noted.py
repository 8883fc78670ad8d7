"""A part written by a worker that notes it itself: the run is told how far it is, and where the note lies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from xmae_dist.ingest.convert import PartTask, write_part
from xmae_dist.ingest.written import Note, Outcome, write_note

# How often a worker tells how far it is: an event for each small file would cost more than reading it.
TELL_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class NotedTask:
    """A part to write and where to note it; `settings` is the register's digest of what decides its content."""

    part: PartTask
    notes_url: str
    settings: str


@dataclass(frozen=True, kw_only=True)
class Done:
    """Recordings done since the last time, and the name of the newest."""

    recordings: int
    last: str


def write_noted(task: NotedTask) -> Iterator[Done | Note]:
    """Writes the part and its note; yields how far it is, and the note at the end."""
    count, told_s = 0, time.monotonic()
    for event in write_part(task.part):
        if isinstance(event, Outcome):
            count += 1
            if time.monotonic() - told_s >= TELL_EVERY_S:
                yield Done(recordings=count, last=event.name)
                count, told_s = 0, time.monotonic()
            continue
        if count:
            yield Done(recordings=count, last=event.outcomes[-1].name)
        yield write_note(task.notes_url, task.settings, event)
