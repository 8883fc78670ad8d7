"""What a cohort has taken in already, what an interrupted run left, and the one commit that makes a run
visible.

    <corpus>/ingest/<cohort>/parts/<part>.json   a written part, not yet committed: its rows and outcomes
    <corpus>/ingest/<cohort>/runs/<txn>.json     a committed run: recordings' items and their fingerprints

A run that is killed leaves parts of the first kind; the next run with the same files takes their rows instead
of reading the files again. The index alone says what is visible: these objects only save work.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmae_dist.core.fingerprint import canonical_json, digest_json
from xmae_dist.ingest.convert import Outcome, WrittenPart
from xmae_dist.ingest.discover import Item
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

    def keep(self, written: WrittenPart) -> None:
        document = {"format": "xmae-ingest-part/v1", "settings": self._settings, **dataclasses.asdict(written)}
        uri.write_bytes(self._part_url(written.part), json.dumps(document).encode())

    def resumable(self, items: Iterable[Item]) -> list[WrittenPart]:
        """Parts that an interrupted run wrote from files that are still the same and still wanted."""
        wanted = {item.name: item.fingerprint for item in items}
        found: list[WrittenPart] = []
        for url in uri.list_urls(uri.join(self._base, "parts")):
            document = json.loads(uri.read_bytes(url))
            same_files = all(wanted.get(name) == mark for name, mark in document["items"].items())
            if document["settings"] == self._settings and same_files and self._is_whole(document):
                written = _written(document)
                wanted = {name: mark for name, mark in wanted.items() if name not in written.items}
                found.append(written)
        return found

    def finish_interrupted(self) -> None:
        """Notes parts as taken in whose rows were committed by a run that died before it could say so."""
        documents = [json.loads(uri.read_bytes(url)) for url in uri.list_urls(uri.join(self._base, "parts"))]
        if not documents:
            return
        table = self._corpus.index.read(columns=["cohort", "part"])
        visible = set(zip(table["cohort"].to_pylist(), table["part"].to_pylist(), strict=True))
        for document in documents:
            if {(row["cohort"], row["part"]) for row in document["rows"]} & visible:
                self._note(f"{document['part']}-recovered", [_written(document)])

    def txn_id(self, items: Iterable[Item]) -> str:
        """The transaction of a run: a function of the files it was given, so that a retry commits once."""
        return digest_json([self._cohort, sorted([item.name, item.fingerprint] for item in items)])

    def commit(self, parts: Sequence[WrittenPart], rows: Sequence[IndexRow], txn_id: str) -> int | None:
        """Commits `rows` in one go and returns the version; None if this transaction was committed before."""
        version = self._corpus.commit_part(sorted(rows, key=lambda row: (row.array_path, row.offset)), txn_id)
        visible = {row.recording_id for row in rows}
        self._note(txn_id, parts, visible)
        return version

    def _note(self, run: str, parts: Sequence[WrittenPart], visible: set[str] | None = None) -> None:
        """Writes the run's items down, then drops the notes of its parts. `visible`: recordings that were
        committed.
        """
        items = {name: mark for part in parts for name, mark in _taken_items(part, visible).items()}
        document = {"format": "xmae-ingest-run/v1", "cohort": self._cohort, "items": items}
        uri.write_bytes(uri.join(self._base, "runs", f"{run}.json"), canonical_json(document))
        self._taken.update(items)
        for part in parts:
            uri.delete(self._part_url(part.part))

    def _part_url(self, part: str) -> str:
        return uri.join(self._base, "parts", f"{part}.json")

    def _is_whole(self, document: Mapping[str, Any]) -> bool:
        """Whether the arrays are still there: `vacuum` may have collected an old unfinished part."""
        paths = {row["array_path"] for row in document["rows"]}
        return all(uri.exists(uri.join(self._corpus.url, path, "zarr.json")) for path in paths)


def _taken_items(part: WrittenPart, visible: set[str] | None) -> dict[str, str]:
    """Items of which something was kept and committed; the others are tried again next time."""
    kept = {outcome.item for outcome in part.outcomes if outcome.kept and (visible is None or outcome.name in visible)}
    return {name: mark for name, mark in part.items.items() if name in kept}


def _written(document: Mapping[str, Any]) -> WrittenPart:
    return WrittenPart(
        part=document["part"],
        items=document["items"],
        outcomes=tuple(
            Outcome(**{**outcome, "channels": tuple(outcome["channels"]), "notes": tuple(outcome.get("notes", ()))})
            for outcome in document["outcomes"]
        ),
        rows=tuple(IndexRow(**{**row, "gaps": tuple(map(tuple, row["gaps"]))}) for row in document["rows"]),
    )
