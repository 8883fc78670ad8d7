"""Entries of a Delta log made of whole files: some added, some taken away, in one commit.

delta-rs commits files that others wrote only by adding them to all there are, or in place of all of a partition; here
files are replaced one by one. The entry follows the protocol's writer version 2: JSON lines of `commitInfo`, `txn`,
`remove` and `add`.
"""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A data file of a table, as its log names it."""

    path: str
    """Relative to the table, percent-encoded as the log has it."""
    bytes: int
    partition: Mapping[str, str]
    rows: int
    stats: str = ""
    """JSON of the protocol: `numRecords`, `minValues`, `maxValues`, `nullCount`."""

    def url(self, table_url: str) -> str:
        return uri.join(table_url, urllib.parse.unquote(self.path))


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """What one commit does to the files of a table."""

    add: Sequence[DataFile] = ()
    remove: Sequence[DataFile] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for a file that is both added and taken away: readers of the log would not see it."""
        if both := {one.path for one in self.add} & {one.path for one in self.remove}:
            raise ValueError(f"added and taken away by one commit: {sorted(both)}")


def statistics(rows: pa.Table, columns: Sequence[str]) -> str:
    """The statistics of a data file with these rows: of `columns`, which are strings, integers or finite floats."""
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    for name in columns:
        ends = pc.min_max(rows[name]).as_py()
        if ends["min"] is not None:
            least[name], greatest[name] = ends["min"], ends["max"]
    nulls = {name: rows[name].null_count for name in columns}
    return json.dumps({"numRecords": len(rows), "minValues": least, "maxValues": greatest, "nullCount": nulls})


def log_entry(
    change: FileChange, *, base: int, metadata: Mapping[str, Any], transactions: Sequence[tuple[str, int]]
) -> bytes:
    """The JSON lines of a commit on top of version `base`."""
    now_ms = int(time.time() * 1000)
    return "\n".join(json.dumps(action) for action in _actions(change, base, metadata, transactions, now_ms)).encode()


def _actions(
    change: FileChange, base: int, metadata: Mapping[str, Any], transactions: Sequence[tuple[str, int]], now_ms: int
) -> Iterator[dict[str, Any]]:
    yield {
        "commitInfo": {
            "timestamp": now_ms,
            "operation": "WRITE",
            "operationParameters": {"mode": "Overwrite" if change.remove else "Append"},
            "readVersion": base,
            "isBlindAppend": False,
            "engineInfo": "xmae_dist",
            **metadata,
        }
    }
    for app_id, version in transactions:
        yield {"txn": {"appId": app_id, "version": version, "lastUpdated": now_ms}}
    for one in change.remove:
        yield {
            "remove": {
                "path": one.path,
                "deletionTimestamp": now_ms,
                "dataChange": True,
                "extendedFileMetadata": True,
                "partitionValues": dict(one.partition),
                "size": one.bytes,
            }
        }
    for one in change.add:
        yield {
            "add": {
                "path": one.path,
                "partitionValues": dict(one.partition),
                "size": one.bytes,
                "modificationTime": now_ms,
                "dataChange": True,
                "stats": one.stats,
            }
        }
