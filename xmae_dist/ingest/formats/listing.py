"""The files below a folder: listed once, kept on disk, so that memory does not grow with their number."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xmae_dist.core.scratch import scratch
from xmae_dist.storage import uri

_SCHEMA = """
CREATE TABLE files (
    folder TEXT, name TEXT, suffix TEXT, bytes INTEGER, version TEXT, named INTEGER DEFAULT 0, read INTEGER DEFAULT 0,
    PRIMARY KEY (folder, name)
) WITHOUT ROWID;
"""
_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedFile:
    """A file as its folder or bucket lists it. `version` changes with the content: the ETag of a store, or the time of
    the last change in nanoseconds; '' where neither is told.
    """

    path: str
    bytes: int
    version: str


class Listing(Mapping[str, int]):
    """Relative path -> size in bytes, of every file below a folder; iterates folder by folder, in order of names.

    Files are marked where they turn out to be part of a recording: `name` one that a header names, `use` one that is
    read.
    """

    def __init__(self, files: Iterable[ListedFile]) -> None:
        self._rows = scratch(_SCHEMA)
        self._rows.executemany(
            "INSERT OR REPLACE INTO files (folder, name, suffix, bytes, version) VALUES (?, ?, ?, ?, ?)",
            ((*posixpath.split(one.path), suffix_of(one.path), one.bytes, one.version) for one in files),
        )

    def __getitem__(self, path: str) -> int:
        found = self._find(path)
        if found is None:
            raise KeyError(path)
        return int(found[0])

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._find(path) is not None

    def __iter__(self) -> Iterator[str]:
        return self._paths("1")

    def __len__(self) -> int:
        return int(self._rows.execute("SELECT count(*) FROM files").fetchone()[0])

    def __bool__(self) -> bool:
        return self._rows.execute("SELECT 1 FROM files LIMIT 1").fetchone() is not None

    def file(self, path: str) -> ListedFile | None:
        """What the listing says of a file; None where it is not there."""
        found = self._find(path)
        return None if found is None else ListedFile(path=path, bytes=found[0], version=found[1])

    def ending(self, suffixes: Sequence[str]) -> Iterator[str]:
        """Files with one of these suffixes, in lower or upper case."""
        return self._paths(f"suffix IN ({', '.join('?' * len(suffixes))})", tuple(suffixes))

    def name(self, path: str) -> None:
        """Marks a file that a header names; no matter where it is not there."""
        self._mark("named", path)

    def use(self, path: str) -> None:
        """Marks a file that is read."""
        self._mark("read", path)

    def is_named(self, path: str) -> bool:
        found = self._find(path)
        return found is not None and bool(found[2])

    def unnamed(self, suffixes: Sequence[str]) -> Iterator[str]:
        """Files with one of these suffixes that no header names."""
        return self._paths(f"NOT named AND suffix IN ({', '.join('?' * len(suffixes))})", tuple(suffixes))

    def unused(self) -> Iterator[tuple[str, int]]:
        """Suffixes, '' for none, and how many files with each are not read."""
        yield from self._rows.execute(
            "SELECT suffix, count(*) FROM files WHERE NOT read GROUP BY suffix ORDER BY suffix"
        )

    def _find(self, path: str) -> Any:
        query = "SELECT bytes, version, named FROM files WHERE folder = ? AND name = ?"
        return self._rows.execute(query, posixpath.split(path)).fetchone()

    def _mark(self, column: str, path: str) -> None:
        self._rows.execute(f"UPDATE files SET {column} = 1 WHERE folder = ? AND name = ?", posixpath.split(path))

    def _paths(self, condition: str, given: tuple[str, ...] = ()) -> Iterator[str]:
        """Some at a time, so that files may be marked meanwhile."""
        query = f"SELECT folder, name FROM files WHERE (folder, name) > (?, ?) AND {condition} ORDER BY folder, name"
        last = ("", "")
        while some := self._rows.execute(f"{query} LIMIT {_AT_ONCE}", (*last, *given)).fetchall():
            yield from (f"{folder}/{name}" if folder else name for folder, name in some)
            last = some[-1]


def suffix_of(path: str) -> str:
    """The suffix of a file's name in lower case, '' where it has none."""
    return posixpath.splitext(path)[1].lower()


def files_below(url: str) -> Iterator[ListedFile]:
    """Every file below a folder, as it is listed: in a store page by page. Nothing where there is no folder."""
    if uri.is_local(url):
        yield from _local_files(str(uri.local_path(url)))
        return
    root = uri.filesystem(url)[1].rstrip("/") + "/"
    for name, info in uri.listed_below(url):
        if name.startswith(root) and name != root:
            yield ListedFile(path=name[len(root) :], bytes=int(info["size"]), version=_version(info))


def files_beside(url: str) -> Iterator[ListedFile]:
    """The files directly in a folder; nothing where there is none."""
    fs, folder = uri.filesystem(url)
    try:
        found = fs.ls(folder, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return
    for info in found:
        if info["type"] == "file":
            path = posixpath.basename(info["name"])
            yield ListedFile(path=path, bytes=int(info["size"]), version=_version(info))


def _local_files(root: str) -> Iterator[ListedFile]:
    for folder, folders, names in os.walk(root):
        folders.sort()
        place = os.path.relpath(folder, root)
        for name in names:
            path = name if place == "." else f"{place}/{name}"
            try:
                found = os.stat(os.path.join(folder, name))
            except OSError:
                # A link to nowhere counts as empty, so that its reader names it.
                yield ListedFile(path=path, bytes=0, version="")
                continue
            yield ListedFile(path=path, bytes=found.st_size, version=str(found.st_mtime_ns))


def _version(info: Mapping[str, Any]) -> str:
    """The ETag of a stored object; of a local file the time of its last change, in nanoseconds."""
    told = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    if told:
        return str(told).strip('"')
    mtime_s = info.get("mtime")
    return str(round(mtime_s * 1e9)) if isinstance(mtime_s, float) else ""
