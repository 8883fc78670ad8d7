"""What a folder offers to a format, and what the format says of it: items to read, and what is broken.

An item is what is read as a whole: a WFDB record (its headers and signal files), a table, an EDF file. Its fingerprint
is made of names, sizes and headers; its mark of what the listing alone says (names, sizes, ETags or times). An item
whose mark is the one that it was taken in with is not looked into: a re-run over a million files costs their listing.
"""

from __future__ import annotations

import hashlib
import itertools
import posixpath
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.ingest.formats.listing import ListedFile, Listing, files_below, files_beside, suffix_of
from xmae_dist.storage import uri

# Enough of a file's two ends to notice another file of the same name and size.
_EDGE_BYTES = 64 * 1024
# Files looked into at once: a remote store is asked for many at a time, and memory holds no more than these.
_AT_ONCE = 256
_LISTED_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing to read: `name` is the recording id it stands for (for a `rows` table, its prefix).

    `format` names the entry of the registry that found it and opens it. `head` and `files` are paths relative to
    `folder_url`; `bytes` is the sum of the sizes of `files`. `mark` is '' where the listing tells too little.
    """

    name: str
    folder_url: str
    head: str
    files: tuple[str, ...]
    bytes: int
    fingerprint: str
    format: str = ""
    mark: str = ""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something named in the input that cannot be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TakenItem:
    """An item of which something was taken in. `beside`: its further files, relative to the folder of its head."""

    fingerprint: str
    recordings: tuple[str, ...] = ()
    mark: str = ""
    beside: tuple[str, ...] = ()


class Recall(Protocol):
    """The item that was taken in under a name, None where none was."""

    def __call__(self, name: str) -> TakenItem | None: ...


def nothing_taken(name: str) -> TakenItem | None:
    """What a corpus recalls that holds nothing."""
    return None


Tell = Callable[[float, str], None]
"""Is told of how many more files there is news, and what news."""


def nobody_listens(amount: float, note: str) -> None:
    """Where nobody wants to know how far it is."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that was listed: sizes of all files below it by relative path. `only`: the one file that is meant.

    `place` stands before the names of its items, except in folders below it for which `place_below` says another;
    `recall` knows items that were taken in before, and `tell` is called for each file that is recognised or read.
    """

    url: str
    sizes: Listing
    only: str | None = None
    tell: Tell = field(default=nobody_listens)
    place: str = ""
    place_below: Callable[[str], str | None] = field(default=lambda folder: None)
    recall: Recall = field(default=nothing_taken)

    def names(self) -> Iterator[str]:
        """Files that may be read, in order."""
        return iter([self.only]) if self.only is not None else iter(self.sizes)

    def ending(self, suffixes: Sequence[str]) -> Iterator[str]:
        """Files with one of these suffixes that may be read, in order."""
        if self.only is not None:
            return iter([self.only] if suffix_of(self.only) in suffixes else [])
        return self.sizes.ending(suffixes)

    def whole_files(
        self, heads: Iterable[tuple[str, tuple[str, ...]]], format_name: str, *, joined: bool = False
    ) -> Iterator[Item]:
        """Files as items of their own, given with the further files that their reader looks into. With `joined` the
        contents of those count as the item's too.
        """
        pairs = iter(heads)
        while some := list(itertools.islice(pairs, _AT_ONCE)):
            recalled = [self.recalled((head, *beside)) for head, beside in some]
            unknown = [head for (head, _), item in zip(some, recalled, strict=True) if item is None]
            further = [name for (_, names), item in zip(some, recalled, strict=True) if item is None for name in names]
            prints = self._prints(dict.fromkeys([*unknown, *(further if joined else ())]))
            for (head, beside), item in zip(some, recalled, strict=True):
                self.tell(1.0, head)
                one = item.fingerprint if item is not None else prints[head]
                if item is None and joined and beside:
                    one = digest_json([one, *(prints[name] for name in beside)])
                yield self.item((head, *beside), one, format_name)

    def item(self, files: Sequence[str], fingerprint: str, format_name: str) -> Item:
        """The item of these files, the first of which is its head; those that are not there are left out."""
        told = [self.sizes.file(name) for name in files]
        present = [one for one in told if one is not None]
        return Item(
            name=self.name_of(files[0]),
            folder_url=self.url,
            head=files[0],
            files=tuple(one.path for one in present),
            bytes=sum(one.bytes for one in present),
            fingerprint=fingerprint,
            format=format_name,
            mark=_mark(told),
        )

    def name_of(self, head: str) -> str:
        """The name of the item with this head."""
        stem = posixpath.splitext(head)[0]
        folder, name = posixpath.split(stem)
        place = self.place_below(folder) if folder else None
        return self.place + stem if place is None else place + name

    def recalled(self, files: Sequence[str]) -> TakenItem | None:
        """The item that was taken in under this name, if its files, by their listing, are still the same. Where `files`
        is the head alone, its further files are those that it had then.
        """
        taken = self.recall(self.name_of(files[0]))
        if taken is None or not taken.mark:
            return None
        if len(files) == 1:
            files = (files[0], *self.beside(files[0], taken))
        return taken if _mark([self.sizes.file(name) for name in files]) == taken.mark else None

    def beside(self, head: str, taken: TakenItem) -> tuple[str, ...]:
        """Further files of an item, relative to this folder."""
        return tuple(posixpath.join(posixpath.dirname(head), name) for name in taken.beside)

    def contents(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """(name, content) of small files, in order."""
        names = iter(names)
        while some := list(itertools.islice(names, _AT_ONCE)):
            for name, content in zip(some, self._read([(name, 0, None) for name in some]), strict=True):
                self.tell(1.0, name)
                yield name, content

    def _prints(self, names: Iterable[str]) -> dict[str, str]:
        """Fingerprints of whole files: their name, size and first and last 64 KiB."""
        names = list(names)
        pieces = [(name, *piece) for name in names for piece in _ends(self.sizes[name])]
        read = iter(self._read(pieces))
        prints = {}
        for name in names:
            ends = [next(read) for _ in _ends(self.sizes[name])]
            digest = hashlib.sha256(ends[0] + ends[-1] if ends else b"").hexdigest()
            prints[name] = digest_json([posixpath.basename(name), self.sizes[name], digest])
        return prints

    def _read(self, pieces: Sequence[tuple[str, int, int | None]]) -> Iterator[bytes]:
        """Bytes [start, stop) of files; of a store all at once."""
        with uri.storage_errors(self.url):
            if uri.is_local(self.url):
                root = uri.local_path(self.url)
                yield from (_local_piece(root / name, start, stop) for name, start, stop in pieces)
                return
            fs, folder = uri.filesystem(self.url)
            paths = [f"{folder}/{name}" for name, _, _ in pieces]
            starts = [None if stop is None else start for _, start, stop in pieces]
            stops = [stop for _, _, stop in pieces]
            yield from fs.cat_ranges(paths, starts, stops, on_error="raise") if paths else ()


def _mark(files: Sequence[ListedFile | None]) -> str:
    """What the listing says of these files, as a digest; '' where one is not there or has no version."""
    known = [one for one in files if one is not None and one.version]
    if len(known) < len(files):
        return ""
    return digest_json([[posixpath.basename(one.path), one.bytes, one.version] for one in known])


def _ends(size: int) -> list[tuple[int, int]]:
    """The first and the last piece of a file of so many bytes, where they are not one."""
    if size <= _EDGE_BYTES:
        return [(0, size)] if size else []
    return [(0, _EDGE_BYTES), (size - _EDGE_BYTES, size)]


def _local_piece(path: Path, start: int, stop: int | None) -> bytes:
    with path.open("rb", buffering=0) as file:
        if start:
            file.seek(start)
        return file.read() if stop is None else file.read(stop - start)


def listed(url: str, only_suffixes: Iterable[str], tell: Tell = nobody_listens) -> Folder:
    """The folder at `url` with all below it; of a file, or a record named without its suffix, the folder that it is in.

    `only_suffixes` are tried, in order, where `url` itself is no file. Raises InputError where nothing is there.
    """
    with uri.storage_errors(url):
        if not uri.is_local(url):
            uri.probe(url)
        below = Listing(_counted(files_below(url), tell))
        if below:
            return Folder(url=url, sizes=below, tell=tell)
        folder_url, _, name = url.rpartition("/")
        beside = Listing(files_beside(folder_url))
    for candidate in (name, *(name + suffix for suffix in only_suffixes)):
        if candidate in beside:
            return Folder(url=folder_url, sizes=beside, only=candidate, tell=tell)
    raise InputError(url, value="no such folder, record or file", fix="check the path")


def _counted(files: Iterable[ListedFile], tell: Tell) -> Iterator[ListedFile]:
    for count, file in enumerate(files, 1):
        if count % _LISTED_AT_ONCE == 0:
            tell(0.0, f"{count:,} listed")
        yield file


def as_taken(item: Item) -> TakenItem:
    """What is to be remembered of an item; which recordings of it were taken in is told later."""
    folder = posixpath.dirname(item.head)
    beside = tuple(posixpath.relpath(name, folder or ".") for name in item.files if name != item.head)
    return TakenItem(fingerprint=item.fingerprint, mark=item.mark, beside=beside)
