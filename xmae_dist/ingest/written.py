"""What one part of an ingest run holds, and the note of it that outlives the process that wrote it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xmae_dist.core.errors import IntegrityError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.ingest.formats.items import TakenItem
from xmae_dist.storage import uri
from xmae_dist.storage.index import IndexRow


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
    outcomes. `items`: by name, what is to be remembered of the files it was made from.
    """

    part: str
    items: Mapping[str, TakenItem]
    outcomes: tuple[Outcome, ...]
    rows: tuple[IndexRow, ...]


@dataclass(frozen=True, kw_only=True)
class Note:
    """Where a written part is noted, the name of its first item, a digest of its items, and how many recordings it
    tells of: all that a run keeps of it in memory. `task`: the number of the task that wrote it; `last`: whether that
    task is done.
    """

    url: str
    part: str
    first: str
    contents: str
    recordings: int
    task: int = 0
    last: bool = True

    @property
    def part_id(self) -> str:
        """The name of the part, whichever attempt at it this is."""
        return self.part.partition(".")[0]


def write_note(folder_url: str, settings: str, written: WrittenPart) -> Note:
    """Notes a written part in `folder_url`; `settings` is the digest of what else decides its content."""
    url = uri.join(folder_url, f"{written.part}.json")
    document = {
        "format": _NOTE,
        "settings": settings,
        "part": written.part,
        "items": {name: [one.fingerprint, one.mark, one.beside] for name, one in written.items.items()},
        "outcomes": list(map(outcome_fields, written.outcomes)),
        "rows": [vars(row) for row in written.rows],
    }
    uri.write_bytes(url, json.dumps(document, default=dict).encode())
    return note_of(url, written)


def note_of(url: str, written: WrittenPart) -> Note:
    """The note of a part that is noted at `url`."""
    return Note(
        url=url,
        part=written.part,
        first=min(written.items, default=""),
        contents=digest_json(sorted([name, one.fingerprint] for name, one in written.items.items())),
        recordings=len(written.outcomes),
    )


def read_note(url: str) -> tuple[str, WrittenPart]:
    """(settings, written part) of a note. Raises IntegrityError where it is no note."""
    try:
        document = json.loads(uri.read_bytes(url))
        written = WrittenPart(
            part=document["part"],
            items=_ITEMS[document["format"]](document["items"]),
            outcomes=tuple(map(read_outcome, document["outcomes"])),
            rows=tuple(IndexRow(**{**row, "gaps": tuple(map(tuple, row["gaps"]))}) for row in document["rows"]),
        )
        return document["settings"], written
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise IntegrityError(f"note {url}", value=f"{type(error).__name__}: {error}", expected=_NOTE) from error


def _items_v1(items: Mapping[str, str]) -> dict[str, TakenItem]:
    return {name: TakenItem(fingerprint=fingerprint) for name, fingerprint in items.items()}


def _items_v2(items: Mapping[str, Any]) -> dict[str, TakenItem]:
    return {
        name: TakenItem(fingerprint=fingerprint, mark=mark, beside=tuple(beside))
        for name, (fingerprint, mark, beside) in items.items()
    }


_NOTE = "xmae-ingest-part/v2"
_ITEMS: Mapping[str, Callable[[Any], dict[str, TakenItem]]] = {"xmae-ingest-part/v1": _items_v1, _NOTE: _items_v2}


def outcome_fields(outcome: Outcome) -> dict[str, Any]:
    """The fields of an outcome that say something, for JSON."""
    values = {name: getattr(outcome, name) for name in _OUTCOME}
    return {name: value for name, value in values.items() if value or name in _ALWAYS}


def read_outcome(fields: Mapping[str, Any]) -> Outcome:
    """An outcome from its fields."""
    lists = {name: tuple(fields[name]) for name in ("channels", "notes") if name in fields}
    return Outcome(**{**fields, **lists})


_OUTCOME = tuple(one.name for one in dataclasses.fields(Outcome))
_ALWAYS = {"name", "item", "kept"}
