"""What a cohort has taken in already, what an interrupted run left, and the one commit that makes a run
visible.

    <corpus>/ingest/<cohort>/parts/<part>.json   a written part, not yet committed: its rows and outcomes
    <corpus>/ingest/<cohort>/runs/<txn>.json     a committed run: items, their fingerprints, their recordings where an
                                                 item's name does not say which

A run that is killed leaves parts of the first kind; the next run with the same files takes their rows instead
of reading the files again. The index alone says what is visible: these objects only save work. So a file whose
recordings are not in the index any more (their subject was withdrawn) is not in: it is left out while its subject is on
the list of the withdrawn, and new again after that.
"""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmae_dist.core.fingerprint import canonical_json, digest_json
from xmae_dist.ingest.formats.items import Item
from xmae_dist.ingest.written import Note, WrittenPart, read_note, write_note
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.withdrawn import Withdrawn

_RUN_V1, _RUN = "xmae-ingest-run/v1", "xmae-ingest-run/v2"


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """Items of a run by what is to be done with them."""

    known: tuple[Item, ...]
    changed: tuple[Item, ...]
    new: tuple[Item, ...]
    left_out: tuple[Item, ...]
    """Items of which all was withdrawn."""
    there: frozenset[str]
    """Recordings of `new` items that are in: these files hold others that are not."""


