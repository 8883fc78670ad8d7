"""Devices as embeddings show them: people differ, windows of a person less so, and a device may move or widen both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from tests.embed.jobs import ENCODER
from xmae_dist.core.seeds import generator
from xmae_dist.embed import staging
from xmae_dist.embed.part import SCHEMA, put_part
from xmae_dist.embed.sample import Sample
from xmae_dist.embed.staging import Facts
from xmae_dist.embed.work import Encoding, Place
from xmae_dist.storage.corpus import Corpus

WIDTH, _FACTORS = 24, 6
_MIX = generator("mix").normal(size=(_FACTORS, WIDTH))


def embeddings(subject: str, windows: int, *, shift: float = 0.0, spread: float = 1.0) -> np.ndarray:
    """(windows, WIDTH) of one person on a device that moves people by `shift` and `spread`, in their own spread."""
    rng = generator("person", subject)
    person = spread * rng.normal(size=_FACTORS) + shift * np.eye(_FACTORS)[0]
    within = 0.7 * rng.normal(size=(windows, _FACTORS))
    return ((person + within) @ _MIX + 0.3 * rng.normal(size=(windows, WIDTH))).astype(np.float32)


def sample_of_device(name: str, people: int, *, windows: int = 8, shift: float = 0.0, spread: float = 1.0) -> Sample:
    subjects = [f"{name}-{i}" for i in range(people)]
    person_N = np.repeat(np.arange(people), windows)
    return Sample(
        name=name,
        subject_P=np.array(subjects),
        person_N=person_N,
        quality_N=generator("quality", name).uniform(0.7, 1.0, len(person_N)).astype(np.float32),
        embedding_NE=np.concatenate([embeddings(s, windows, shift=shift, spread=spread) for s in subjects]),
        recording_N=np.array(subjects)[person_N],
        start_s_N=np.tile(10.0 * np.arange(windows), people),
    )


def record_people(corpus: Corpus, cohort: str, people: int, *, rate_hz: float = 100.0, part: str = "a") -> None:
    """A recording of each of `people`; what is in it does not matter to `by_device`."""
    with corpus.begin_part(cohort, part) as writer:
        ppg = writer.channel("ppg", dtype=np.float32, rate_hz=rate_hz, unit="nu")
        names = [f"{cohort}-{part}-{i:03d}" for i in range(people)]
        rows = [ppg.add(np.zeros(9, np.float32), subject_id=n, recording_id=n, clock_id=n) for n in names]
    corpus.commit_part(rows, f"{cohort}-{part}")


def by_device(
    *, shift: float = 0.0, spread: float = 1.0, quality: float = 0.9, windows: int = 6
) -> Callable[[Encoding, Place], Facts]:
    """Encodes a batch as such a device would show it."""

    def encode_task(task: Encoding, place: Place) -> Facts:
        recordings = staging.read_work(task.work_url).to_pylist()
        rows = [
            {
                "subject_id": one["subject_id"],
                "recording_id": one["recording_id"],
                "cohort": one["cohort"],
                "start_s": 10.0 * window,
                "start_time_ns": None,
                "quality": quality,
                "embedding": embedding,
                "model_id": place.partition["model_id"],
                "spec_id": ENCODER.spec_id,
            }
            for one in recordings
            for window, embedding in enumerate(embeddings(one["subject_id"], windows, shift=shift, spread=spread))
        ]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        add = put_part(place.table_url, table, place.partition, request=place.request, key=task.key)
        return staging.put_facts(place.folder, Facts(key=task.key, add=add, windows=(windows,) * len(recordings)))

    return encode_task
