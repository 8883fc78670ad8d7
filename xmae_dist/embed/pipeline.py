"""Encoding over a Ray cluster: Ray Data actors, each with the bundle loaded once, write staged parts.

A batch of recordings is the unit of work. Whatever is staged already is not read again, so a killed job goes on where
it was; the driver then publishes.
"""

import dataclasses
import logging
import pickle
from collections.abc import Iterator
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from xmae_dist.cluster import fanout, gpus
from xmae_dist.core.errors import RunError, XmaeError
from xmae_dist.core.progress import progress
from xmae_dist.embed import staging
from xmae_dist.embed.backlog import open_request
from xmae_dist.embed.encode import LoadedEncoder, encode_batch
from xmae_dist.embed.publish import Published, publish
from xmae_dist.embed.request import Batch, Encoder, Request
from xmae_dist.storage.corpus import Corpus

_ATTEMPTS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """What each encoding actor asks of the cluster, and how many there may be."""

    max_actors: int = 64
    cpus_per_actor: float = 1.0
    gpus_per_actor: float | None = None
    """None: `xmae_dist.cluster.gpus.SHARE` where the cluster has GPUs, else none."""


def embed_cohort(
    corpus_url: str, encoder: Encoder, table_url: str, cohort: str, resources: Resources | None = None
) -> Published | None:
    """Bring the table up to the newest snapshot of a cohort; None when there was nothing to do.

    When another job commits first, what it left is looked at again. Raises InputError for a cohort that is unknown or
    lacks the source signal, IntegrityError for damaged recordings or parts.
    """
    last = None
    for _ in range(_ATTEMPTS):
        request = open_request(Corpus.open(corpus_url).snapshot(), cohort, encoder, table_url)
        if request is None:
            return last
        encode_missing(request, table_url, resources or Resources())
        last = publish(request, table_url)
        if last.version is not None:
            return last
    raise RunError(
        f"cohort {cohort}", value=f"{_ATTEMPTS} commits by other jobs came first", expected="a turn to commit",
        fix="run fewer jobs on one table, then run this again (it is safe to repeat)",
    )  # fmt: skip


def encode_missing(request: Request, table_url: str, resources: Resources) -> int:
    """Stage a part for each batch of the request that has none; returns how many were made."""
    folder = staging.staging_url(table_url, request)
    batches = staging.unfinished(request.batches(), folder)
    if not batches:
        return 0
    fanout.connect()
    total = sum(len(batch.recordings) for batch in batches)
    with progress(f"embed {request.cohort}", total, "recordings") as shown:
        for staged in _staged(batches, request.encoder, folder, resources):
            shown.advance(staged.recordings, note=f"{staged.windows} windows")
    return len(batches)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Staged:
    recordings: int
    windows: int


def _staged(batches: list[Batch], encoder: Encoder, folder: str, resources: Resources) -> Iterator[_Staged]:
    """Run the actors over the batches; raises the XmaeError of a batch, or RunError for what a cluster did to one."""
    for name in ("ray.data", "ray._private"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False  # ours counts recordings
    with ray.data.DataContext.current(context):
        items = [{"batch": pickle.dumps(batch)} for batch in batches]
        parts = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _EncodeActor,
            fn_constructor_args=(encoder, folder),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=1, max_size=min(resources.max_actors, len(batches))),
            num_cpus=resources.cpus_per_actor,
            num_gpus=gpus.to_ask_for(resources.gpus_per_actor),
        )
    try:
        for row in parts.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, XmaeError):
                raise result
            yield result
    except ray.exceptions.RayError as error:
        raise fanout.told(error) from error


class _EncodeActor:
    """Encodes batches of recordings; the model is loaded once per actor. Errors that a person must see travel as
    values: Ray would retry and wrap them."""

    def __init__(self, encoder: Encoder, folder: str) -> None:
        self._encoder, self._folder = encoder, folder
        self._loaded: LoadedEncoder | None = None

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        return {"result": [pickle.dumps(self._stage(pickle.loads(data))) for data in rows["batch"]]}

    def _stage(self, batch: Batch) -> _Staged | XmaeError:
        try:
            self._loaded = self._loaded or LoadedEncoder.open(self._encoder)
            rows = encode_batch(batch, self._loaded)
            staging.put_part(self._folder, batch.key, rows)
        except XmaeError as error:
            return error
        return _Staged(recordings=len(batch.recordings), windows=len(rows))
