"""The work of a request, cut into pieces that any worker can do: batches to encode, and files to write again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xmae_dist.embed import staging
from xmae_dist.embed.backlog import View
from xmae_dist.embed.encode import LoadedEncoder, encode_batch
from xmae_dist.embed.part import put_part
from xmae_dist.embed.removal import Removal, removals, take_away
from xmae_dist.embed.request import Request
from xmae_dist.embed.staging import Facts


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where workers put what they make of a request: all that they need to know of it."""

    table_url: str
    folder: str
    request: str
    corpus_url: str
    partition: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """A batch of recordings to encode; which they are stands at `work_url`."""

    key: str
    work_url: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """Everything a request needs. A few hundred bytes a piece; recordings themselves are not here."""

    place: Place
    batches: tuple[str, ...]
    """Keys of all batches, in order."""
    removals: tuple[Removal, ...]
    encode: tuple[Encoding, ...]
    """What is not finished of the batches."""
    take_away: tuple[Removal, ...]
    """What is not finished of the removals."""


def prepare(request: Request, view: View) -> Work:
    """Cuts a request into pieces and leaves, for those that nobody finished yet, what their workers must know."""
    folder = request.staging_url(view.table_url)
    place = Place(
        table_url=view.table_url,
        folder=folder,
        request=request.id,
        corpus_url=request.seen.corpus_url,
        partition=request.lineage.partition,
    )
    staging.begin(folder, {"lineage": request.lineage, "name": request.name, "attempt": request.attempt})
    done = staging.finished(folder)
    keys, encode = [], []
    for batch in request.difference.batches():
        keys.append(batch.key)
        if batch.key not in done:
            encode.append(Encoding(key=batch.key, work_url=staging.put_work(folder, batch.key, batch.recordings)))
    gone = tuple(removals(request.difference, request.lineage, view.main, folder)) if view.main else ()
    return Work(
        place=place,
        batches=tuple(keys),
        removals=gone,
        encode=tuple(encode),
        take_away=tuple(one for one in gone if one.key not in done),
    )


def encode(task: Encoding, place: Place, encoder: LoadedEncoder) -> Facts:
    """Encodes a batch into one file of the table, and leaves the facts."""
    made = encode_batch(staging.read_work(task.work_url), place.corpus_url, encoder)
    add = put_part(place.table_url, made.rows, place.partition, request=place.request, key=task.key)
    return staging.put_facts(place.folder, Facts(key=task.key, add=add, windows=made.windows, dropped=made.dropped))


def remove(task: tuple[Removal, Place]) -> Iterator[Facts]:
    """Writes one file again without what must go, and leaves the facts."""
    removal, place = task
    yield take_away(removal, place.table_url, place.folder, place.request)
