"""What is compared of a result: its score, and how it moves with people. Kept as a small file an arm, beside the rows.

A result has a prediction of every unit, megabytes an arm, and stays where it was made. Paired intervals need less: the
score under each draw of people, which is the same draw for all arms (`evaluate.scores.bootstrap`), and the effect of
each on training. These are committed, so that a study goes on, and its page is made again, on another machine.

Shapes: R draws of people, Q of them with an effect on training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xmae_dist.evaluate.results import Result, predictions_digest
from xmae_dist.evaluate.run import draws_of
from xmae_dist.evaluate.scores.bootstrap import Interval, interval, replicates, stretch
from xmae_dist.evaluate.scores.metrics import METRICS

_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("request", "suite", "task", "metric", "encoder", "predictions_digest")),
        *((name, pa.int64()) for name in ("n_units", "n_subjects")),
        *((name, pa.float64()) for name in ("value", "low", "high")),
        *((name, pa.list_(pa.float32())) for name in ("test_R", "train_Q")),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """One encoder on one task."""

    request: str
    """Of the result that it is of, whose predictions have this digest."""
    suite: str
    task: str
    metric: str
    encoder: str
    predictions_digest: str
    n_units: int
    n_subjects: int
    value: float
    low: float
    high: float
    test_R: NDArray[np.float32]
    """The score under each draw of people."""
    train_Q: NDArray[np.float32]

    @classmethod
    def of(cls, result: Result) -> Score:
        predictions = result.scored.predictions
        draws_RS = draws_of(result.task, result.n_subjects, result.seed, result.n_replicates)
        return cls(
            request=result.request,
            suite=result.suite,
            task=result.task.name,
            metric=result.task.metric,
            encoder=result.encoder,
            predictions_digest=predictions_digest(predictions),
            n_units=len(predictions.y_N),
            n_subjects=result.n_subjects,
            value=result.headline.value,
            low=result.headline.low,
            high=result.headline.high,
            test_R=replicates(result.task.metric, predictions, draws_RS).astype(np.float32),
            train_Q=result.scored.train_Q.astype(np.float32),
        )


def write(path: Path, scores: Iterable[Score]) -> None:
    """The scores of an arm, complete or not there."""
    rows: list[dict[str, Any]] = [{name: getattr(one, name) for name in _SCHEMA.names} for one in scores]
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), partial, compression="zstd")
    partial.replace(path)


def read(path: Path) -> list[Score]:
    """Those of an arm. Raises OSError where the file is not there, or not such a file."""
    rows = pq.read_table(path, schema=_SCHEMA).to_pylist()
    for row in rows:
        row |= {name: np.asarray(row[name], np.float32) for name in ("test_R", "train_Q")}
    return [Score(**row) for row in rows]


def difference(a: Sequence[Score], b: Sequence[Score]) -> Interval:
    """Score of `a` less that of `b`, each a mean over seeds, on the same units and draws; positive: `a` is better.

    The interval is over people; what seeds do is in it only so far as it is in their mean.
    """
    sign = 1.0 if METRICS[a[0].metric].higher_is_better else -1.0
    mine, others = _mean(a), _mean(b)
    value, test_R, train_Q = (sign * (one - other) for one, other in zip(mine, others, strict=True))
    return interval(float(value), test_R, stretch(test_R, train_Q), null=0.0)


def _mean(group: Sequence[Score]) -> tuple[NDArray[np.float64], ...]:
    """Score, its draws and its training effect, over seeds."""
    columns = [[one.value for one in group], [one.test_R for one in group], [one.train_Q for one in group]]
    return tuple(np.mean(np.asarray(column, float), axis=0) for column in columns)