class Register:
    """The register of one cohort of a corpus. `settings` is whatever else decides what a part contains."""

    def __init__(self, corpus: Corpus, cohort: str, settings: object, cohorts: Sequence[str] | None = None) -> None:
        """`cohorts` are those of the index that it fills, where they are not `cohort` alone."""
        self._corpus, self._cohort = corpus, cohort
        self._cohorts = tuple(cohorts or (cohort,))
        self._settings = digest_json(settings)
        self._base = uri.join(corpus.url, "ingest", cohort)
        self._taken: dict[str, str] = {}
        self._recordings: dict[str, list[str]] = {}
        self._times: Counter[str] = Counter()
        for url in uri.list_urls(uri.join(self._base, "runs")):
            document = json.loads(uri.read_bytes(url))
            self._taken.update(document["items"])
            self._times.update(list(document["items"]))
            self._recordings.update(document.get("recordings") or self._reported(document, url))
        self._alike: dict[tuple[str, str], list[str]] = {}
        for name, mark in self._taken.items():
            self._alike.setdefault((posixpath.basename(name), mark), []).append(name)

    def sort(self, items: Iterable[Item], withdrawn: Withdrawn) -> Sorted:
        """Items already in (also under a shorter or longer path), items whose files changed since they were taken in,
        new ones, and withdrawn ones.
        """
        items = list(items)
        present = self._present() if any(self._name_of(item) for item in items) else frozenset()
        sorted_: dict[str, list[Item]] = {"known": [], "changed": [], "new": [], "left_out": []}
        there: set[str] = set()
        for item in items:
            state = self._state(item, present, withdrawn)
            sorted_[state].append(item)
            if state == "new":
                there |= present.intersection(self._recordings_of(item))
        return Sorted(**{name: tuple(some) for name, some in sorted_.items()}, there=frozenset(there))

    def _state(self, item: Item, present: frozenset[str], withdrawn: Withdrawn) -> str:
        name = self._name_of(item)
        if name is None:
            return "new"
        recordings = self._recordings_of(item)
        gone = [name for name in recordings if name not in present]
        if any(not self._is_withdrawn(name, withdrawn) for name in gone):
            return "new"
        if recordings and len(gone) == len(recordings):
            return "left_out"
        return "known" if self._taken[name] == item.fingerprint else "changed"

    def _name_of(self, item: Item) -> str | None:
        """The name under which an item was taken in: its own, or that of the same file seen from another folder."""
        if item.name in self._taken:
            return item.name
        same = self._alike.get((posixpath.basename(item.name), item.fingerprint), ())
        return next((name for name in same if _one_path(item.name, name)), None)

    def _is_withdrawn(self, recording: str, withdrawn: Withdrawn) -> bool:
        return any((cohort, recording) in withdrawn.recordings for cohort in self._cohorts)

    def _recordings_of(self, item: Item) -> list[str]:
        """What the index had of an item; nothing where nobody wrote that down."""
        return self._recordings.get(self._name_of(item) or item.name, [])

    def _present(self) -> frozenset[str]:
        found = self._corpus.index.read(columns=["recording_id"], filters=[("cohort", "in", list(self._cohorts))])
        return frozenset(found["recording_id"].to_pylist())

    def _reported(self, document: Mapping[str, Any], url: str) -> dict[str, list[str]]:
        """Recordings of a run's items: named like them, or, of an earlier version's run, as its report says."""
        if document["format"] != _RUN_V1:
            return {name: [name] for name in document["items"]}
        run = url.rsplit("/", 1)[-1]
        report_url = uri.join(self._corpus.url, "reports", "ingest", self._cohort, run)
        if not uri.exists(report_url):
            return {}
        recordings: dict[str, list[str]] = {}
        for outcome in json.loads(uri.read_bytes(report_url))["kept"]:
            recordings.setdefault(outcome["item"], []).append(outcome["name"])
        return recordings

    def part_id(self, items: Sequence[Item]) -> str:
        return "part-" + digest_json([self._settings, sorted([item.name, item.fingerprint] for item in items)], 12)

    @property
    def notes_url(self) -> str:
        """Where notes of parts lie; a worker writes its own."""
        return uri.join(self._base, "parts")

    @property
    def settings(self) -> str:
        """Digest of what decides a part's content besides its files."""
        return self._settings

    def keep(self, written: WrittenPart) -> Note:
        return write_note(self.notes_url, self._settings, written)

    def read(self, note: Note) -> WrittenPart:
        return read_note(note.url)[1]

    def resumable(self, items: Iterable[Item]) -> list[Note]:
        """Parts that an interrupted run wrote from files that are still the same and still wanted."""
        wanted = {item.name: item.fingerprint for item in items}
        found: list[Note] = []
        for url in uri.list_urls(self.notes_url):
            settings, written = read_note(url)
            same_files = all(wanted.get(name) == mark for name, mark in written.items.items())
            if settings == self._settings and same_files and self._is_whole(written):
                for name in written.items:
                    del wanted[name]
                found.append(Note(url=url, part=written.part, items=tuple(written.items)))
        return found

    def finish_interrupted(self) -> None:
        """Notes parts as taken in whose rows were committed by a run that died before it could say so; of a task that
        was run twice drops the note that nobody used.
        """
        urls = uri.list_urls(self.notes_url)
        if not urls:
            return
        table = self._corpus.index.read(columns=["cohort", "part"])
        visible = set(zip(table["cohort"].to_pylist(), table["part"].to_pylist(), strict=True))
        for url in urls:
            _, written = read_note(url)
            if {(row.cohort, row.part) for row in written.rows} & visible:
                note = Note(url=url, part=written.part, items=tuple(written.items))
                self.close(f"{written.part}-recovered", taken_items(written), [note])
            elif all(self._taken.get(name) == mark for name, mark in written.items.items()):
                uri.delete(url)

    def txn_id(self, items: Iterable[Item]) -> str:
        """The transaction of a run: a function of the files it was given, so that a retry commits once; files that were
        in before, and come back with a subject who was readmitted, are another run's.
        """
        return digest_json([self._cohort, sorted(self._mark(item) for item in items)])

    def _mark(self, item: Item) -> list[str]:
        times = self._times[item.name]
        return [item.name, item.fingerprint, *([str(times)] if times else [])]

    def commit(self, rows: Iterable[IndexRow], txn_id: str) -> int | None:
        """Commits `rows` in one go and returns the version; None if this transaction was committed before.

        `rows` are read once, a few at a time, so that memory holds none but the index's own columns.
        """
        return self._corpus.commit_part(rows, txn_id)

    def there(self) -> dict[tuple[str, str], set[tuple[str, str, str]]]:
        """(cohort, recording) -> (subject, channel, digest) of what the index has of these cohorts now."""
        columns = ["cohort", "recording_id", "subject_id", "channel", "digest"]
        found: dict[tuple[str, str], set[tuple[str, str, str]]] = {}
        for row in self._corpus.index.read(
            columns=columns, filters=[("cohort", "in", list(self._cohorts))]
        ).to_pylist():
            signal = (row["subject_id"], row["channel"], row["digest"])
            found.setdefault((row["cohort"], row["recording_id"]), set()).add(signal)
        return found

    def close(self, run: str, taken: Mapping[str, TakenItem], notes: Iterable[Note]) -> None:
        """Writes down what a committed run has taken in, then drops the notes of its parts."""
        items = {name: one.fingerprint for name, one in taken.items()}
        recordings = {name: list(one.recordings) for name, one in taken.items()}
        document = {"format": _RUN, "cohort": self._cohort, "items": items}
        if any(names != [name] for name, names in recordings.items()):
            document["recordings"] = recordings
        uri.write_bytes(uri.join(self._base, "runs", f"{run}.json"), canonical_json(document))
        self._taken.update(items)
        self._recordings.update(recordings)
        for note in notes:
            uri.delete(note.url)

    def _is_whole(self, written: WrittenPart) -> bool:
        """Whether the arrays are still there: `vacuum` may have collected an old unfinished part."""
        paths = {row.array_path for row in written.rows}
        return all(uri.exists(uri.join(self._corpus.url, path, "zarr.json")) for path in paths)


def _one_path(one: str, other: str) -> bool:
    """Whether two names may be one file, seen from two folders."""
    return one == other or one.endswith("/" + other) or other.endswith("/" + one)


@dataclass(frozen=True, kw_only=True)
class TakenItem:
    """An item of which something was committed."""

    fingerprint: str
    recordings: tuple[str, ...]


def taken_items(written: WrittenPart, committed: set[str] | None = None) -> dict[str, TakenItem]:
    """Items of which something was kept and committed (all that was kept, unless told): the others are tried again
    next time.
    """
    kept: dict[str, list[str]] = {}
    for one in written.outcomes:
        if one.kept and (committed is None or one.name in committed):
            kept.setdefault(one.item, []).append(one.name)
    marks = written.items
    return {name: TakenItem(fingerprint=marks[name], recordings=tuple(kept[name])) for name in marks if name in kept}
