"""A bounded sample of the people and windows in files of an embedding table, the same whenever it is drawn.

People and their windows are drawn by hashes of their names, so a sample moves only as people come and go, and people
who left the table are in none. Cost: `Bounds.files` files are read, one at a time, in two requests each; memory is one
file and the sample.

Legend: P people, N windows, E embedding width.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmae_dist.core.seeds import hash_u64
from xmae_dist.embed.part import SCHEMA
from xmae_dist.storage import parquet
from xmae_dist.storage.file_actions import DataFile

_COLUMNS = ["subject_id", "recording_id", "start_s", "quality", "embedding", "spec_id"]
_KEYS = pa.schema([SCHEMA.field(name) for name in _COLUMNS])


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much is drawn."""

    files: int = 12
    people: int = 96
    windows: int = 16
    """Of each person."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Windows of some people."""

    name: str
    """Whose they are: a cohort."""
    subject_P: NDArray[np.str_]
    """Sorted by hash: the first n are as good a sample as all."""
    person_N: NDArray[np.int64]
    """Place of each window's person in `subject_P`."""
    quality_N: NDArray[np.float32]
    embedding_NE: NDArray[np.float32]
    recording_N: NDArray[np.str_]
    start_s_N: NDArray[np.float64]

    def of_people(self, people: NDArray[np.int64]) -> Sample:
        """The sample reduced to some people, in their order."""
        place_P = np.full(len(self.subject_P), -1)
        place_P[people] = np.arange(len(people))
        keep_N = place_P[self.person_N] >= 0
        return Sample(
            name=self.name,
            subject_P=self.subject_P[people],
            person_N=place_P[self.person_N[keep_N]],
            quality_N=self.quality_N[keep_N],
            embedding_NE=self.embedding_NE[keep_N],
            recording_N=self.recording_N[keep_N],
            start_s_N=self.start_s_N[keep_N],
        )


@dataclass(frozen=True, kw_only=True)
class _Windows:
    """Of one person: the windows of least hash."""

    key_N: NDArray[np.uint64]
    quality_N: NDArray[np.float32]
    embedding_NE: NDArray[np.float32]
    recording_N: NDArray[np.str_]
    start_s_N: NDArray[np.float64]

    def least(self, n: int) -> _Windows:
        order = np.argsort(self.key_N, kind="stable")[:n]
        return _Windows(**{name: values[order] for name, values in vars(self).items()})

    def __add__(self, other: _Windows) -> _Windows:
        return _Windows(**{name: np.concatenate([values, vars(other)[name]]) for name, values in vars(self).items()})


def drawn(name: str, table_url: str, files: Iterable[DataFile], spec_id: str, bounds: Bounds | None = None) -> Sample:
    """A sample of the rows of one specification in `files`. Raises StorageError where one cannot be read."""
    bounds = bounds or Bounds()
    kept: dict[str, _Windows] = {}
    for file in some_files(files, bounds.files):
        rows = parquet.read_columns(file.url(table_url), _COLUMNS, size=file.bytes)
        for subject, windows in _by_person(_of_spec(rows, spec_id), kept, bounds):
            kept[subject] = (kept[subject] + windows).least(bounds.windows) if subject in kept else windows
        for gone in sorted(kept, key=_of_person)[bounds.people :]:
            del kept[gone]
    return _sample(name, kept)


def pooled(name: str, samples: Sequence[Sample], bounds: Bounds | None = None) -> Sample:
    """One sample of people of several, in equal numbers as far as there are so many; a person of two is taken once."""
    each = (bounds or Bounds()).people // max(1, len(samples))
    kept: dict[str, _Windows] = {}
    for one in samples:
        for person, subject in enumerate(one.subject_P[:each].tolist()):
            here_N = one.person_N == person
            kept.setdefault(
                subject,
                _Windows(
                    key_N=np.arange(here_N.sum(), dtype=np.uint64),
                    quality_N=one.quality_N[here_N],
                    embedding_NE=one.embedding_NE[here_N],
                    recording_N=one.recording_N[here_N],
                    start_s_N=one.start_s_N[here_N],
                ),
            )
    return _sample(name, kept)


