"""What the inputs of a command offer, on disk: items and what is to become of each, and what is broken.

A command may name millions of files: they are written down as they are found, and read in order of their names, some
at a time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from xmae_dist.core.scratch import scratch
from xmae_dist.ingest.formats.items import Item, Refusal

_SCHEMA = """
CREATE TABLE folders (id INTEGER PRIMARY KEY, url TEXT UNIQUE);
CREATE TABLE items (
    name TEXT PRIMARY KEY, folder INTEGER, head TEXT, files TEXT, bytes INTEGER, fingerprint TEXT, format TEXT,
    mark TEXT, state TEXT
) WITHOUT ROWID;
CREATE TABLE refusals (name TEXT PRIMARY KEY, reason TEXT) WITHOUT ROWID;
"""
_ITEM = "name, url, head, files, bytes, fingerprint, format, mark"
_AT_ONCE = 1000
OFFERED = "offered"


class Offer:
    """Items and refusals of a command. `unread`: kind of file (its suffix) -> how many of it no format reads."""

    def __init__(self) -> None:
        self._rows = scratch(_SCHEMA)
        self._folders: dict[str, int] = {}
        self.unread: Counter[str] = Counter()

    def add(self, item: Item) -> bool:
        """Takes an item in; False, changing nothing, where another one has its name. The same one again is no other."""
        found = self._rows.execute("SELECT fingerprint FROM items WHERE name = ?", (item.name,)).fetchone()
        if found is not None and found[0] != item.fingerprint:
            return False
        row = (
            item.name,
            self._folder(item.folder_url),
            item.head,
            json.dumps(item.files),
            item.bytes,
            item.fingerprint,
            item.format,
            item.mark,
            OFFERED,
        )
        self._rows.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        return True

    def refuse(self, refusal: Refusal) -> None:
        """Notes what is broken; of several reasons the first is kept."""
        self._rows.execute("INSERT OR IGNORE INTO refusals VALUES (?, ?)", (refusal.name, refusal.reason))

    def items(self, state: str | None = None) -> Iterator[Item]:
        """Items (of one state, where it is given) in order of their names; their states may be set meanwhile."""
        query = f"SELECT {_ITEM} FROM items JOIN folders ON folder = id WHERE name > ? {_where(state)} ORDER BY name"
        last = ""
        while some := self._rows.execute(f"{query} LIMIT {_AT_ONCE}", (last, *_given(state))).fetchall():
            yield from map(_item, some)
            last = some[-1][0]

    def refusals(self) -> Iterator[Refusal]:
        """What is broken, in order of names."""
        query = f"SELECT name, reason FROM refusals WHERE name > ? ORDER BY name LIMIT {_AT_ONCE}"
        last = ""
        while some := self._rows.execute(query, (last,)).fetchall():
            yield from (Refusal(name=name, reason=reason) for name, reason in some)
            last = some[-1][0]

    def folders(self) -> list[str]:
        """URLs of the folders that items lie below."""
        return list(self._folders)

    def mark(self, names: Iterable[str], state: str) -> None:
        """Says what is to become of items."""
        self._rows.executemany("UPDATE items SET state = ? WHERE name = ?", ((state, name) for name in names))

    def fingerprint(self, name: str, state: str) -> str | None:
        """The fingerprint of an item; None where no item of this state has the name."""
        query = "SELECT fingerprint FROM items WHERE name = ? AND state = ?"
        found = self._rows.execute(query, (name, state)).fetchone()
        return None if found is None else str(found[0])

    def count(self, state: str) -> int:
        return int(self._rows.execute("SELECT count(*) FROM items WHERE state = ?", (state,)).fetchone()[0])

    def bytes(self, state: str) -> int:
        """The size of all items of a state."""
        found = self._rows.execute("SELECT sum(bytes) FROM items WHERE state = ?", (state,)).fetchone()[0]
        return int(found or 0)

    def _folder(self, url: str) -> int:
        if url not in self._folders:
            self._folders[url] = len(self._folders)
            self._rows.execute("INSERT INTO folders VALUES (?, ?)", (self._folders[url], url))
        return self._folders[url]


def _where(state: str | None) -> str:
    return "" if state is None else "AND state = ?"


def _given(state: str | None) -> tuple[str, ...]:
    return () if state is None else (state,)


def _item(row: tuple[Any, ...]) -> Item:
    name, url, head, files, size, fingerprint, kind, mark = row
    return Item(
        name=name,
        folder_url=url,
        head=head,
        files=tuple(json.loads(files)),
        bytes=size,
        fingerprint=fingerprint,
        format=kind,
        mark=mark,
    )
