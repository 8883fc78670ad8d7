"""What a cohort has taken in already, and what an interrupted run left.

    <corpus>/ingest/<cohort>/parts/<part>.json   a written part, not yet committed: its rows and outcomes
    <corpus>/ingest/<cohort>/runs/<txn>.json     a commit: items, their fingerprints, marks and further files, and their
                                                 recordings where an item's name does not say which

A run that is killed leaves parts of the first kind; the next run with the same files takes their rows instead
of reading the files again. The index alone says what is visible: these objects only save work, so one that cannot be
read is passed over and named. A file whose recordings are not in the index any more (their subject was withdrawn) is
not in: it is left out while its subject is on the list of the withdrawn, and new again after that.

What was taken in is looked up on disk (`core.scratch`): memory does not grow with it. Reading it takes about ten
microseconds of CPU for each item that the cohort holds.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import IntegrityError
from xmae_dist.core.fingerprint import canonical_json, digest_json
from xmae_dist.core.scratch import scratch
from xmae_dist.ingest.formats.items import Item, TakenItem
from xmae_dist.ingest.offer import Offer
from xmae_dist.ingest.roots import Roots
from xmae_dist.ingest.written import Note, WrittenPart, note_of, read_note, write_note
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.withdrawn import Withdrawn

_RUN_V1, _RUN_V2, _RUN = "xmae-ingest-run/v1", "xmae-ingest-run/v2", "xmae-ingest-run/v3"
NEW, KNOWN, CHANGED, LEFT_OUT, RESUMED = "new", "known", "changed", "left out", "resumed"
_SCHEMA = """
CREATE TABLE taken (
    name TEXT PRIMARY KEY, base TEXT, fingerprint TEXT, mark TEXT, beside TEXT, recordings TEXT, version INTEGER,
    times INTEGER DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX alike ON taken (base, fingerprint);
CREATE TABLE present (recording TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Register:
    """The register of one cohort of a corpus. `settings` is whatever else decides what a part contains."""

    def __init__(self, corpus: Corpus, cohort: str, settings: object, cohorts: Sequence[str] | None = None) -> None:
        """`cohorts` are those of the index that it fills, where they are not `cohort` alone."""
        self._corpus, self._cohort = corpus, cohort
        self._cohorts = tuple(cohorts or (cohort,))
        self._settings = digest_json(settings)
        self._base = uri.join(corpus.url, "ingest", cohort)
        self._rows = scratch(_SCHEMA)
        self._knows_present = False
        self.roots = Roots()
        self.strays: list[str] = []
        """Objects among runs and parts that are none."""
        for url in self._objects("runs"):
            self._read_run(url)

    def recall(self, name: str) -> TakenItem | None:
        """What was taken in under this name."""
        query = "SELECT fingerprint, recordings, mark, beside FROM taken WHERE name = ?"
        found = self._rows.execute(query, (name,)).fetchone()
        if found is None:
            return None
        fingerprint, recordings, mark, beside = found
        return TakenItem(
            fingerprint=fingerprint,
            recordings=(name,) if recordings is None else tuple(json.loads(recordings)),
            mark=mark,
            beside=tuple(json.loads(beside)) if beside else (),
        )

    def sort(self, offer: Offer, withdrawn: Withdrawn) -> None:
        """Says of each item of the offer whether it is KNOWN (also under a shorter or longer path), CHANGED since it
        was taken in, NEW, or LEFT_OUT, since all of it was withdrawn.
        """
        for item in offer.items():
            offer.mark([item.name], self._state(item, withdrawn))

    def _state(self, item: Item, withdrawn: Withdrawn) -> str:
        taken = self._taken(item)
        if taken is None:
            return NEW
        gone = [name for name in taken.recordings if not self.is_present(name)]
        if any(not self._is_withdrawn(name, withdrawn) for name in gone):
            return NEW
        if taken.recordings and len(gone) == len(taken.recordings):
            return LEFT_OUT
        return KNOWN if taken.fingerprint == item.fingerprint else CHANGED

    def _taken(self, item: Item) -> TakenItem | None:
        """What was taken in under an item's own name, or as the same file seen from another folder."""
        if (taken := self.recall(item.name)) is not None:
            return taken
        query = "SELECT name FROM taken WHERE base = ? AND fingerprint = ? ORDER BY name"
        alike = self._rows.execute(query, (posixpath.basename(item.name), item.fingerprint)).fetchall()
        return next((self.recall(name) for (name,) in alike if _one_path(item.name, name)), None)

    def _is_withdrawn(self, recording: str, withdrawn: Withdrawn) -> bool:
        return any((cohort, recording) in withdrawn.recordings for cohort in self._cohorts)

    def there(self, items: Iterable[Item]) -> frozenset[str]:
        """Recordings of items that are in: these files are read again for others that they hold."""
        taken = (self._taken(item) for item in items)
        return frozenset(name for one in taken if one is not None for name in one.recordings if self.is_present(name))

    def is_present(self, recording: str) -> bool:
        """Whether the index has a recording."""
        self._read_present()
        return self._rows.execute("SELECT 1 FROM present WHERE recording = ?", (recording,)).fetchone() is not None

    def present(self) -> Iterator[str]:
        """All recordings that the index has, in order."""
        self._read_present()
        for (name,) in self._rows.execute("SELECT recording FROM present ORDER BY recording"):
            yield name

    def _read_present(self) -> None:
        """Once, when first asked: what is in when a run begins."""
        if self._knows_present:
            return
        self._knows_present = True
        for batch in self._index(["recording_id"]):
            names = pc.unique(batch.column(0)).to_pylist()
            self._rows.executemany("INSERT OR IGNORE INTO present VALUES (?)", ((name,) for name in names))

    def _index(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return self._corpus.snapshot().batches(columns, [("cohort", "in", list(self._cohorts))])

    def part_id(self, items: Sequence[Item]) -> str:
        """The name of the part of these items: a function of the files, so that a retry commits it once; files that
        were in before, and come back with a subject who was readmitted, make another part.
        """
        return "part-" + digest_json([self._settings, sorted(self._identity(item) for item in items)], 12)

    def _identity(self, item: Item) -> list[str]:
        found = self._rows.execute("SELECT times FROM taken WHERE name = ?", (item.name,)).fetchone()
        return [item.name, item.fingerprint, *([str(found[0])] if found else [])]

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

    def resume(self, offer: Offer) -> list[Note]:
        """Parts that an interrupted run wrote from files that are still the same and still wanted; their items are
        RESUMED from now on.
        """
        found: list[Note] = []
        for url, settings, written in self._noted():
            wanted = all(offer.fingerprint(name, NEW) == one.fingerprint for name, one in written.items.items())
            if settings == self._settings and wanted and self._is_whole(written):
                offer.mark(written.items, RESUMED)
                found.append(note_of(url, written))
        return sorted(found, key=lambda note: note.first)

    def finish_interrupted(self) -> None:
        """Notes parts as taken in whose rows were committed by a run that died before it could say so; of a task that
        was run twice drops the note that nobody used.
        """
        names = [posixpath.basename(url).removesuffix(".json") for url in self._objects("parts")]
        if not names:
            return
        visible: set[tuple[str, str]] = set()
        for batch in self._index(["cohort", "part"]):
            some = batch.filter(pc.is_in(batch.column(1), value_set=pa.array(names, batch.column(1).type)))
            visible.update(zip(some.column(0).to_pylist(), some.column(1).to_pylist(), strict=True))
        for url, _, written in self._noted():
            if {(row.cohort, row.part) for row in written.rows} & visible:
                newest = self._corpus.index.version()
                self.close(f"{written.part}-recovered", newest, taken_items(written), [note_of(url, written)])
            elif all(self._is_taken(name, one.fingerprint) for name, one in written.items.items()):
                uri.delete(url)

    def _is_taken(self, name: str, fingerprint: str) -> bool:
        taken = self.recall(name)
        return taken is not None and taken.fingerprint == fingerprint

    def _noted(self) -> Iterator[tuple[str, str, WrittenPart]]:
        """(URL, settings, part) of the parts that are noted."""
        for url in self._objects("parts"):
            try:
                yield url, *read_note(url)
            except IntegrityError:
                self._stray(url)

    def commit(self, rows: Iterable[IndexRow], txn_id: str) -> int | None:
        """Commits `rows` in one go and returns the version; None if this transaction was committed before.

        `rows` are read once, a few at a time, so that memory holds none but the index's own columns.
        """
        return self._corpus.commit_part(rows, txn_id)

    def version(self) -> int:
        """The newest version of the index."""
        return self._corpus.index.version()

    def txn_id(self, notes: Sequence[Note]) -> str:
        """The transaction of a commit: a function of the files of its parts, so that a retry commits once."""
        return digest_json([self._cohort, sorted([note.part_id, note.contents] for note in notes)])

    def signals(self, recordings: Iterable[str]) -> dict[tuple[str, str], set[tuple[str, str, str]]]:
        """(cohort, recording) -> (subject, channel, digest) of what the index has of these recordings now."""
        wanted = pa.array(sorted(set(recordings)), pa.string())
        found: dict[tuple[str, str], set[tuple[str, str, str]]] = {}
        for batch in self._index(["cohort", "recording_id", "subject_id", "channel", "digest"]):
            for row in batch.filter(pc.is_in(batch.column(1), value_set=wanted)).to_pylist():
                signal = (row["subject_id"], row["channel"], row["digest"])
                found.setdefault((row["cohort"], row["recording_id"]), set()).add(signal)
        return found

    def close(self, txn: str, version: int, taken: Mapping[str, TakenItem], notes: Iterable[Note]) -> None:
        """Writes down what a commit, or those before a `version`, took in, then drops the notes of its parts."""
        document: dict[str, Any] = {
            "format": _RUN,
            "cohort": self._cohort,
            "version": version,
            "roots": self.roots.named,
            "items": {name: one.fingerprint for name, one in taken.items()},
            "marks": {name: one.mark for name, one in taken.items() if one.mark},
            "beside": {name: one.beside for name, one in taken.items() if one.beside},
            "recordings": {name: one.recordings for name, one in taken.items() if one.recordings != (name,)},
        }
        uri.write_bytes(uri.join(self._base, "runs", f"{txn}.json"), canonical_json(document))
        self._take(document)
        for note in notes:
            uri.delete(note.url)

    def _read_run(self, url: str) -> None:
        try:
            document = json.loads(uri.read_bytes(url))
            if document["format"] == _RUN_V1:
                document = {**document, "recordings": self._reported(document, url)}
            elif document["format"] not in (_RUN_V2, _RUN):
                raise ValueError(document["format"])
            self._take(document)
        except (ValueError, LookupError, TypeError, AttributeError):
            self._stray(url)

    def _take(self, document: Mapping[str, Any]) -> None:
        """Of several commits of one item the newest tells of it; earlier documents say no version."""
        marks, beside, recordings = (document.get(key, {}) for key in ("marks", "beside", "recordings"))
        self._rows.executemany(
            "INSERT INTO taken VALUES (?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT (name) DO UPDATE SET "
            "fingerprint = excluded.fingerprint, mark = excluded.mark, beside = excluded.beside, "
            "recordings = excluded.recordings, version = excluded.version WHERE excluded.version >= version",
            (
                (
                    name,
                    posixpath.basename(name),
                    fingerprint,
                    marks.get(name, ""),
                    json.dumps(beside[name]) if name in beside else "",
                    json.dumps(recordings[name]) if name in recordings else None,
                    document.get("version", -1),
                )
                for name, fingerprint in document["items"].items()
            ),
        )
        self.roots.remember(document.get("roots", {}))
        names = ((name,) for name in document["items"])
        self._rows.executemany("UPDATE taken SET times = times + 1 WHERE name = ?", names)

    def _reported(self, document: Mapping[str, Any], url: str) -> dict[str, list[str]]:
        """Recordings of a run of the first version, as its report says."""
        run = url.rsplit("/", 1)[-1]
        report_url = uri.join(self._corpus.url, "reports", "ingest", self._cohort, run)
        recordings: dict[str, list[str]] = {name: [] for name in document["items"]}
        if uri.exists(report_url):
            for outcome in json.loads(uri.read_bytes(report_url))["kept"]:
                recordings[outcome["item"]].append(outcome["name"])
        return recordings

    def _objects(self, kind: str) -> list[str]:
        """What may be a run or a part, oldest first; what else lies there (`.DS_Store`, a write that was cut off) is
        passed over.
        """
        folder = uri.join(self._base, kind)
        below = sorted(uri.list_details(folder), key=lambda one: (one.modified_s, one.url))
        return [one.url for one in below if _is_document(one.url.removeprefix(folder + "/"))]

    def _stray(self, url: str) -> None:
        if url not in self.strays:
            self.strays.append(url)

    def _is_whole(self, written: WrittenPart) -> bool:
        """Whether the arrays are still there: `vacuum` may have collected an old unfinished part."""
        paths = {row.array_path for row in written.rows}
        return all(uri.exists(uri.join(self._corpus.url, path, "zarr.json")) for path in paths)


def _is_document(name: str) -> bool:
    return "/" not in name and name.endswith(".json") and not name.startswith(".")


def _one_path(one: str, other: str) -> bool:
    """Whether two names may be one file, seen from two folders."""
    return one == other or one.endswith("/" + other) or other.endswith("/" + one)


def taken_items(written: WrittenPart, committed: set[str] | None = None) -> dict[str, TakenItem]:
    """Items of which something was kept and committed (all that was kept, unless told): the others are tried again
    next time.
    """
    kept: dict[str, list[str]] = {}
    for one in written.outcomes:
        if one.kept and (committed is None or one.name in committed):
            kept.setdefault(one.item, []).append(one.name)
    return {
        name: TakenItem(fingerprint=one.fingerprint, recordings=tuple(kept[name]), mark=one.mark, beside=one.beside)
        for name, one in written.items.items()
        if name in kept
    }
