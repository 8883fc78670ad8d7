"""The index of a window store: a Delta table with a row per part. Its one commit makes the store visible.

A row says what the part holds (`n_windows`, `first_id`, `dropped`), whom (the first and last of its subjects, in the
order of their names), and where its bytes lie: the size of its `meta.parquet`, and the stored size of every chunk of
its arrays. Readers that have these ask a far store for chunks and for nothing else. `store.json` tells the version of
the index: 2, or none where it was made before; then subjects are looked for in all parts, and each array is asked for
its layout.

Cost: 4 bytes a chunk and signal, 0.13 bytes a window in chunks of 64, read as one column by whoever reads signals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from xmae_dist.data.windows.split import SPLITS
from xmae_dist.storage import uri
from xmae_dist.storage.table import Table

VERSION = 2
SIGNALS = ("ecg", "ppg")
_BYTES = pa.list_(pa.field("element", pa.int32()))
_SCHEMA = pa.schema(
    [
        pa.field("cohort", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("n_windows", pa.int64(), nullable=False),
        pa.field("first_id", pa.int64(), nullable=False),
        pa.field("n_recordings", pa.int64(), nullable=False),
        pa.field("n_subjects", pa.int64(), nullable=False),
        pa.field("dropped", pa.map_(pa.string(), pa.int64())),
        pa.field("first_subject", pa.string()),
        pa.field("last_subject", pa.string()),
        pa.field("meta_bytes", pa.int64()),
        *(pa.field(f"{signal}_chunk_bytes", _BYTES) for signal in SIGNALS),
    ]
)
_CHUNK_COLUMNS = tuple(f"{signal}_chunk_bytes" for signal in SIGNALS)
SUBJECTS_AND_SIZE = ("first_subject", "last_subject", "meta_bytes")


def transaction(fingerprint: str) -> str:
    """The application id of the one commit that makes a store visible."""
    return f"windows:{fingerprint}"


def is_complete(url: str, fingerprint: str) -> bool:
    """Whether the commit was made; an index without it is the trace of a job that died."""
    return _table(url).transaction_version(transaction(fingerprint)) is not None


def commit_index(url: str, fingerprint: str, rows: list[dict[str, Any]]) -> None:
    """Numbers the windows of all parts and makes the store visible, in one commit.

    `rows` are what `part.finish_part` returned: columns of the index less `first_id`, and `chunk_bytes`, the stored
    sizes of chunks by signal.
    """
    rows.sort(key=lambda row: (SPLITS.index(row["split"]), row["cohort"], row["part"]))
    first_id = 0
    for row in rows:
        row["first_id"] = first_id
        first_id += row["n_windows"]
    _table(url).append(_arrow(rows), txn=(transaction(fingerprint), 1))


def _arrow(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    plain = [{**row, "dropped": list(row["dropped"].items())} for row in rows]
    kept = [field for field in _SCHEMA if field.name not in _CHUNK_COLUMNS]
    table = pa.Table.from_pylist(plain, schema=pa.schema(kept))
    for signal, column in zip(SIGNALS, _CHUNK_COLUMNS, strict=True):
        sizes = [np.asarray((row.get("chunk_bytes") or {}).get(signal, ()), np.int32) for row in rows]
        ends = np.cumsum([0, *map(len, sizes)], dtype=np.int32)
        flat = np.concatenate(sizes) if sizes else np.empty(0, np.int32)
        table = table.append_column(_SCHEMA.field(column), pa.ListArray.from_arrays(ends, flat, type=_BYTES))
    return table


def read_index(url: str, version: int) -> pa.Table:
    """The parts in the order of their ids, all columns but the sizes of chunks; null where version 1 does not say."""
    if version < VERSION:
        table = _table(url).read()
        for name in SUBJECTS_AND_SIZE:
            table = table.append_column(_SCHEMA.field(name), pa.nulls(table.num_rows, _SCHEMA.field(name).type))
    else:
        table = _table(url).read(columns=[field.name for field in _SCHEMA if field.name not in _CHUNK_COLUMNS])
    return table.sort_by([("first_id", "ascending"), ("n_windows", "ascending")]).combine_chunks()


@dataclass(frozen=True, kw_only=True)
class ChunkSizes:
    """Stored sizes of the chunks of one signal, of all parts that hold windows, in the order of their ids."""

    sizes: np.ndarray
    """int32, part after part."""
    stops_P: np.ndarray
    """Place behind the last chunk of each part."""

    def of(self, part: int) -> np.ndarray:
        return self.sizes[self.stops_P[part - 1] if part else 0 : self.stops_P[part]]


def read_chunk_sizes(url: str, first_ids_P: np.ndarray, n_chunks_P: np.ndarray) -> dict[str, ChunkSizes]:
    """By signal; those of an index of version 2, whose parts with windows begin with these ids and have so many chunks.

    Held beside them while they are read: a few batches of the index.
    """
    stops_P = np.cumsum(n_chunks_P)
    table = _table(url)

    def placed(batches: Iterable[pa.RecordBatch]) -> dict[str, ChunkSizes]:
        total = int(stops_P[-1]) if stops_P.size else 0
        found = {signal: ChunkSizes(sizes=np.zeros(total, np.int32), stops_P=stops_P) for signal in SIGNALS}
        for batch in batches:
            rows = np.flatnonzero(batch["n_windows"].to_numpy() > 0)
            part_R = np.searchsorted(first_ids_P, batch["first_id"].to_numpy()[rows])
            for signal, column in zip(SIGNALS, _CHUNK_COLUMNS, strict=True):
                for row, part in zip(rows.tolist(), part_R.tolist(), strict=True):
                    own = batch[column][row].values
                    if len(own):  # none of a signal that is not kept
                        found[signal].of(part)[:] = own.to_numpy()
        return found

    columns = ["first_id", "n_windows", *_CHUNK_COLUMNS]
    return table.at(table.version()).collected(placed, columns)


def _table(url: str) -> Table:
    return Table(uri.join(url, "index"))
