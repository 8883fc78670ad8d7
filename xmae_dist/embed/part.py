"""Data files of the table: rows as Parquet below the table's partition folders, before any commit names them.

    <table>/model_id=<model>/cohort=<cohort>/<request>-<key>-<sha256>.parquet

A file exists whole or not at all. What stands in it was checked by whoever wrote it; a commit adds it by name, size and
statistics alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.file_actions import DataFile, statistics

PARTITION_BY = ("model_id", "cohort")
SCHEMA = pa.schema(
    [
        ("subject_id", pa.string()),
        ("recording_id", pa.string()),
        ("cohort", pa.string()),
        ("start_s", pa.float64()),
        ("start_time_ns", pa.int64()),
        ("quality", pa.float32()),
        # A list: Delta knows no fixed size, and Polars refuses files whose type is not the table's.
        ("embedding", pa.list_(pa.float32())),
        ("model_id", pa.string()),
        ("spec_id", pa.string()),
    ]
)
"""Columns of the embedding table, a row a window; docs/embedding-table.md says what they mean."""
_WITH_STATISTICS = ("subject_id", "recording_id", "start_s", "start_time_ns", "quality", "spec_id")


def refuse_other_table(found: pa.Schema, table_url: str) -> None:
    """Raises InputError for a table whose rows are no embeddings; columns that others added are let be."""
    for wanted in SCHEMA:
        column = found.field(wanted.name) if wanted.name in found.names else None
        if column is None or _kind(column.type) != _kind(wanted.type):
            told = "no such column" if column is None else f"of type {column.type}"
            raise InputError(
                f"table {table_url}",
                value=f"column {wanted.name!r}: {told}",
                expected=f"an embedding table, where it is of type {wanted.type}",
                fix="name the table that `xmae embed` made, or a place where there is none yet",
            )


def _kind(kind: pa.DataType) -> str:
    """A type as readers see it: libraries call the values of a list by different names."""
    return f"list of {_kind(kind.value_type)}" if pa.types.is_list(kind) else str(kind)


def put_part(
    table_url: str, rows: pa.Table, partition: Mapping[str, str], *, request: str, key: str
) -> DataFile | None:
    """Writes rows of one partition (SCHEMA); None, and nothing written, for no rows. Memory: the file, twice.

    Raises IntegrityError for a window that stands twice, or a value that is not finite.
    """
    if not rows.num_rows:
        return None
    _check(rows, key)
    inside = rows.drop_columns(list(PARTITION_BY))
    data = parquet.encode(inside)
    folder = "/".join(f"{column}={_folder_name(partition[column])}" for column in PARTITION_BY)
    path = f"{folder}/{request}-{key}-{sha256_hex(data)[:32]}.parquet"
    uri.write_bytes(uri.join(table_url, path), data)
    stats = statistics(inside, _WITH_STATISTICS)
    return DataFile(path=path, bytes=len(data), partition=dict(partition), rows=len(rows), stats=stats)


def _folder_name(value: str) -> str:
    """Readers take partition values from the log; names of folders are for people, and need no quoting in a URL."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", value)


def _check(rows: pa.Table, key: str) -> None:
    windows = rows.group_by(["recording_id", "start_s"]).aggregate([([], "count_all")])
    if len(windows) != len(rows):
        raise _broken(key, f"{len(rows) - len(windows)} duplicate windows", "each window once")
    infinite = pc.sum(pc.invert(pc.is_finite(pc.list_flatten(rows["embedding"])))).as_py()
    if infinite:
        raise _broken(key, f"{infinite} values that are not finite", "finite values")


def _broken(key: str, value: str, expected: str) -> IntegrityError:
    return IntegrityError(
        f"embeddings of batch {key}", value=value, expected=expected,
        fix="check the bundle with `xmae evaluate`; nothing was committed",
    )  # fmt: skip
