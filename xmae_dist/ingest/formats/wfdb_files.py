"""WFDB records in a folder: headers, the segments and signal files they name, and what lacks a header."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from xmae_dist.core.fingerprint import digest_json
from xmae_dist.ingest.formats.items import Folder, Found, Item, Refusal
from xmae_dist.ingest.formats.protocol import told
from xmae_dist.ingest.formats.source import Opened
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class WfdbFormat:
    """A record is its header (`.hea`), the headers of its segments, and all their signal files."""

    name: str = "wfdb"
    title: str = "WFDB headers (*.hea)"

    def find(self, folder: Folder) -> Found:
        heads = [name for name in folder.names() if name.endswith(".hea")]
        records: dict[str, Item] = {}
        masters: dict[str, tuple[list[str], str]] = {}
        named: set[str] = set()
        for head, text in folder.contents(heads):
            references = _references(head, text, folder.sizes)
            named.update(references)
            if references and references[0].endswith(".hea"):
                masters[head] = references, hashlib.sha256(text).hexdigest()
            else:
                records[head] = self._item(folder, head, [head, *references], [hashlib.sha256(text).hexdigest()])
        for head, (segments, digest) in masters.items():
            records[head] = self._master(folder, head, segments, digest, named)
        if folder.only is not None:
            return Found(items=tuple(records.values()))
        items = tuple(records[head] for head in heads if head not in named)
        return Found(items=items, refusals=tuple(_without_header(folder, named)))

    def recordings(self, item: Item, folder: Path) -> Iterator[Opened]:
        return told(_opened(folder / item.head, item.name), item.name)

    def _master(self, folder: Folder, head: str, segments: list[str], digest: str, named: set[str]) -> Item:
        present = [name for name in segments if name in folder.sizes]
        names, digests = [head, *segments], [digest]
        for segment, text in folder.contents(present):
            references = _references(segment, text, folder.sizes)
            named.update(references)
            names += references
            digests.append(hashlib.sha256(text).hexdigest())
        return self._item(folder, head, names, digests)

    def _item(self, folder: Folder, head: str, names: list[str], digests: list[str]) -> Item:
        named = dict.fromkeys(names)
        files = tuple(name for name in named if name in folder.sizes)
        identity = {
            "files": [[posixpath.basename(name), folder.sizes.get(name)] for name in named],
            "headers": digests,
        }
        return Item(
            name=head.removesuffix(".hea"),
            folder_url=folder.url,
            head=head,
            files=files,
            bytes=sum(folder.sizes[name] for name in files),
            fingerprint=digest_json(identity),
            format=self.name,
        )


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


def _without_header(folder: Folder, named: set[str]) -> Iterator[Refusal]:
    """Signal files that no header names, and records listed in a RECORDS file that have no header."""
    lost = {}
    # MATLAB files are signals of a record only where records are.
    suffixes = (".dat", ".mat") if named else (".dat",)
    for name in folder.sizes:
        stem, suffix = posixpath.splitext(name)
        if suffix in suffixes and name not in named and f"{stem}.hea" not in folder.sizes:
            lost[stem] = _no_header(stem, f"restore it beside {posixpath.basename(name)}")
    for listing in (name for name in folder.sizes if posixpath.basename(name) == "RECORDS"):
        place = posixpath.dirname(listing)
        for line in uri.read_bytes(uri.join(folder.url, listing)).decode("utf-8", "replace").split():
            record = posixpath.join(place, line)
            if not line.endswith("/") and f"{record}.hea" not in folder.sizes and record not in lost:
                lost[record] = _no_header(record, f"copy the record again: {listing} lists it")
    yield from (lost[name] for name in sorted(lost))


def _no_header(record: str, fix: str) -> Refusal:
    return Refusal(name=record, reason=f"header {posixpath.basename(record)}.hea: got no such file; fix: {fix}")
