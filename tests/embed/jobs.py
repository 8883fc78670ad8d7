"""Jobs that embed, step by step and in this process: with a bundle, or with rows that tell what was recorded."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from xmae_dist.core.errors import IntegrityError, StorageError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed import staging
from xmae_dist.embed.backlog import View, open_request
from xmae_dist.embed.encode import LoadedEncoder
from xmae_dist.embed.part import SCHEMA, put_part
from xmae_dist.embed.publish import Published, is_done, note, publish
from xmae_dist.embed.request import Encoder, Lineage, OvertakenError, Request
from xmae_dist.embed.staging import Facts
from xmae_dist.embed.work import Encoding, Place, Work, encode, prepare, remove
from xmae_dist.storage.table import Table

ENCODER = Encoder(url="file:///nowhere", model_id="model", spec=WindowSpec(require=("ppg",)))
Encode = Callable[[Encoding, Place], Facts]


@dataclass
class Job:
    """A request that was opened, with its local files."""

    view: View
    request: Request
    work: Work
    local: tempfile.TemporaryDirectory[str]

    def finish(self, encode_task: Encode) -> None:
        for removal in self.work.take_away:
            list(remove((removal, self.work.place)))
        for task in self.work.encode:
            encode_task(task, self.work.place)

    def publish(self) -> Published:
        return publish(self.request, self.work, self.view)


def opened(corpus_url: str, table_url: str, lineage: Lineage, encoder: Encoder | None) -> Job | None:
    """A job with something to do; None, and noted, where there is nothing."""
    view = View.of(corpus_url, table_url)
    if view.is_up_to(lineage, encoder):
        return None
    local = tempfile.TemporaryDirectory(prefix="xmae-test-job-")
    request = open_request(view, lineage, encoder, local.name)
    if request.difference.empty:
        with contextlib.suppress(OvertakenError):
            note(request, view)
        local.cleanup()
        return None
    return Job(view, request, prepare(request, view), local)


def by_bundle(encoder: Encoder) -> Encode:
    loaded: list[LoadedEncoder] = []

    def encode_task(task: Encoding, place: Place) -> Facts:
        if not loaded:
            loaded.append(LoadedEncoder.open(encoder))
        return encode(task, place, loaded[0])

    return encode_task


def telling_rows(recordings: pa.Table, model_id: str = ENCODER.model_id) -> pa.Table:
    """Two rows a recording; the embedding tells the digest of its samples."""
    rows = [
        {
            "subject_id": one["subject_id"],
            "recording_id": one["recording_id"],
            "cohort": one["cohort"],
            "start_s": start_s,
            "start_time_ns": None,
            "quality": 1.0,
            "embedding": [float(int(one["digest"][:4], 16)), 0.5],
            "model_id": model_id,
            "spec_id": ENCODER.spec_id,
        }
        for one in recordings.to_pylist()
        for start_s in (0.0, 10.0)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def by_telling(task: Encoding, place: Place) -> Facts:
    recordings = staging.read_work(task.work_url)
    rows = telling_rows(recordings, place.partition["model_id"])
    add = put_part(place.table_url, rows, place.partition, request=place.request, key=task.key)
    return staging.put_facts(place.folder, Facts(key=task.key, add=add, windows=(2,) * len(recordings)))


def embed(
    corpus_url: str, table_url: str, cohort: str, encoder: Encoder = ENCODER, encode_task: Encode = by_telling
) -> Published | None:
    """A job to its end."""
    last = None
    for _ in range(5):
        job = opened(corpus_url, table_url, encoder.lineage(cohort), encoder)
        if job is None:
            return last
        try:
            job.finish(encode_task)
            last = job.publish()
        except OvertakenError:
            continue
        except (StorageError, IntegrityError):  # as `embed.pipeline`: what was staged went with another's commit
            if not _was_overtaken(job):
                raise
            continue
        if last.version is not None:
            return last
    return last


def _was_overtaken(job: Job) -> bool:
    try:
        return is_done(job.request, job.view.table_url)
    except OvertakenError:
        return True


def told(table_url: str) -> dict[tuple[str, str, float], float]:
    """What each row tells, by cohort, recording and time; each is there once."""
    found = Table(table_url).read(columns=["cohort", "recording_id", "start_s", "embedding"]).to_pylist()
    rows = {(row["cohort"], row["recording_id"], row["start_s"]): row["embedding"][0] for row in found}
    assert len(rows) == len(found), "a window stands twice"
    return rows
