"""Re-embedding over a Ray cluster: Ray Data actors, each with the bundle loaded once, write files of the table.

A batch of recordings is the unit of work. What is finished is not read again, so a killed job goes on where it was; the
driver then publishes. It holds names and counts: a few hundred bytes a batch.
"""

from __future__ import annotations

import dataclasses
import logging
import pickle
import tempfile
from collections.abc import Iterator
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from xmae_dist.cluster import demand, fanout, gpus, pools
from xmae_dist.core.errors import IntegrityError, RunError, StorageError, XmaeError
from xmae_dist.core.progress import progress
from xmae_dist.embed.backlog import View, open_request
from xmae_dist.embed.encode import LoadedEncoder
from xmae_dist.embed.familiar import DIFFERENT, Familiarity, familiarity
from xmae_dist.embed.publish import Published, is_done, note, publish
from xmae_dist.embed.request import Encoder, Lineage, OvertakenError
from xmae_dist.embed.staging import Facts
from xmae_dist.embed.work import Encoding, Place, Work, encode, prepare, remove

_ATTEMPTS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """What each encoding actor asks of the cluster, and how many there may be."""

    max_actors: int = 64
    cpus_per_actor: float = 1.0
    gpus_per_actor: float | None = None
    """None: `xmae_dist.cluster.gpus.SHARE` where the cluster has GPUs, else none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """A cohort that was encoded and not committed, since it is like nothing that the table knows."""

    cohort: str
    familiarity: Familiarity
    withdrawn: int = 0
    """Recordings that left the table all the same."""


Outcome = Published | Held | None
"""None: there was nothing to do."""


def take_away_all_who_left(view: View, *, but: Encoder | None = None) -> dict[Lineage, Published | None]:
    """Takes out of every lineage, other than an encoder's, what a view finds that the corpus no longer has; nothing is
    encoded.
    """
    return {
        lineage: take_away_who_left(view.snapshot.url, lineage, view.table_url)
        for lineage in view.with_people_who_left(but)
    }


def embed_cohort(
    corpus_url: str,
    encoder: Encoder,
    table_url: str,
    cohort: str,
    resources: Resources | None = None,
    *,
    hold: bool = False,
) -> Outcome:
    """Bring the table up to the newest snapshot of a cohort; with `hold`, unless what is new is like nothing known.

    When another job commits first, what it left is looked at again. Raises InputError for a cohort that is unknown or
    lacks the source signal, IntegrityError for damaged recordings or parts.
    """
    lineage = encoder.lineage(cohort)
    done = _until_done(corpus_url, table_url, lineage, encoder, resources or Resources(), hold=hold)
    if isinstance(done, Held):  # whoever was withdrawn is not kept for the sake of others
        gone = take_away_who_left(corpus_url, lineage, table_url)
        return dataclasses.replace(done, withdrawn=gone.withdrawn if gone else 0)
    return done


def take_away_who_left(corpus_url: str, lineage: Lineage, table_url: str) -> Published | None:
    """Take out of a lineage what the corpus no longer has, without encoding anything."""
    done = _until_done(corpus_url, table_url, lineage, None, Resources())
    assert not isinstance(done, Held), "nothing is added that could be held"
    return done


def _until_done(
    corpus_url: str,
    table_url: str,
    lineage: Lineage,
    encoder: Encoder | None,
    resources: Resources,
    *,
    hold: bool = False,
) -> Outcome:
    last: Outcome = None
    for _ in range(_ATTEMPTS):
        view = View.of(corpus_url, table_url)
        if encoder is not None:
            view.refuse_retired(encoder)
        if view.is_up_to(lineage, encoder):
            return last
        try:
            last = _once(view, lineage, encoder, resources, hold=hold)
        except OvertakenError:
            continue
        if not isinstance(last, Published) or last.version is not None:
            return last
    raise RunError(
        f"cohort {lineage.cohort}", value=f"{_ATTEMPTS} commits by other jobs came first", expected="one of this job",
        fix="run fewer jobs on one table, then run this again (it is safe to repeat)",
    )  # fmt: skip


def _once(view: View, lineage: Lineage, encoder: Encoder | None, resources: Resources, *, hold: bool) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="xmae-embed-") as folder:
        request = open_request(view, lineage, encoder, folder)
        if request.difference.empty:
            note(request, view)
            return None
        work = prepare(request, view)
        try:
            _work_off(work, encoder, resources)
            compared = familiarity(request, work, view) if encoder and request.difference.missing else None
        except (StorageError, IntegrityError) as error:
            if is_done(request, view.table_url):  # what was staged went with the commit of another job
                raise OvertakenError from error
            raise
        if hold and compared and compared.state == DIFFERENT:
            return Held(cohort=lineage.cohort, familiarity=compared)
        return publish(request, work, view, compared)


def _work_off(work: Work, encoder: Encoder | None, resources: Resources) -> None:
    """Finishes what is not finished. Raises the XmaeError of a piece, or RunError for what a cluster did to one."""
    if work.take_away:
        for _ in fanout.stream(remove, [(removal, work.place) for removal in work.take_away]):
            pass
    if work.encode and encoder is not None:
        fanout.connect()
        with progress(f"embed {work.place.partition['cohort']}", len(work.encode), "batches") as shown:
            windows = 0
            for facts in _encoded(work, encoder, resources):
                windows += sum(facts.windows)
                shown.advance(1, note=f"{windows} windows")


def _encoded(work: Work, encoder: Encoder, resources: Resources) -> Iterator[Facts]:
    for name in ("ray.data", "ray._private"):
        logging.getLogger(name).setLevel(logging.ERROR)
    share = gpus.to_ask_for(resources.gpus_per_actor)
    most = min(resources.max_actors, len(work.encode))
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False  # ours counts batches
    with ray.data.DataContext.current(context):
        items = [{"task": pickle.dumps(task)} for task in work.encode]
        parts = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _EncodeActor,
            fn_constructor_args=(encoder, work.place),
            batch_size=1,
            compute=ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=resources.cpus_per_actor,
            num_gpus=share,
            label_selector=pools.selector(share),
        )
    wanted = demand.Demand.of_tasks("encoders", most, cpus=resources.cpus_per_actor, gpus=share)
    try:
        with demand.waited_for(wanted):
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

    def __init__(self, encoder: Encoder, place: Place) -> None:
        self._encoder, self._place = encoder, place
        self._loaded: LoadedEncoder | None = None

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        return {"result": [pickle.dumps(self._done(pickle.loads(data))) for data in rows["task"]]}

    def _done(self, task: Encoding) -> Facts | XmaeError:
        try:
            self._loaded = self._loaded or LoadedEncoder.open(self._encoder)
            return encode(task, self._place, self._loaded)
        except XmaeError as error:
            return error
