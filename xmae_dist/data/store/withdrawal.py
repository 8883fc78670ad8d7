"""Window stores that hold withdrawn people, and how such a store goes.

A store is named by what it was made of, and its ids count on from part to part: nobody can be taken out of one. It goes
as a whole, and `xmae windows` makes one of the newest snapshot. A part of a job that died may hold windows and not yet
say whose, so what such a job left goes too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.data.store.kept import SOURCES
from xmae_dist.data.store.part_index import is_complete
from xmae_dist.storage import parquet, uri

_TELLS_OF_ALL, _TELLS_OF_KEPT = SOURCES, "meta.parquet"


def stores_with(url: str, recordings: Collection[tuple[str, str]], *, until_s: float) -> Iterator[str]:
    """URLs of the stores that hold windows of one of `recordings` (cohort, name), or dropped all that it has, and of
    stores that are not complete and have no object younger than `until_s` (seconds since 1970): the store at `url`, or
    those directly below it. A listing of each store, and up to three requests for each of its parts.
    """
    wanted = pa.array(["\0".join(one) for one in sorted(recordings)], pa.string())
    for store in _stores_at(uri.checked_place(url)):
        if _is_dead(store, until_s) or any(
            pc.any(pc.is_in(names, value_set=wanted)).as_py() for names in _recordings_of(store)
        ):
            yield store


def remove_store(url: str) -> None:
    """Removes a store. From the first object on it opens no more; `stores_with` finds one whose removal was interrupted
    until its last object is gone.
    """
    uri.delete(uri.join(url, "index"), recursive=True)
    last = uri.join(url, "store.json")
    for one in uri.list_urls(url, recursive=True):
        if one != last:
            uri.delete(one)
    uri.delete(last)


def _stores_at(url: str) -> list[str]:
    if uri.exists(uri.join(url, "store.json")):
        return [url]
    return [below for below in uri.list_urls(url) if uri.exists(uri.join(below, "store.json"))]


def _is_dead(store: str, until_s: float) -> bool:
    fingerprint = json.loads(uri.read_bytes(uri.join(store, "store.json")))["fingerprint"]
    if is_complete(store, fingerprint):
        return False
    return all(one.modified_s <= until_s for one in uri.list_details(store))


def _recordings_of(store: str) -> Iterator[pa.ChunkedArray]:
    """Cohort and name of the recordings of each part, the dropped ones among them where the part tells of these."""
    parts: dict[str, set[str]] = {}
    for one in uri.list_urls(uri.join(store, "parts"), recursive=True):
        part, _, name = one.rpartition("/")
        parts.setdefault(part, set()).add(name)
    for part, names in sorted(parts.items()):
        for name in (_TELLS_OF_ALL, _TELLS_OF_KEPT):
            if name in names:
                rows = parquet.read_columns(uri.join(part, name), ["cohort", "recording_id"])
                yield pc.binary_join_element_wise(rows["cohort"], rows["recording_id"], "\0")
                break
