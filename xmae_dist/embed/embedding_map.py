"""A map of an embedding table in two dimensions: principal components of a bounded sample, and what is known of each
window in it.

Cost: 12 files of each cohort, at most 32 cohorts; a sample of 48 people with 8 windows each is held of every one.
Labels are looked up in the index for the recordings of the sample alone.

Legend: N windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from xmae_dist.core.errors import InputError
from xmae_dist.core.seeds import hash_u64
from xmae_dist.embed.backlog import View
from xmae_dist.embed.familiar import sample_of
from xmae_dist.embed.request import GONE, NOT_WANTED, Encoder
from xmae_dist.embed.sample import Bounds, Sample
from xmae_dist.storage import index
from xmae_dist.storage.snapshot import Snapshot

BOUNDS = Bounds(people=48, windows=8)
MOST_COHORTS = 32


@dataclass(frozen=True, kw_only=True)
class EmbeddingMap:
    """Windows and where they lie."""

    place_N2: NDArray[np.float64]
    explained: tuple[float, float]
    """Share of the variance of the sample along each axis."""
    cohort_N: NDArray[np.str_]
    subject_N: NDArray[np.str_]
    quality_N: NDArray[np.float32]
    label_N: list[Any] | None
    """Of the label asked for, numbers or text; None in it where a recording has none."""
    cohorts_left_out: int
    """Beyond the first 32, by hash."""


def embedding_map(view: View, encoder: Encoder, *, label: str = "") -> EmbeddingMap:
    """Raises InputError where the table has no rows of the encoder, or no recording of the sample has the label."""
    held = [
        lineage
        for lineage, position in view.positions.items()
        if encoder.lineage(lineage.cohort) == lineage and position.content not in (GONE, NOT_WANTED)
    ]
    chosen = sorted(held, key=lambda one: int(hash_u64("map", one.cohort)))[:MOST_COHORTS]
    samples = [one for lineage in chosen if len((one := sample_of(view, lineage, BOUNDS)).person_N)]
    if sum(len(one.person_N) for one in samples) < 3:
        raise InputError(
            f"table {view.table_url}",
            value=f"fewer than 3 rows of bundle {encoder.model_id}",
            expected="3 rows or more to draw a map",
            fix="embed a cohort first",
        )
    place_N2, explained = _projected(np.concatenate([one.embedding_NE for one in samples]))
    return EmbeddingMap(
        place_N2=place_N2,
        explained=explained,
        cohort_N=np.concatenate([np.full(len(one.person_N), one.name) for one in samples]),
        subject_N=np.concatenate([one.subject_P[one.person_N] for one in samples]),
        quality_N=np.concatenate([one.quality_N for one in samples]),
        label_N=_labelled(view.snapshot, samples, encoder.spec.source, label) if label else None,
        cohorts_left_out=len(held) - len(chosen),
    )


def _projected(x_NE: NDArray[np.float32]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    spread_E = x_NE.std(axis=0)
    z_NE = ((x_NE - x_NE.mean(axis=0)) / np.where(spread_E > 0, spread_E, 1.0)).astype(float)
    pca = PCA(2, svd_solver="full").fit(z_NE)
    first, second = pca.explained_variance_ratio_.tolist()
    return np.asarray(pca.transform(z_NE)), (first, second)


def _labelled(snapshot: Snapshot, samples: list[Sample], source: str, label: str) -> list[Any]:
    known: dict[tuple[str, str], float | str] = {}
    for sample in samples:
        if sample.name in snapshot.contents:
            known.update(_labels(snapshot, sample, source, label))
    if not known:
        raise InputError(
            "--label", value=label, expected="a label of some recording in the sample", fix="`xmae inspect` lists them"
        )
    return [known.get((one.name, str(name))) for one in samples for name in one.recording_N]


def _labels(
    snapshot: Snapshot, sample: Sample, source: str, label: str
) -> Iterator[tuple[tuple[str, str], float | str]]:
    names = sorted(set(sample.recording_N.tolist()))
    filters = [("channel", "=", source), ("recording_id", "in", names)]
    for batch in snapshot.cohort(sample.name).batches(None, filters):
        for row in index.from_arrow(batch):
            value = row.labels.get(label, row.label_text.get(label))
            if value is not None and not (isinstance(value, float) and math.isnan(value)):
                yield (sample.name, row.recording_id), value
