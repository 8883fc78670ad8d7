"""The table of results: one row per finished fit, committed once, from which every figure can be made again.

A fit is named by its request: the digest of everything that decides its numbers. The Delta commit of a row carries
the request as its application transaction, so a restarted or concurrent evaluation adds nothing twice.

Results that are read hold 8 bytes for each unit and prediction column; whose units they are, truths and folds are held
once for all results that share them, which those of one task do.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xmae_dist.core.errors import IntegrityError
from xmae_dist.core.fingerprint import digest_json, sha256_hex
from xmae_dist.evaluate.scores.bootstrap import Interval, Predictions, Scored
from xmae_dist.evaluate.tasks import Task
from xmae_dist.storage import uri
from xmae_dist.storage.table import Table

SCHEMA = pa.schema(
    [
        ("request", pa.string()),
        ("suite", pa.string()),
        ("suite_title", pa.string()),
        ("task", pa.string()),
        ("task_json", pa.string()),
        ("encoder", pa.string()),
        ("encoder_id", pa.string()),
        ("role", pa.string()),
        ("store", pa.string()),
        ("seed", pa.int64()),
        ("n_replicates", pa.int64()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("scores_json", pa.string()),
        ("n_units", pa.int64()),
        ("n_subjects", pa.int64()),
        ("n_windows", pa.int64()),
        ("n_fits", pa.int64()),
        ("seconds", pa.float64()),
        ("penalties_json", pa.string()),
        ("predictions_digest", pa.string()),
        ("pred_columns", pa.int64()),
        ("pred_subject", pa.list_(pa.string())),
        ("pred_unit", pa.list_(pa.string())),
        ("pred_y", pa.list_(pa.float64())),
        ("pred_value", pa.list_(pa.float64())),
        ("pred_fold", pa.list_(pa.int64())),
        ("train_effect", pa.list_(pa.float64())),
        ("protocol", pa.string()),
        ("labelled_subjects", pa.int64()),
    ]
)
PREDICTION_COLUMNS = ("pred_subject", "pred_unit", "pred_y", "pred_value", "pred_fold", "train_effect")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One encoder on one task: headline and other scores with intervals, predictions, and how it came about."""

    request: str
    suite: str
    suite_title: str
    task: Task
    encoder: str
    encoder_id: str
    role: str
    store: str
    seed: int
    n_replicates: int
    scores: dict[str, Interval]
    n_windows: int
    n_fits: int
    seconds: float
    penalties: dict[int, float]
    unit_names: NDArray[np.str_]
    scored: Scored
    protocol: str = "linear"
    """linear, knn, few or finetune: see `run`."""
    labelled_subjects: int = 0
    """People with labels in each training side; 0: all of it."""

    @property
    def headline(self) -> Interval:
        return self.scores[self.task.metric]

    @property
    def n_subjects(self) -> int:
        return len(np.unique(self.scored.predictions.subject_N))

    def to_row(self) -> dict[str, Any]:
        p = self.scored.predictions
        return {
            "request": self.request,
            "suite": self.suite,
            "suite_title": self.suite_title,
            "task": self.task.name,
            "task_json": json.dumps(dataclasses.asdict(self.task)),
            "encoder": self.encoder,
            "encoder_id": self.encoder_id,
            "role": self.role,
            "store": self.store,
            "seed": self.seed,
            "n_replicates": self.n_replicates,
            "metric": self.task.metric,
            "value": self.headline.value,
            "low": self.headline.low,
            "high": self.headline.high,
            "scores_json": json.dumps({name: dataclasses.asdict(score) for name, score in self.scores.items()}),
            "n_units": len(p.y_N),
            "n_subjects": self.n_subjects,
            "n_windows": self.n_windows,
            "n_fits": self.n_fits,
            "seconds": self.seconds,
            "penalties_json": json.dumps(self.penalties),
            "predictions_digest": predictions_digest(p),
            "pred_columns": p.pred_NC.shape[1],
            "pred_subject": p.subject_N,
            "pred_unit": self.unit_names,
            "pred_y": p.y_N,
            "pred_value": p.pred_NC.ravel(),
            "pred_fold": p.fold_N,
            "train_effect": self.scored.train_Q,
            "protocol": self.protocol,
            "labelled_subjects": self.labelled_subjects,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Result":
        """Raises IntegrityError where predictions are not those that were committed."""
        fields: dict[str, Any] = json.loads(row["task_json"])
        fields = {k: _tuples(v) if isinstance(v, list) else v for k, v in fields.items()}
        task = Task(**fields)
        predictions = Predictions(
            subject_N=np.asarray(row["pred_subject"], dtype=np.str_),
            y_N=np.asarray(row["pred_y"], float),
            pred_NC=np.asarray(row["pred_value"], float).reshape(-1, row["pred_columns"]),
            fold_N=np.asarray(row["pred_fold"], np.int64),
        )
        if predictions_digest(predictions) != row["predictions_digest"]:
            raise IntegrityError(
                f"predictions of task {row['task']} by {row['encoder']!r}",
                value=predictions_digest(predictions),
                expected=f"digest {row['predictions_digest']}",
                fix="evaluate again with another --out",
            )
        same = (
            "request",
            "suite",
            "suite_title",
            "encoder",
            "encoder_id",
            "role",
            "store",
            "seed",
            "n_replicates",
            "n_windows",
            "n_fits",
            "seconds",
            "protocol",
            "labelled_subjects",
        )
        return cls(
            **{name: row[name] for name in same},
            task=task,
            scores={name: Interval(**score) for name, score in json.loads(row["scores_json"]).items()},
            penalties={int(k): v for k, v in json.loads(row["penalties_json"]).items()},
            unit_names=np.asarray(row["pred_unit"], dtype=np.str_),
            scored=Scored(predictions=predictions, train_Q=np.asarray(row["train_effect"], float)),
        )


class ResultTable:
    """The results of an evaluation, at `<out>/results` (Delta)."""

    def __init__(self, out_url: str) -> None:
        self.url = uri.join(out_url, "results")
        self._table = Table(self.url)

    def committed(self) -> set[str]:
        """Requests that need no fit."""
        if not self._table.exists():
            return set()
        return set(self._table.read(columns=["request"])["request"].to_pylist())

    def commit(self, result: Result) -> bool:
        """Append the row; False when this request was committed before, by whomever."""
        row = pa.Table.from_pylist([result.to_row()], schema=SCHEMA)
        lineage = {"request": result.request, "task": result.task.name, "encoder_id": result.encoder_id}
        return self._table.append(row, txn=(result.request, 1), metadata=lineage) is not None

    def version(self) -> int:
        """The newest version of the table. Raises StorageError where there is none."""
        return self._table.version()

    def encoders(self) -> list[str]:
        """The ids of the encoders that there are results of."""
        if not self._table.exists():
            return []
        return sorted(set(self._table.read(columns=["encoder_id"])["encoder_id"].to_pylist()))

    def read(self, requests: set[str] | None = None, *, encoders: set[str] | None = None) -> list[Result]:
        """Results in a fixed order; `requests` and `encoders` (ids) select some of them."""
        if not self._table.exists():
            return []
        found = [Result.from_row(row) for row in rows_of(self._table, requests, encoders=encoders)]
        return sorted(found, key=lambda r: (r.task.name, r.encoder, r.protocol, r.labelled_subjects, r.request))


def rows_of(table: Table, requests: set[str] | None, *, encoders: set[str] | None = None) -> list[dict[str, Any]]:
    """Rows of results as `Result.from_row` takes them, of some requests or encoders (ids) or of all; a row of the table
    at a time.
    """
    chosen = {"request": requests, "encoder_id": encoders}
    filters = [(column, "in", sorted(names)) for column, names in chosen.items() if names is not None]

    def read(batches: Iterator[pa.RecordBatch]) -> list[dict[str, Any]]:
        once = _Once()
        return [_row(batch, i, once) for batch in batches for i in range(len(batch))]

    return table.at(table.version()).collected(read, filters=filters or None)


class _Once:
    """Keeps one of arrays that are alike."""

    def __init__(self) -> None:
        self._held: dict[str, NDArray[Any]] = {}

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        return self._held.setdefault(sha256_hex(array.dtype.str.encode() + array.tobytes()), array)


def _row(batch: pa.RecordBatch, i: int, once: _Once) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        value = column[i]
        row[name] = once(_array(value.values)) if name in PREDICTION_COLUMNS else value.as_py()
    return row


def _array(values: pa.Array) -> NDArray[Any]:
    """A copy: the batch is let go."""
    if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
        return np.array(values.to_numpy(zero_copy_only=False))
    return np.asarray(values.to_pylist(), dtype=np.str_)


def request_id(**parts: Any) -> str:
    return digest_json(parts)


def predictions_digest(p: Predictions) -> str:
    """SHA-256 over subjects, truths, predictions and folds, so that others can check a recomputed figure."""
    return sha256_hex(
        "\n".join(p.subject_N.tolist()).encode() + p.y_N.tobytes() + p.pred_NC.tobytes() + p.fold_N.tobytes()
    )


def _tuples(value: list[Any]) -> tuple[Any, ...]:
    return tuple(_tuples(v) if isinstance(v, list) else v for v in value)
