"""What a folder offers to a format, and what the format says of it: items to read, and what is broken.

An item is what is read as a whole: a WFDB record (its headers and signal files), a table, an EDF file. Its fingerprint
is made of names, sizes and headers, so that a re-run over terabytes reads headers alone. Works on any store URL.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.storage import uri

# Enough of a file's two ends to notice another file of the same name and size.
_EDGE_BYTES = 64 * 1024
# Headers read at once: a remote store is asked for many at a time, and memory holds no more than these.
_HEADERS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing to read: `name` is the recording id it stands for (for a `rows` table, its prefix).

    `format` names the entry of the registry that found it and opens it. `head` and `files` are paths relative to
    `folder_url`; `bytes` is the sum of the sizes of `files`.
    """

    name: str
    folder_url: str
    head: str
    files: tuple[str, ...]
    bytes: int
    fingerprint: str
    format: str = ""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something named in the input that cannot be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one format finds in a folder."""

    items: tuple[Item, ...] = ()
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that was listed: sizes of all files below it by relative path. `only`: the one file that is meant.

    `tell` is called for each file that is looked into.
    """

    url: str
    sizes: Mapping[str, int]
    only: str | None = None
    tell: Callable[[], None] = lambda: None

    def names(self) -> list[str]:
        """Files that may be read, in order."""
        return [self.only] if self.only is not None else sorted(self.sizes)

    def whole_file(self, head: str, format_name: str, beside: tuple[str, ...] = ()) -> Item:
        """The file `head` as an item of its own; `beside` are further files that its reader looks into."""
        self.tell()
        ends = self._ends(head)
        return Item(
            name=posixpath.splitext(head)[0],
            folder_url=self.url,
            head=head,
            files=(head, *beside),
            bytes=self.sizes[head],
            fingerprint=digest_json([posixpath.basename(head), self.sizes[head], ends]),
            format=format_name,
        )

    def contents(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """(name, content) of small files, in order."""
        if uri.is_local(self.url):
            root = uri.local_path(self.url)
            with uri.storage_errors(self.url):
                for name in names:
                    self.tell()
                    yield name, (root / name).read_bytes()
            return
        names = list(names)
        for start in range(0, len(names), _HEADERS_AT_ONCE):
            some = names[start : start + _HEADERS_AT_ONCE]
            for name, content in zip(some, self._remote(some), strict=True):
                self.tell()
                yield name, content

    def _remote(self, names: list[str]) -> list[bytes]:
        fs, root = uri.filesystem(self.url)
        paths = [f"{root}/{name}" for name in names]
        with uri.storage_errors(self.url):
            return list(fs.cat_ranges(paths, [None] * len(paths), [None] * len(paths), on_error="raise"))

    def _ends(self, name: str) -> str:
        """Digest of the first and last 64 KiB of a file."""
        size = self.sizes[name]
        url = uri.join(self.url, name)
        with uri.storage_errors(url):
            if uri.is_local(url):
                first, last = _local_ends(uri.local_path(url), size)
            else:
                fs, path = uri.filesystem(url)
                first = fs.cat_file(path, start=0, end=min(size, _EDGE_BYTES))
                last = first if size <= _EDGE_BYTES else fs.cat_file(path, start=size - _EDGE_BYTES, end=size)
        return hashlib.sha256(first + last).hexdigest()


def _local_ends(path: Path, size: int) -> tuple[bytes, bytes]:
    with path.open("rb") as file:
        first = file.read(min(size, _EDGE_BYTES))
        if size <= _EDGE_BYTES:
            return first, first
        file.seek(size - _EDGE_BYTES)
        return first, file.read(_EDGE_BYTES)


def listed(url: str, only_suffixes: Iterable[str], tell: Callable[[], None]) -> Folder:
    """The folder at `url` with all below it; of a file, or a record named without its suffix, the folder that it is in.

    `only_suffixes` are tried, in order, where `url` itself is no file. Raises InputError where nothing is there.
    """
    fs, path = uri.filesystem(url)
    with uri.storage_errors(url):
        if not uri.is_local(url):
            uri.probe(url)
        below = _local_sizes(Path(path)) if uri.is_local(url) else _remote_sizes(fs, path)
        if below:
            return Folder(url=url, sizes=below, tell=tell)
        beside = _children(fs, posixpath.dirname(path))
    name = posixpath.basename(path)
    for candidate in (name, *(name + suffix for suffix in only_suffixes)):
        if candidate in beside:
            return Folder(url=url.rsplit("/", 1)[0], sizes=beside, only=candidate, tell=tell)
    raise InputError(url, value="no such folder, record or file", fix="check the path")


def _local_sizes(root: Path) -> dict[str, int]:
    """Sizes by relative path. A link to nowhere counts as empty, so that its reader names it."""
    sizes = {}
    for folder, folders, files in os.walk(root):
        folders.sort()
        place = os.path.relpath(folder, root)
        for name in files:
            path = os.path.join(folder, name)
            size = os.stat(path).st_size if os.path.exists(path) else 0
            sizes[name if place == "." else f"{place}/{name}"] = size
    return sizes


def _remote_sizes(fs: object, path: str) -> dict[str, int]:
    found = fs.find(path, detail=True)  # type: ignore[attr-defined]
    return {posixpath.relpath(name, path): int(info["size"]) for name, info in found.items() if name != path}


def _children(fs: object, folder: str) -> dict[str, int]:
    try:
        found = fs.ls(folder, detail=True)  # type: ignore[attr-defined]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {posixpath.basename(item["name"]): int(item["size"]) for item in found if item["type"] == "file"}
