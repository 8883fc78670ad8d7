"""WFDB records in a folder: headers, the segments and signal files they name, and what lacks a header."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from xmae_dist.core.fingerprint import digest_json
from xmae_dist.core.scratch import scratch
from xmae_dist.ingest.formats.items import Folder, Item, Refusal
from xmae_dist.ingest.formats.protocol import told
from xmae_dist.ingest.formats.source import Opened
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class WfdbFormat:
    """A record is its header (`.hea`), the headers of its segments, and all their signal files."""

    name: str = "wfdb"
    title: str = "WFDB headers (*.hea)"

    def heads(self, folder: Folder) -> Iterator[str]:
        return (name for name in folder.ending((".hea",)) if name.endswith(".hea"))

    def find(self, folder: Folder) -> Iterator[Item | Refusal]:
        headers = _Headers(folder)
        for head in self.heads(folder):
            headers.recall(head)
        unknown = (head for head in self.heads(folder) if head not in headers)
        # Segments of a record that is known are known with it.
        headers.read(head for head in unknown if not folder.sizes.is_named(head))
        for head in self.heads(folder):
            # What another header names is a segment of that record.
            if folder.only is not None or not folder.sizes.is_named(head):
                yield folder.item(*headers.record(head), self.name)
        if folder.only is None:
            yield from _without_header(folder, bool(headers))

    def recordings(self, item: Item, folder: Path) -> Iterator[Opened]:
        return told(_opened(folder / item.head, item.name), item.name)


class _Headers:
    """What the headers of a folder name, on disk: those of records that were taken in before are not read again."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._rows = scratch(
            "CREATE TABLE headers (head TEXT PRIMARY KEY, names TEXT, digest TEXT, fingerprint TEXT) WITHOUT ROWID;"
        )

    def __contains__(self, head: str) -> bool:
        return self._row(head) is not None

    def __bool__(self) -> bool:
        return self._rows.execute("SELECT 1 FROM headers LIMIT 1").fetchone() is not None

    def recall(self, head: str) -> None:
        """Notes a record of before whose files are still the same."""
        if (taken := self._folder.recalled((head,))) is not None:
            self._folder.tell(1.0, head)
            self._note(head, self._folder.beside(head, taken), "", taken.fingerprint)

    def read(self, heads: Iterator[str]) -> None:
        """Reads headers and notes what they name."""
        for head, text in self._folder.contents(heads):
            references = _references(head, text, self._folder.sizes)
            self._note(head, references, hashlib.sha256(text).hexdigest(), "")

    def record(self, head: str) -> tuple[list[str], str]:
        """The files of a record, its head first, and its fingerprint."""
        names, digest, fingerprint = self._noted(head)
        if fingerprint:
            return [head, *names], fingerprint
        files, digests = [head, *names], [digest]
        if names and names[0].endswith(".hea"):
            present = [name for name in names if name in self._folder.sizes]
            self.read(name for name in present if name not in self)
            for segment in present:
                further, its, _ = self._noted(segment)
                files += further
                digests.append(its)
        files = list(dict.fromkeys(files))
        sizes = [[posixpath.basename(name), self._folder.sizes.get(name)] for name in files]
        return files, digest_json({"files": sizes, "headers": digests})

    def _note(self, head: str, names: tuple[str, ...] | list[str], digest: str, fingerprint: str) -> None:
        for name in names:
            self._folder.sizes.name(name)
        row = (head, json.dumps(list(names)), digest, fingerprint)
        self._rows.execute("INSERT OR REPLACE INTO headers VALUES (?, ?, ?, ?)", row)

    def _noted(self, head: str) -> tuple[list[str], str, str]:
        row = self._row(head)
        assert row is not None, head
        return json.loads(row[0]), row[1], row[2]

    def _row(self, head: str) -> tuple[str, str, str] | None:
        query = "SELECT names, digest, fingerprint FROM headers WHERE head = ?"
        found: tuple[str, str, str] | None = self._rows.execute(query, (head,)).fetchone()
        return found


def _opened(head: Path, name: str) -> Iterator[Opened]:
    from xmae_dist.ingest.formats.wfdb import WfdbRecording

    yield WfdbRecording(head, name)


def _references(head: str, text: bytes, sizes: Mapping[str, int]) -> list[str]:
    """Files that a header names, relative to the listing: segment headers of a multi-segment record, else
    signal files.
    """
    lines = [line.split() for line in text.decode("utf-8", "replace").splitlines()]
    lines = [words for words in lines if words and not words[0].startswith("#")]
    if not lines:
        return []
    folder = posixpath.dirname(head)
    suffix = ".hea" if re.search(r"/\d+$", lines[0][0]) else ""
    names = dict.fromkeys(words[0] + suffix for words in lines[1:] if words[0] != "~")
    paths = {name: posixpath.join(folder, name) for name in names}
    # Some archives name the place that a file had when it was made: what lies beside the header is meant.
    beside = {name: posixpath.join(folder, posixpath.basename(name)) for name in names}
    return [paths[name] if paths[name] in sizes or beside[name] not in sizes else beside[name] for name in names]


def _without_header(folder: Folder, records: bool) -> Iterator[Refusal]:
    """Signal files that no header names, and records listed in a RECORDS file that have no header."""
    # MATLAB files are signals of a record only where records are.
    suffixes = (".dat", ".mat") if records else (".dat",)
    for name in folder.sizes.unnamed(suffixes):
        stem, suffix = posixpath.splitext(name)
        if suffix in suffixes and f"{stem}.hea" not in folder.sizes:
            yield _no_header(stem, f"restore it beside {posixpath.basename(name)}")
    for listing in (name for name in folder.sizes.ending(("",)) if posixpath.basename(name) == "RECORDS"):
        place = posixpath.dirname(listing)
        for line in uri.read_bytes(uri.join(folder.url, listing)).decode("utf-8", "replace").split():
            record = posixpath.join(place, line)
            if not line.endswith("/") and f"{record}.hea" not in folder.sizes:
                yield _no_header(record, f"copy the record again: {listing} lists it")


def _no_header(record: str, fix: str) -> Refusal:
    return Refusal(name=record, reason=f"header {posixpath.basename(record)}.hea: got no such file; fix: {fix}")
