"""What the log of a Delta table still says of data files that are gone: least and greatest values, and predicates.

A log keeps statistics of every file that ever was, and so the names of people whose rows went long ago; a deletion
keeps its predicate, which names them outright. Both serve readers of files that are there, and nobody else. So what
removes files takes this out of the log first: entries of the log and checkpoints are written again without it, each by
one put. Which files a version has, what commits state, and the order of commits stay as they are.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.fingerprint import canonical_json
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.table import Table

_ENTRY = re.compile(r"/(\d{20})\.json$")
_CHECKPOINT = re.compile(r"/(\d{20})\.checkpoint[^/]*\.parquet$")
_AT_ONCE = 16
_WITHHELD = "withheld"


def forget_files(table: Table, paths: Collection[str], *, everywhere: bool = False) -> int:
    """Takes out of the log what it says of the values in files at `paths`, which are relative to the table and not
    quoted; returns how many objects were written again. To be called before the files are removed: a call that was
    interrupted is then made again with the same paths.

    Entries are read from the newest back until all of the files were met. With `everywhere` all are read, and files
    that are not there any more are forgotten too, as those that went before there was this. A request for each entry,
    and a put for each that is written again; checkpoints are read whole, some 500 bytes a file.
    """
    if not paths and not everywhere:
        return 0
    gone = _Gone(paths=set(paths), there=_data_files(table) - set(paths) if everywhere else None)
    log = uri.list_urls(uri.join(table.url, "_delta_log"))
    checkpoints = [url for url in log if _CHECKPOINT.search(url)]
    if checkpoints:  # readers go by the newest one's size: a newer one is made, and those before it written again
        table.checkpoint()
    written = _rewrite_entries([url for url in log if _ENTRY.search(url)], gone)
    return written + sum(_rewrite_checkpoint(url, gone) for url in checkpoints)


def _data_files(table: Table) -> set[str]:
    return {one.url.removeprefix(table.url).lstrip("/") for one in uri.list_details(table.url)}


@dataclass(frozen=True, kw_only=True)
class _Gone:
    """Which files are gone, or are about to be."""

    paths: set[str]
    there: set[str] | None
    """All that stay; None: only `paths` are gone."""

    def __contains__(self, quoted: str) -> bool:
        path = urllib.parse.unquote(quoted)
        return path in self.paths if self.there is None else path not in self.there


def _rewrite_entries(urls: Sequence[str], gone: _Gone) -> int:
    met: set[str] = set()
    written = 0
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="log-erasure") as pool:
        for first in range(len(urls), 0, -_AT_ONCE):
            some = urls[max(0, first - _AT_ONCE) : first]
            for url, data in zip(reversed(some), pool.map(uri.read_bytes, reversed(some)), strict=True):
                actions = [json.loads(line) for line in data.splitlines()]
                met.update(urllib.parse.unquote(one["add"]["path"]) for one in actions if "add" in one)
                if _forget_in_entry(actions, gone):
                    uri.write_bytes(url, b"\n".join(json.dumps(one).encode() for one in actions))
                    written += 1
            if gone.there is None and gone.paths <= met:
                break
    return written


def _forget_in_entry(actions: Iterable[dict[str, Any]], gone: _Gone) -> bool:
    """Changes the actions of one commit; whether anything was there to forget."""
    changed = False
    takes_away = any("remove" in one and one["remove"]["path"] in gone for one in actions)
    for one in actions:
        file = one.get("add") or one.get("remove")
        if file and file["path"] in gone and (counted := _counted(file.get("stats"))) != file.get("stats"):
            file["stats"] = counted
            changed = True
        asked = one.get("commitInfo", {}).get("operationParameters", {})
        if takes_away and asked.get("predicate") not in (None, _WITHHELD):
            asked["predicate"] = _WITHHELD
            changed = True
    return changed


def _counted(stats: str | None) -> str | None:
    """Statistics of a file without the values in it."""
    if not stats:
        return stats
    known = json.loads(stats)
    if not {"minValues", "maxValues"} & set(known):
        return stats
    return canonical_json({"numRecords": known.get("numRecords")}).decode()


def _rewrite_checkpoint(url: str, gone: _Gone) -> bool:
    rows = parquet.decode(uri.read_bytes(url))
    added = rows["add"].combine_chunks()
    files = zip(*(pc.struct_field(added, name).to_pylist() for name in ("path", "stats")), strict=True)
    before = pc.struct_field(added, "stats").to_pylist()
    after = [_counted(stats) if path is not None and path in gone else stats for path, stats in files]
    if after == before:
        return False
    again = pa.StructArray.from_arrays(
        [pa.array(after, one.type) if one.name == "stats" else added.field(one.name) for one in added.type],
        fields=list(added.type),
        mask=pc.is_null(added),
    )
    position = rows.schema.get_field_index("add")
    uri.write_bytes(url, parquet.encode(rows.set_column(position, rows.schema.field("add"), again)))
    return True