def apart(a: Sample, b: Sample) -> tuple[Sample, Sample]:
    """Two samples without a person in common: of those that both have, a hash gives half to each."""
    both = np.intersect1d(a.subject_P, b.subject_P)
    to_a = {subject for subject in both.tolist() if int(hash_u64("side", subject)) % 2}
    to_b = set(both.tolist()) - to_a
    return _without(a, to_b), _without(b, to_a)


def some_files(files: Iterable[DataFile], n: int) -> list[DataFile]:
    """`n` files, by hashes of their paths."""
    return heapq.nsmallest(n, files, key=lambda file: int(hash_u64("file", file.path)))


def _without(sample: Sample, subjects: set[str]) -> Sample:
    return sample.of_people(np.array([i for i, one in enumerate(sample.subject_P) if one not in subjects], np.int64))


def _of_person(subject: str) -> int:
    return int(hash_u64("person", subject))


def _of_spec(rows: pa.Table, spec_id: str) -> pa.Table:
    rows = rows.select(_COLUMNS).cast(_KEYS)  # delta-rs writes views, on which Arrow cannot compute
    return rows.filter(pc.equal(rows["spec_id"], spec_id)).combine_chunks()


def _by_person(rows: pa.Table, kept: dict[str, _Windows], bounds: Bounds) -> Iterator[tuple[str, _Windows]]:
    """Windows of the people in a file who may be in the sample."""
    if not rows.num_rows:
        return
    encoded = rows["subject_id"].combine_chunks().dictionary_encode()
    names, code_N = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    most = max(map(_of_person, kept)) if len(kept) >= bounds.people else None
    for key, person in heapq.nsmallest(bounds.people, ((_of_person(name), i) for i, name in enumerate(names))):
        if most is None or key <= most:
            yield names[person], _windows(rows, np.flatnonzero(code_N == person), bounds.windows)


def _windows(rows: pa.Table, place_N: NDArray[np.int64], n: int) -> _Windows:
    recordings = rows["recording_id"].take(pa.array(place_N)).combine_chunks().dictionary_encode()
    hashes = np.array([int(hash_u64("recording", one)) for one in recordings.dictionary.to_pylist()], np.uint64)
    start_us_N = np.round(rows["start_s"].to_numpy()[place_N] * 1e6).astype(np.int64)
    key_N = hash_u64("window", hashes[recordings.indices.to_numpy()], start_us_N)
    place_N = place_N[np.argsort(key_N, kind="stable")[:n]]
    chosen = rows.take(pa.array(place_N)).combine_chunks()
    return _Windows(
        key_N=np.sort(key_N)[:n],
        quality_N=chosen["quality"].to_numpy(),
        embedding_NE=_matrix(chosen["embedding"], len(place_N)),
        recording_N=np.asarray(chosen["recording_id"].to_pylist(), np.str_),
        start_s_N=chosen["start_s"].to_numpy(),
    )


def _matrix(lists: pa.ChunkedArray, n: int) -> NDArray[np.float32]:
    return np.asarray(pc.list_flatten(lists).to_numpy(), np.float32).reshape(n, -1)


def _sample(name: str, kept: dict[str, _Windows]) -> Sample:
    order = sorted(kept, key=_of_person)
    windows = [kept[subject] for subject in order]
    counts = [len(one.key_N) for one in windows]

    if not windows:
        return Sample(
            name=name,
            subject_P=np.empty(0, np.str_),
            person_N=np.empty(0, np.int64),
            quality_N=np.empty(0, np.float32),
            embedding_NE=np.empty((0, 0), np.float32),
            recording_N=np.empty(0, np.str_),
            start_s_N=np.empty(0),
        )
    return Sample(
        name=name,
        subject_P=np.asarray(order, np.str_),
        person_N=np.repeat(np.arange(len(order)), counts),
        quality_N=np.concatenate([one.quality_N for one in windows]),
        embedding_NE=np.concatenate([one.embedding_NE for one in windows]),
        recording_N=np.concatenate([one.recording_N for one in windows]),
        start_s_N=np.concatenate([one.start_s_N for one in windows]),
    )
