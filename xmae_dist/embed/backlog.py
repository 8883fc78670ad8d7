"""What is new: cohorts of the newest snapshot minus what the table holds for a bundle and a specification.

Each commit to the table leaves a manifest, `<table>/_requests/<lineage>/<generation>-<request>.json`, with every
recording the table then holds of that lineage and its number of windows (also of recordings that gave none, which
leave no rows). A manifest counts only when the table's log carries its request, so one that was written by a job
which then died, or lost a race, is not believed.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from xmae_dist.core.errors import IntegrityError
from xmae_dist.embed.request import (
    Encoder,
    Request,
    content_digest,
    contents_of,
    lineage_id,
    require_source,
)
from xmae_dist.storage import uri
from xmae_dist.storage.snapshot import Snapshot
from xmae_dist.storage.table import Table

_MANIFEST = re.compile(r"([0-9]+)-([0-9a-f]+)\.json")


@dataclass(frozen=True, kw_only=True)
class State:
    """What the table holds of a lineage: generation 0 is nothing. Digest and windows by recording id."""

    generation: int = 0
    contents: dict[str, str] = field(default_factory=dict)
    windows: dict[str, int] = field(default_factory=dict)


def open_request(snapshot: Snapshot, cohort: str, encoder: Encoder, table_url: str) -> Request | None:
    """The request that would bring the table up to the snapshot, None when it is there already.

    A cohort that the table holds and the snapshot no longer has is asked to be taken out. Raises InputError for a
    cohort that neither knows, or that has no source signal.
    """
    held = read_state(table_url, cohort, encoder)
    recordings = {} if held.generation and cohort not in snapshot.cohorts() else contents_of(snapshot, cohort, encoder)
    if not held.generation:
        require_source(recordings, cohort, encoder)
    contents = {name: content_digest(recording, encoder) for name, recording in recordings.items()}
    if held.contents == contents:
        return None
    return Request(
        cohort=cohort,
        encoder=encoder,
        snapshot=snapshot,
        contents=contents,
        generation=held.generation + 1,
        missing=tuple(r for name, r in recordings.items() if held.contents.get(name) != contents[name]),
        stale=tuple(sorted(name for name, digest in held.contents.items() if contents.get(name) != digest)),
    )


def cohorts_to_look_at(snapshot: Snapshot, encoder: Encoder, table_url: str) -> list[str]:
    """Cohorts with at least one recording of the source signal, and those that the table holds: all of one may have
    been withdrawn.
    """
    rows = snapshot.table(["cohort", "channel"]).to_pylist()
    return sorted({row["cohort"] for row in rows if row["channel"] == encoder.spec.source} | _held(table_url, encoder))


def _held(table_url: str, encoder: Encoder) -> set[str]:
    table = Table(table_url)
    if not table.exists():
        return set()
    mine = [("model_id", "=", encoder.model_id), ("spec_id", "=", encoder.spec_id)]
    return set(table.read(columns=["cohort"], filters=mine)["cohort"].to_pylist())


def read_state(table_url: str, cohort: str, encoder: Encoder) -> State:
    """The newest committed generation. Raises IntegrityError when its manifest is missing.

    A job of the next generation that died may have removed already what it would have replaced or left out: of these
    recordings the content is not known ("").
    """
    table = Table(table_url)
    generation = table.transaction_version(lineage_id(cohort, encoder)) or 0
    if not generation:
        return State()
    folder = manifest_folder(table_url, cohort, encoder)
    state: State | None = None
    begun: list[dict[str, str]] = []
    for url in uri.list_urls(folder):
        named = _MANIFEST.fullmatch(url.rsplit("/", 1)[-1])
        if named is None:
            continue  # not ours: a note, a copy, what a file manager leaves
        number, request = named.groups()
        if int(number) == generation and (table.transaction_version(request) or 0) >= generation:
            document = json.loads(uri.read_bytes(url))
            state = State(generation=generation, contents=document["contents"], windows=document["windows"])
        elif int(number) == generation + 1:
            begun.append(json.loads(uri.read_bytes(url))["contents"])
    if state is not None:
        sure = {name for name, digest in state.contents.items() if all(one.get(name) == digest for one in begun)}
        return replace(state, contents={name: d if name in sure else "" for name, d in state.contents.items()})
    raise IntegrityError(
        f"embedding table {table_url}",
        value=f"no manifest for generation {generation} of cohort {cohort}",
        expected=f"one under {folder}",
        fix="restore the folder `_requests` from a copy; the table's rows are not affected",
    )


def write_manifest(table_url: str, request: Request, windows: dict[str, int]) -> None:
    """Put the manifest of a request in place, before its commit."""
    document = {
        "request": request.request_id,
        "generation": request.generation,
        "cohort": request.cohort,
        "model_id": request.encoder.model_id,
        "spec_id": request.encoder.spec_id,
        "contents": dict(request.contents),
        "windows": windows,
    }
    name = f"{request.generation}-{request.request_id}.json"
    url = uri.join(manifest_folder(table_url, request.cohort, request.encoder), name)
    uri.write_bytes(url, json.dumps(document).encode())


def manifest_folder(table_url: str, cohort: str, encoder: Encoder) -> str:
    return uri.join(table_url, "_requests", lineage_id(cohort, encoder))


def summary(requests: Iterable[Request]) -> str:
    """One line for people."""
    parts = [f"{r.cohort}: {len(r.missing)} recordings to embed, {len(r.stale)} to withdraw" for r in requests]
    return "; ".join(parts) or "nothing new"
