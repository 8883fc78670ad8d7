"""`results.parquet`: a row for each fit, with all that its figures can be computed from again (xmae-results/v2).

The columns of the table of results, and
pretrained_subjects    people of the task in the train split of the encoder's pretraining; null where that is not known
pretraining_overlap    the same as a share of the people of the task
environment_json       versions and processor that it was made with; null where none were noted

Files of version 1 have the first columns alone and name no format. Files of others need the columns of `REQUIRED`: what
else there is in a row is then computed from its predictions, or empty.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.evaluate.encoders.pretrained import Pretrained
from xmae_dist.evaluate.results import SCHEMA, Result
from xmae_dist.evaluate.run import draws_of, scores_of
from xmae_dist.evaluate.scores.bootstrap import Interval
from xmae_dist.storage import parquet, uri

FORMAT = "xmae-results/v2"
ROWS_SCHEMA = pa.schema(
    [
        *SCHEMA,
        ("pretrained_subjects", pa.int64()),
        ("pretraining_overlap", pa.float64()),
        ("environment_json", pa.string()),
    ],
    metadata={"format": FORMAT},
)
REQUIRED = (
    *("encoder", "task_json", "pred_columns", "pred_subject", "pred_unit", "pred_y", "pred_value", "pred_fold"),
    "predictions_digest",
)
"""What a row of others must have; docs/evaluation.md says what they mean."""
_OTHERWISE: dict[str, Any] = {
    **dict.fromkeys(("suite", "suite_title", "store"), ""),
    **dict.fromkeys(("seed", "n_windows", "n_fits", "seconds", "labelled_subjects"), 0),
    "role": "encoder",
    "protocol": "linear",
    "n_replicates": 1000,
    "penalties_json": "{}",
    "train_effect": (),
}
_CLOSE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Told:
    """A result as a file tells it, its headline computed again."""

    result: Result
    overlap: float | None
    """Share of the task's people in the train split of the encoder's pretraining; None: not stated."""
    environment: Mapping[str, str] | None
    source: str
    """URL of the file."""


def encoded(
    results: Iterable[Result], known: Mapping[str, Pretrained], environments: Mapping[str, Mapping[str, str]]
) -> bytes:
    """The file. `known` by identity of the encoder, `environments` by request."""
    rows = [{**one.to_row(), **beside(one, known, environments)} for one in results]
    return parquet.encode(pa.Table.from_pylist(rows, schema=ROWS_SCHEMA))


def beside(
    result: Result, known: Mapping[str, Pretrained], environments: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """The columns that a file has and the table of results has not."""
    made_with = environments.get(result.request)
    told = None if made_with is None else json.dumps(made_with, sort_keys=True)
    return {**seen(result, known), "environment_json": told}


def seen(result: Result, known: Mapping[str, Pretrained]) -> dict[str, Any]:
    """How many of the task's people, and which share, were in the train split of the encoder's pretraining."""
    one = known.get(result.encoder_id, Pretrained(trained=True))
    people = one.people(result.scored.predictions.subject_N)
    share = None if people is None else people / result.n_subjects
    return {"pretrained_subjects": people, "pretraining_overlap": share}


def read(url: str) -> Iterator[Told]:
    """The rows of a file, one at a time.

    Raises InputError for a file that lacks a column, IntegrityError where predictions are not those of their digest, or
    a stated headline is not that of the predictions.
    """
    data = uri.read_bytes(url)
    stated = parquet.metadata(data).get(b"format", FORMAT.encode()).decode()
    if stated != FORMAT:
        raise InputError(
            url, value=f"format {stated}", expected=FORMAT, fix="use the version of xmae_dist that wrote it"
        )
    table = parquet.decode(data)
    missing = [name for name in REQUIRED if name not in table.column_names]
    if missing:
        raise InputError(
            url,
            value=f"no column {', '.join(missing)}",
            expected=f"columns {', '.join(REQUIRED)}",
            fix="name results.parquet of `xmae evaluate` or `xmae report`, or add them (docs/evaluation.md)",
        )
    for batch in table.to_batches(max_chunksize=1):
        yield _told(batch.to_pylist()[0], url)


def _told(row: dict[str, Any], url: str) -> Told:
    own = {"request": row["predictions_digest"], "encoder_id": row["encoder"], "scores_json": "{}"}
    result = Result.from_row({**_OTHERWISE, **own, **row})
    headline = recomputed(result)
    if (stated := row.get("value")) is not None and abs(stated - headline.value) > _CLOSE * max(1.0, abs(stated)):
        raise IntegrityError(
            f"{url}: {result.task.metric} of {result.encoder!r} on task {result.task.name}",
            value=stated,
            expected=f"{headline.value}, that of the predictions beside it",
            fix="make the file again",
        )
    return Told(
        result=dataclasses.replace(result, scores={**result.scores, result.task.metric: headline}),
        overlap=row.get("pretraining_overlap"),
        environment=json.loads(row["environment_json"]) if row.get("environment_json") else None,
        source=url,
    )


def recomputed(result: Result) -> Interval:
    """The headline score and its interval from predictions; not widened where the effect of training is unknown."""
    metric, n_subjects = result.task.metric, len(np.unique(result.scored.predictions.subject_N))
    draws_RS = draws_of(result.task, n_subjects, result.seed, result.n_replicates)
    return scores_of(result.task, result.scored, draws_RS, (metric,))[metric]
