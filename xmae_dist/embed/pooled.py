"""One vector a person or recording, from the windows of an embedding table.

Rows stream by once; of each person or recording the moments so far are kept. Memory: 32 bytes a feature for each person
of all cohorts, or for each recording of one cohort at a time (410 MB for 50,000 recordings of 256 features), and a few
batches of rows.

Legend: N people or recordings, K windows of a batch, U of its people or recordings, E features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xmae_dist.core import moments
from xmae_dist.core.errors import InputError, some_of
from xmae_dist.embed.part import SCHEMA
from xmae_dist.embed.request import Encoder
from xmae_dist.storage.table import Filters, PinnedTable

By = Literal["subject", "recording"]
Pooling = Literal["mean", "moments"]
KEYS: dict[By, tuple[str, ...]] = {"subject": ("subject_id",), "recording": ("cohort", "subject_id", "recording_id")}


def pooled(
    table: PinnedTable,
    encoder: Encoder,
    *,
    by: By,
    pooling: Pooling = "mean",
    cohorts: Sequence[str] = (),
    min_quality: float = 0.0,
) -> Iterator[tuple[str, pa.Table]]:
    """(name, rows) of each file: one for all people, or one a cohort for recordings, sorted by their keys.

    A row has the keys, `windows`, their mean `quality`, and `embedding`: the mean of its windows' (E), or by `moments`
    mean, standard deviation, least and largest of each feature (4 E). Raises InputError for a cohort that the table
    does not hold, and where no window is left.
    """
    there = table.partition_values("cohort")
    if unknown := sorted(set(cohorts) - set(there)):
        raise InputError(
            "cohorts", value=some_of(unknown), expected=f"cohorts of the table: {some_of(there)}", fix="leave them out"
        )
    held = [name for name in there if not cohorts or name in cohorts]
    found = False
    for name, among in [("subjects", held)] if by == "subject" else [(one, [one]) for one in held]:
        rows = table.collected(
            lambda batches: _rows_of(batches, KEYS[by], pooling),
            [*KEYS[by], "quality", "embedding"],
            _wanted(encoder, among, min_quality),
        )
        if rows is not None:
            found = True
            yield name, rows
    if not found:
        raise InputError(
            f"windows by bundle {encoder.model_id}",
            value=f"none in cohorts {', '.join(held) or '(none)'} of quality {min_quality:g} or more",
            expected="one at least",
            fix="`xmae models` lists what the table holds; name its cohorts, or lower --min-quality",
        )


def _wanted(encoder: Encoder, cohorts: Sequence[str], min_quality: float) -> Filters:
    return [
        ("model_id", "=", encoder.model_id),
        ("spec_id", "=", encoder.spec_id),
        ("cohort", "in", list(cohorts)),
        ("quality", ">=", min_quality),
    ]


def _rows_of(batches: Iterator[pa.RecordBatch], keys: Sequence[str], pooling: Pooling) -> pa.Table | None:
    kept, schema = _Kept(), pa.schema([SCHEMA.field(name) for name in (*keys, "quality", "embedding")])
    for batch in batches:
        if len(batch):
            rows = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
            kept.add(rows.combine_chunks().to_batches()[0], keys)
    return kept.rows(keys, pooling)


class _Kept:
    """What was seen of each person or recording; arrays double as more come."""

    def __init__(self) -> None:
        self._place: dict[tuple[str, ...], int] = {}
        self._count_N: NDArray[np.int64] = np.zeros(0, np.int64)
        self._quality_N: NDArray[np.float64] = np.zeros(0)
        self._moments_NF: NDArray[np.float64] | None = None

    def add(self, batch: pa.RecordBatch, keys: Sequence[str]) -> None:
        columns = [batch[name].to_pylist() for name in keys]
        place_K = np.array([self._place.setdefault(key, len(self._place)) for key in zip(*columns, strict=True)])
        x_KE = batch["embedding"].flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1).astype(np.float64)
        self._grow(x_KE.shape[1])
        assert self._moments_NF is not None
        units_U, local_K = np.unique(place_K, return_inverse=True)
        moments.add(self._moments_NF, units_U, moments.kept(local_K, x_KE, len(units_U)))
        self._count_N[: len(self._place)] += np.bincount(place_K, minlength=len(self._place))
        quality_K = batch["quality"].to_numpy(zero_copy_only=False)
        self._quality_N[: len(self._place)] += np.bincount(place_K, quality_K, minlength=len(self._place))

    def _grow(self, width: int) -> None:
        if self._moments_NF is None:
            self._moments_NF = moments.start((0, width))
        missing = len(self._place) - len(self._count_N)
        if missing > 0:
            more = max(missing, len(self._count_N))
            self._count_N = np.concatenate([self._count_N, np.zeros(more, np.int64)])
            self._quality_N = np.concatenate([self._quality_N, np.zeros(more)])
            self._moments_NF = np.concatenate([self._moments_NF, moments.start((more, width))])

    def rows(self, keys: Sequence[str], pooling: Pooling) -> pa.Table | None:
        n = len(self._place)
        if self._moments_NF is None:
            return None
        features_NF, count_N = self._moments_NF[:n], self._count_N[:n]
        moments.settle(features_NF, count_N[:, None])
        if pooling == "mean":
            features_NF = features_NF[:, : features_NF.shape[1] // 4]
        width = features_NF.shape[1]
        values = pa.array(features_NF.astype(np.float32).reshape(-1))
        columns: dict[str, Any] = {name: [key[k] for key in self._place] for k, name in enumerate(keys)}
        columns["windows"] = count_N
        columns["quality"] = (self._quality_N[:n] / count_N).astype(np.float32)
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, width)
        return pa.table(columns).sort_by([(name, "ascending") for name in keys])
