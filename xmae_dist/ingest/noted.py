"""Parts written by a worker that notes them itself: the run is told how far it is, and where the notes lie."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from xmae_dist.ingest.convert import PartTask, write_part
from xmae_dist.ingest.written import Note, Outcome, write_note

# How often a worker tells how far it is: an event for each small file would cost more than reading it.
TELL_EVERY_S = 0.5
# A part is closed and noted after so long: a kill loses what a worker did since, and the item that it was reading.
PART_S = 30.0


@dataclass(frozen=True, kw_only=True)
class NotedTask:
    """The part to write, or the parts where it takes longer than `PART_S`, and where to note them. `settings` is the
    register's digest of what decides their content, `number` what the run calls the task.
    """

    part: PartTask
    notes_url: str
    settings: str
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class Done:
    """Recordings done since the last time, and the name of the newest."""

    recordings: int
    last: str


def write_noted(task: NotedTask) -> Iterator[Done | Note]:
    """Writes the parts and their notes; yields how far it is, and each note as it is written."""
    left, number = task.part.items, 1
    while left:
        part_id = task.part.part_id if number == 1 else f"{task.part.part_id}-{number}"
        count, told_s = 0, time.monotonic()
        for event in write_part(replace(task.part, part_id=part_id, items=left), told_s + PART_S):
            if isinstance(event, Outcome):
                count += 1
                if time.monotonic() - told_s >= TELL_EVERY_S:
                    yield Done(recordings=count, last=event.name)
                    count, told_s = 0, time.monotonic()
                continue
            if count:
                yield Done(recordings=count, last=event.outcomes[-1].name)
            left, number = left[len(event.items) :], number + 1
            note = write_note(task.notes_url, task.settings, event)
            yield replace(note, task=task.number, last=not left)
