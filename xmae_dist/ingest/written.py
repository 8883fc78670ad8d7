"""What one part of an ingest run holds, and the note of it that outlives the process that wrote it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from xmae_dist.core.errors import IntegrityError
from xmae_dist.storage import uri
from xmae_dist.storage.index import IndexRow

NOTE_FORMAT = "xmae-ingest-part/v1"
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one recording. `dropped`: source channel -> reason. `reason`: why it was rejected; `notes`: what a
    person should know of how it was read and of what it holds.
    """

    name: str
    item: str
    kept: bool
    reason: str = ""
    dropped: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    hours: float = 0.0
    withdrawn: bool = False
    """Left out because its subject was withdrawn: nothing is wrong with it."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WrittenPart:
    """A closed part: its rows (not yet committed; subjects and manifest labels are still to come) and
    outcomes.
    """

    part: str
    items: Mapping[str, str]
    outcomes: tuple[Outcome, ...]
    rows: tuple[IndexRow, ...]


@dataclass(frozen=True, kw_only=True)
class Note:
    """Where a written part is noted, and which items it holds: all that the run keeps of it in memory."""

    url: str
    part: str
    items: tuple[str, ...]


def write_note(folder_url: str, settings: str, written: WrittenPart) -> Note:
    """Notes a written part in `folder_url`; `settings` is the digest of what else decides its content."""
    url = uri.join(folder_url, f"{written.part}.json")
    document = {"format": NOTE_FORMAT, "settings": settings, **dataclasses.asdict(written)}
    uri.write_bytes(url, json.dumps(document).encode())
    return Note(url=url, part=written.part, items=tuple(written.items))


def read_note(url: str) -> tuple[str, WrittenPart]:
    """(settings, written part) of a note. Raises IntegrityError where it is no note."""
    document = json.loads(uri.read_bytes(url))
    if document.get("format") != NOTE_FORMAT:
        raise IntegrityError(f"note {url}", value=repr(document.get("format")), expected=NOTE_FORMAT)
    written = WrittenPart(
        part=document["part"],
        items=document["items"],
        outcomes=tuple(map(_outcome, document["outcomes"])),
        rows=tuple(IndexRow(**{**row, "gaps": tuple(map(tuple, row["gaps"]))}) for row in document["rows"]),
    )
    return document["settings"], written


def _outcome(fields: dict) -> Outcome:
    """Outcomes are kept for every recording of a run: what they share is held once."""
    fields["channels"] = tuple(map(sys.intern, fields["channels"]))
    fields["notes"] = tuple(fields.get("notes", ()))
    fields["dropped"] = fields["dropped"] or _NOTHING
    if fields["item"] == fields["name"]:
        fields["item"] = fields["name"]
    return Outcome(**fields)
