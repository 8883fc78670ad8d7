"""People out of an evaluation: their predictions out of the tables of results, their embeddings out of the cache.

Scores and intervals are computed again from the predictions of those who stay, so that a row is whole: its figures
are those of the predictions beside them. What an earlier report or promotion said of the people there were stands in
that report and in the log of the promotion.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.evaluate.results import SCHEMA, Result
from xmae_dist.evaluate.run import draws_of, scores_of
from xmae_dist.evaluate.transfer.requests import CELL_SCHEMA
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.sweep import vacuum_table
from xmae_dist.storage.table import Table

_TABLES = {"results": SCHEMA, "transfer": CELL_SCHEMA}
_REPORTED = "report"


def take_out(out_url: str, subjects: Collection[str]) -> int:
    """Takes predictions of `subjects` out of the results under `out_url`, and out of the Parquet beside its report; a
    commit for each request that has some. Returns how many requests had. Held in memory: the rows of one request.
    """
    gone = frozenset(subjects)
    changed = 0
    for name, schema in _TABLES.items():
        table = Table(uri.join(out_url, name))
        for request in _requests_with(table, gone):
            table.rewrite(
                [("request", "=", request)], _without(gone, schema), {"xmae_operation": "withdraw", "request": request}
            )
            changed += 1
    for name in _TABLES:
        _rewrite_report(uri.join(out_url, _REPORTED, f"{name}.parquet"), gone)
    return changed


def vacuum_evaluation(out_url: str, *, grace_s: float) -> int:
    """Removes what is older than the grace period: files of tables that no version of that time needs, and the cache of
    embeddings, whose blocks do not say whose they are and are made again when they are asked for. Returns how many
    objects went.
    """
    tables = (Table(uri.join(out_url, name)) for name in _TABLES)
    files = sum(vacuum_table(table, grace_s=grace_s) for table in tables)
    until_s = time.time() - grace_s
    blocks = [one for one in uri.list_details(uri.join(out_url, "embeddings")) if one.modified_s <= until_s]
    for block in blocks:
        uri.delete(block.url)
    return files + len(blocks)


def _requests_with(table: Table, gone: Collection[str]) -> list[str]:
    if not table.exists():
        return []
    wanted = pa.array(sorted(gone), pa.string())

    def found(batches: Iterator[pa.RecordBatch]) -> set[str]:
        return {
            batch["request"][row].as_py()
            for batch in batches
            for row in range(batch.num_rows)
            if pc.any(pc.is_in(batch["pred_subject"][row].values, value_set=wanted)).as_py()
        }

    return sorted(table.at().collected(found, ["request", "pred_subject"]))


def _without(gone: Collection[str], schema: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    def transform(rows: pa.Table) -> pa.Table:
        kept = [row for row in (_row_without(row, gone) for row in rows.to_pylist()) if row["pred_subject"]]
        return pa.Table.from_pylist(kept, schema=schema)

    return transform


def _row_without(row: Mapping[str, Any], gone: Collection[str]) -> dict[str, Any]:
    """A row of results without the units of some people, scored anew; other columns of it stay."""
    result = Result.from_row(row)
    predictions = result.scored.predictions
    stays = ~np.isin(predictions.subject_N, sorted(gone))
    left = dataclasses.replace(
        predictions,
        subject_N=predictions.subject_N[stays],
        y_N=predictions.y_N[stays],
        pred_NC=predictions.pred_NC[stays],
        fold_N=predictions.fold_N[stays],
    )
    scored, scores = dataclasses.replace(result.scored, predictions=left), result.scores
    if 0 < stays.sum() < len(stays):
        draws_RS = draws_of(result.task, len(np.unique(left.subject_N)), result.seed, result.n_replicates)
        scores = scores_of(result.task, scored, draws_RS)
    changed = dataclasses.replace(result, unit_names=result.unit_names[stays], scored=scored, scores=scores)
    fields = changed.to_row()
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()}
    return {**row, **plain}


def _rewrite_report(url: str, gone: Collection[str]) -> None:
    """The file of a report has columns of its own beside those of the table: they stay."""
    if not uri.exists(url):
        return
    rows = parquet.decode(uri.read_bytes(url))
    if pc.any(pc.is_in(pc.list_flatten(rows["pred_subject"]), value_set=pa.array(sorted(gone), pa.string()))).as_py():
        uri.write_bytes(url, parquet.encode(_without(gone, rows.schema)(rows)))
