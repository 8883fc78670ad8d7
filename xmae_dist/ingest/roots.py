"""From which folder recordings take their names, so that naming `data` or `data/subject_01` gives the same ones.

A folder is left for its parent while a folder beside it holds a file of the same relative path: then the name of the
folder is what tells the two apart. What stands before names is decided when a folder is first named for a cohort, and
kept with what was taken in: a neighbour that comes or goes later changes no name, whether that folder, one above or one
below is named from then on. Folders are kept as digests of their URLs: a corpus tells nobody where its files lay.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xmae_dist.core.scratch import scratch
from xmae_dist.storage import uri

_HIGHEST = 4
_BESIDE = 50
_SCHEMA = """
CREATE TABLE roots (folder TEXT PRIMARY KEY, parent TEXT, place TEXT) WITHOUT ROWID;
CREATE INDEX beside ON roots (parent);
"""


class Roots:
    """The folders that were named for a cohort, and what stands before the names of recordings in them."""

    def __init__(self) -> None:
        self._rows = scratch(_SCHEMA)
        self.named: dict[str, tuple[str, str]] = {}
        """Those of this run: folder -> (its parent, place)."""
        self._last: tuple[str, str | None] = ("", None)

    def remember(self, named: Mapping[str, Sequence[str]]) -> None:
        """Takes in what a run named; what a folder was given first stays."""
        rows = ((folder, parent, place) for folder, (parent, place) in named.items())
        self._rows.executemany("INSERT OR IGNORE INTO roots VALUES (?, ?, ?)", rows)

    def place(self, url: str, first: str | None) -> str:
        """What stands before names relative to the folder `url`, in which `first` (relative to it) was found first."""
        place = self._known(url)
        if place is None:
            place = self._from_above(url)
        if place is None:
            place = _from_neighbours(url, first, self._has_known_beside)
        self.named[_digest(url)] = (_digest(posixpath.dirname(url)), place)
        return place

    def place_below(self, url: str, folder: str) -> str | None:
        """What stands before the names of files in `folder`, relative to `url`, where it or a folder between the two
        was named before; else None.
        """
        key = f"{url}/{folder}"
        if self._last[0] != key:  # files come folder by folder
            self._last = (key, self._below(url, folder) if self._rows_there() else None)
        return self._last[1]

    def _below(self, url: str, folder: str) -> str | None:
        rest = ""
        while folder:
            if (place := self._known(f"{url}/{folder}")) is not None:
                return place + rest
            folder, name = posixpath.split(folder)
            rest = f"{name}/{rest}"
        return None

    def _from_above(self, url: str) -> str | None:
        above, rest = url, ""
        while self._rows_there() and "/" in uri.filesystem(above)[1].strip("/"):
            above, name = posixpath.split(above)
            rest = f"{name}/{rest}"
            if (place := self._known(above)) is not None:
                return place + rest
        return None

    def _rows_there(self) -> bool:
        return self._rows.execute("SELECT 1 FROM roots LIMIT 1").fetchone() is not None

    def _known(self, url: str) -> str | None:
        found = self._rows.execute("SELECT place FROM roots WHERE folder = ?", (_digest(url),)).fetchone()
        return None if found is None else str(found[0])

    def _has_known_beside(self, url: str) -> bool:
        """Whether another folder beside this one was named: it may be gone, its names are taken."""
        query = "SELECT 1 FROM roots WHERE parent = ? AND folder != ?"
        return self._rows.execute(query, (_digest(posixpath.dirname(url)), _digest(url))).fetchone() is not None


def _digest(url: str) -> str:
    return hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


def _from_neighbours(url: str, first: str | None, has_known_beside: Callable[[str], bool]) -> str:
    fs, folder = uri.filesystem(url)
    prefix = ""
    for _ in range(_HIGHEST):
        parent, name = posixpath.split(folder.rstrip("/"))
        # A bucket has no folders beside it.
        if first is None or not name or not parent.strip("/"):
            break
        beside = _folders_beside(fs, parent, folder)
        if not has_known_beside(url) and not any(_holds(fs, one, prefix + first) for one in beside):
            break
        prefix, folder, url = f"{name}/{prefix}", parent, posixpath.dirname(url)
    return prefix


def _folders_beside(fs: Any, parent: str, folder: str) -> list[str]:
    try:
        listed = fs.ls(parent, detail=True)
    except (OSError, ValueError):
        return []  # a parent that may not be listed: nothing beside is known
    found = [item["name"] for item in listed if item["type"] == "directory"]
    return [name for name in found if name.strip("/") != folder.strip("/")][:_BESIDE]


def _holds(fs: Any, folder: str, path: str) -> bool:
    try:
        return bool(fs.isfile(f"{folder}/{path}"))
    except OSError:
        return False
