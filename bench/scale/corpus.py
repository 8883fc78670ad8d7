"""A corpus of N recordings that has an index and no signals, written through the writers of the product.

The shape of PulseDB: 25 recordings a person, ECG and PPG of one rate, four numeric labels and a text.
"""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa

from xmae_dist.storage import index
from xmae_dist.storage.corpus import Corpus

RECORDINGS_A_SUBJECT = 25
RECORDINGS_A_PART = 5000
_SAMPLES = 1250
_CHANNELS = (("ecg", "II", "mV"), ("ppg", "PLETH", "NU"))


def make(url: str, recordings: int, cohorts: int, commits_a_cohort: int = 1) -> None:
    """Writes the corpus at `url`, in cohorts and commits of equal size."""
    corpus = Corpus.create(url)
    each = recordings // (cohorts * commits_a_cohort)
    for cohort in range(cohorts):
        for commit in range(commits_a_cohort):
            rows = cohort_rows(f"cohort{cohort:03d}", commit * each, each)
            corpus.index.append(rows, txn=(f"ingest:{cohort}-{commit}", 1), metadata={"xmae_operation": "ingest"})


def cohort_rows(cohort: str, first: int, recordings: int) -> pa.Table:
    """Index rows of `recordings` recordings of a cohort, numbered from `first`."""
    rng = np.random.default_rng([first, *cohort.encode()])
    at = first + np.repeat(np.arange(recordings), len(_CHANNELS))
    channel, source, unit = (np.tile([one[i] for one in _CHANNELS], recordings) for i in range(3))
    part = _named("part-0a1b2c", at // RECORDINGS_A_PART)
    n = len(at)
    columns = {
        "subject_id": _named(f"{cohort}-s", at // RECORDINGS_A_SUBJECT),
        "recording_id": _named(f"{cohort}-r", at),
        "cohort": np.full(n, cohort),
        "part": part,
        "channel": channel,
        "source_name": source,
        "array_path": np.char.add(np.char.add(np.char.add(f"signals/{cohort}/", part), "/"), channel),
        "offset": (at % RECORDINGS_A_PART) * _SAMPLES,
        "length": np.full(n, _SAMPLES),
        "rate_hz": np.full(n, 125.0),
        "unit": unit,
        "start_time_ns": 1_600_000_000_000_000_000 + at * 10_000_000_000,
        "clock_id": _named(f"{cohort}-r", at),
        "gaps": pa.ListArray.from_arrays(np.zeros(n + 1, np.int32), pa.array([], _GAP)),
        "device": np.full(n, "Philips IntelliVue"),
        "body_site": np.full(n, "finger"),
        "digest": pa.array([rng.bytes(32).hex() for _ in range(n)]),
        "labels": _labels(rng, recordings),
        "label_text": _maps(["sex"], np.repeat(np.where(rng.integers(0, 2, recordings), "F", "M"), len(_CHANNELS))),
    }
    schema = index.arrow_schema()
    return pa.table({name: pa.array(columns[name]) for name in schema.names}).cast(schema)


_GAP = pa.struct([("start", pa.int64()), ("stop", pa.int64())])


def _named(prefix: str, numbers: np.ndarray) -> np.ndarray:
    return np.char.add(prefix, np.char.zfill(numbers.astype(str), 7))


def _labels(rng: np.random.Generator, recordings: int) -> pa.Array:
    values = rng.normal([50, 70, 75, 120], [15, 9, 9, 15], (recordings, 4)).round(2)
    return _maps(["age", "dbp", "heart_rate", "sbp"], np.repeat(values, len(_CHANNELS), axis=0))


def _maps(names: list[str], values: np.ndarray) -> pa.Array:
    """A map with all `names` in each row; values (n, names)."""
    n = values.size // len(names)
    offsets = np.arange(n + 1, dtype=np.int32) * len(names)
    return pa.MapArray.from_arrays(
        offsets, pa.array(names).take(pa.array(np.tile(np.arange(len(names)), n))), pa.array(values.ravel())
    )


if __name__ == "__main__":
    make(sys.argv[1], *map(int, sys.argv[2:]))
