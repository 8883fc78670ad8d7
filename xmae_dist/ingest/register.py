"""What a cohort has taken in already, what an interrupted run left, and the one commit that makes a run
visible.

    <corpus>/ingest/<cohort>/parts/<part>.json   a written part, not yet committed: its rows and outcomes
    <corpus>/ingest/<cohort>/runs/<txn>.json     a committed run: recordings' items and their fingerprints

A run that is killed leaves parts of the first kind; the next run with the same files takes their rows instead
of reading the files again. The index alone says what is visible: these objects only save work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xmae_dist.core.fingerprint import canonical_json, digest_json
from xmae_dist.ingest.formats.items import Item
from xmae_dist.ingest.written import Note, WrittenPart, read_note, write_note
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """Items of a run by what is to be done with them."""

    known: tuple[Item, ...]
    changed: tuple[Item, ...]
    new: tuple[Item, ...]


class Register:
    """The register of one cohort of a corpus. `settings` is whatever else decides what a part contains."""

    def __init__(self, corpus: Corpus, cohort: str, settings: object) -> None:
        self._corpus, self._cohort = corpus, cohort
        self._settings = digest_json(settings)
        self._base = uri.join(corpus.url, "ingest", cohort)
        self._taken: dict[str, str] = {}
        for url in uri.list_urls(uri.join(self._base, "runs")):
            self._taken.update(json.loads(uri.read_bytes(url))["items"])

    def sort(self, items: Iterable[Item]) -> Sorted:
        """Items already in, items whose files changed since they were taken in, and new ones."""
        known: list[Item] = []
        changed: list[Item] = []
        new: list[Item] = []
        for item in items:
            before = self._taken.get(item.name)
            (new if before is None else known if before == item.fingerprint else changed).append(item)
        return Sorted(known=tuple(known), changed=tuple(changed), new=tuple(new))

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
        """The transaction of a run: a function of the files it was given, so that a retry commits once."""
        return digest_json([self._cohort, sorted([item.name, item.fingerprint] for item in items)])

    def commit(self, rows: Iterable[IndexRow], txn_id: str) -> int | None:
        """Commits `rows` in one go and returns the version; None if this transaction was committed before.

        `rows` are read once, a few at a time, so that memory holds none but the index's own columns.
        """
        return self._corpus.commit_part(rows, txn_id)

    def close(self, run: str, items: Mapping[str, str], notes: Iterable[Note]) -> None:
        """Writes down what a committed run has taken in, then drops the notes of its parts."""
        document = {"format": "xmae-ingest-run/v1", "cohort": self._cohort, "items": items}
        uri.write_bytes(uri.join(self._base, "runs", f"{run}.json"), canonical_json(document))
        self._taken.update(items)
        for note in notes:
            uri.delete(note.url)

    def _is_whole(self, written: WrittenPart) -> bool:
        """Whether the arrays are still there: `vacuum` may have collected an old unfinished part."""
        paths = {row.array_path for row in written.rows}
        return all(uri.exists(uri.join(self._corpus.url, path, "zarr.json")) for path in paths)


def taken_items(written: WrittenPart, committed: set[str] | None = None) -> dict[str, str]:
    """Items of which something was kept and committed (all that was kept, unless told): the others are tried again
    next time.
    """
    kept = {one.item for one in written.outcomes if one.kept and (committed is None or one.name in committed)}
    return {name: mark for name, mark in written.items.items() if name in kept}
