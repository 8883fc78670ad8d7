"""The windows of an embedding table nearest to some of its windows: exact, every row looked at once.

Rows stream by in batches, of which the nearest so far are kept: memory is a batch (8,192 rows, as delta-rs reads them,
and a few of these ahead) and the answer. Time is that of reading the rows: 4 bytes a number of each embedding.

Legend: Q queries, N rows of a batch, E embedding width, K neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.embed.part import SCHEMA
from xmae_dist.embed.request import Encoder
from xmae_dist.storage.table import Filters, PinnedTable

DISTANCES = ("cosine", "euclidean")
_COLUMNS = ["subject_id", "recording_id", "cohort", "start_s", "quality", "embedding"]
_WHO = ["cohort", "recording_id", "start_s"]
_ROWS = pa.schema([SCHEMA.field(name) for name in _COLUMNS])


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A window near another. `distance`: 1 - cosine (0 to 2), or the Euclidean one."""

    distance: float
    cohort: str
    subject_id: str
    recording_id: str
    start_s: float
    quality: float


@dataclass(frozen=True, kw_only=True)
class Query:
    """Windows of one recording whose neighbours are sought."""

    window: Neighbour
    """The window itself; its distance is 0."""
    neighbours: tuple[Neighbour, ...]
    """Nearest first."""


def neighbours(
    table: PinnedTable,
    encoder: Encoder,
    *,
    cohort: str,
    recording_id: str,
    start_s: float | None = None,
    k: int = 10,
    distance: str = "cosine",
    cohorts: Sequence[str] = (),
    same_person: bool = False,
) -> list[Query]:
    """Of each window of a recording, or of the last that begins by `start_s`, the `k` nearest windows of other people.

    `cohorts`: look only among these. `same_person`: among the person's own other windows too. Raises InputError where
    the table has no such window, or nothing to look among.
    """
    asked = _asked(table, encoder, cohort, recording_id, start_s)
    query_QE = _directions(_matrix(asked), distance)
    filters: list[tuple[str, str, Any]] = [*_of(encoder), *([("cohort", "in", list(cohorts))] if cohorts else [])]
    best = table.collected(lambda rows: _nearest(rows, asked, query_QE, k, distance, same_person), _COLUMNS, filters)
    return [
        Query(window=_neighbour(row, 0.0), neighbours=tuple(_neighbour(one, value) for value, one in found))
        for row, found in zip(asked.select(_COLUMNS[:-1]).to_pylist(), best, strict=True)
    ]


def _of(encoder: Encoder) -> Filters:
    return [("model_id", "=", encoder.model_id), ("spec_id", "=", encoder.spec_id)]


def _asked(
    table: PinnedTable, encoder: Encoder, cohort: str, recording_id: str, start_s: float | None
) -> pa.RecordBatch:
    filters = [*_of(encoder), ("cohort", "=", cohort), ("recording_id", "=", recording_id)]
    found = table.collected(
        lambda batches: [pa.Table.from_batches([one]).cast(_ROWS) for one in batches], _COLUMNS, filters
    )
    rows = pa.concat_tables([_ROWS.empty_table(), *found]).sort_by("start_s")
    if start_s is not None:
        rows = rows.filter(pc.less_equal(rows["start_s"], start_s))
        rows = rows.slice(max(0, len(rows) - 1))
    if not len(rows):
        at = "" if start_s is None else f" at {start_s:g} s"
        raise InputError(
            f"recording {cohort}/{recording_id}",
            value=f"no window{at} by bundle {encoder.model_id}",
            expected="a recording that the table holds",
            fix="name cohort and recording as in the table; `xmae embed` embeds a cohort",
        )
    return rows.combine_chunks().to_batches()[0]


def _nearest(
    batches: Iterator[pa.RecordBatch],
    asked: pa.RecordBatch,
    query_QE: NDArray[np.float32],
    k: int,
    distance: str,
    same_person: bool,
) -> list[list[tuple[float, dict[str, Any]]]]:
    """Of each query the nearest rows and their distances."""
    best: list[list[tuple[float, dict[str, Any]]]] = [[] for _ in range(len(query_QE))]
    for batch in batches:
        rows = pa.Table.from_batches([batch]).cast(_ROWS).combine_chunks()
        if not len(rows):
            continue
        distance_QN = _distances(query_QE, _matrix(rows), distance)
        distance_QN[_left_out(asked, rows, same_person)] = np.inf
        chosen = np.argsort(distance_QN, axis=1, kind="stable")[:, :k]
        who = rows.select(_COLUMNS[:-1])
        for q, place_K in enumerate(chosen):
            found = who.take(pa.array(place_K)).to_pylist()
            values = distance_QN[q, place_K].tolist()
            near = [pair for pair in zip(values, found, strict=True) if pair[0] < np.inf]
            best[q] = sorted([*best[q], *near], key=lambda pair: (pair[0], *(pair[1][name] for name in _WHO)))[:k]
    return best


def _left_out(asked: pa.RecordBatch, rows: pa.Table, same_person: bool) -> NDArray[np.bool_]:
    """(Q, N): the query itself, and what is of its person unless that is wanted."""
    names = _WHO if same_person else ["subject_id"]
    same_QN = np.ones((len(asked), len(rows)), bool)
    for name in names:
        ours, theirs = (one[name].to_numpy(zero_copy_only=False) for one in (asked, rows))
        same_QN &= ours[:, None] == theirs[None, :]
    return same_QN


def _matrix(rows: pa.Table | pa.RecordBatch) -> NDArray[np.float32]:
    values = pc.list_flatten(rows["embedding"]).to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float32).reshape(len(rows), -1)


def _directions(x_NE: NDArray[np.float32], distance: str) -> NDArray[np.float32]:
    if distance != "cosine":
        return x_NE
    length_N = np.linalg.norm(x_NE, axis=1, keepdims=True)
    return np.asarray(x_NE / np.where(length_N > 0, length_N, 1.0), np.float32)


def _distances(query_QE: NDArray[np.float32], x_NE: NDArray[np.float32], distance: str) -> NDArray[np.float64]:
    if distance == "cosine":
        return 1.0 - (query_QE @ _directions(x_NE, distance).T).astype(float)
    squared_QN = (query_QE**2).sum(1)[:, None] + (x_NE**2).sum(1)[None] - 2.0 * (query_QE @ x_NE.T)
    return np.sqrt(np.maximum(squared_QN.astype(float), 0.0))


def _neighbour(row: dict[str, Any], distance: float) -> Neighbour:
    return Neighbour(distance=distance, **row)
