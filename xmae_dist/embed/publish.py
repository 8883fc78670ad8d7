"""What workers left of a request -> one commit of the table: checked first, made once, found done by whoever is second.

Only facts pass through here: file names, sizes, counts. The commit adds all files of the request, takes away those that
held what had to go, and says how far the lineage is; whoever reads the table sees all of it or nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xmae_dist.core.errors import IntegrityError, StorageError
from xmae_dist.embed import manifest, staging
from xmae_dist.embed.backlog import View, is_retired, swept_id
from xmae_dist.embed.familiar import Familiarity
from xmae_dist.embed.part import PARTITION_BY, SCHEMA
from xmae_dist.embed.positions import Position, PositionLog, embedding_table
from xmae_dist.embed.request import GONE, OvertakenError, Request
from xmae_dist.embed.work import Work
from xmae_dist.storage import uri
from xmae_dist.storage.file_actions import DataFile, FileChange
from xmae_dist.storage.table import PinnedTable


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a commit did. `version` is None when another publisher had committed this generation before."""

    request_id: str
    cohort: str
    version: int | None
    recordings: int = 0
    rows: int = 0
    withdrawn: int = 0
    """Recordings that left the table, or were replaced."""
    dropped: dict[str, int]
    familiarity: Familiarity | None = None
    """How what was added compared with what the table knew; None where nothing was added."""


@dataclass(kw_only=True)
class Gathered:
    """What the facts of a request come to: 4 bytes a recording, and some hundred a file."""

    add: list[DataFile] = field(default_factory=list)
    remove: list[DataFile] = field(default_factory=list)
    windows: list[np.ndarray] = field(default_factory=list)
    """Of each batch, in order: of each recording, in order."""
    dropped: Counter[str] = field(default_factory=Counter)


def publish(request: Request, work: Work, view: View, compared: Familiarity | None = None) -> Published:
    """Commits what the workers of a request finished; staging is removed afterwards.

    The commit carries two application transactions: the request, and its number in the lineage. The second keeps two
    jobs that looked at different snapshots from both adding what they have in common. Raises IntegrityError for a batch
    without facts, facts that disagree with their batch, or a file that is not there whole; OvertakenError where a file
    to be replaced was replaced by others, or the parts of this attempt were swept away. Then nothing is committed.
    """
    if is_done(request, view.table_url):
        return _by_another(request)
    try:
        gathered = gather(request, work)
    except (IntegrityError, StorageError):  # were they taken along by whoever committed the same, or swept away?
        if not is_done(request, view.table_url):
            raise
        return _by_another(request)
    manifest.append(view.table_url, request, gathered.windows, view.position(request.lineage))
    table = embedding_table(view.table_url)
    table.create(SCHEMA, partition_by=PARTITION_BY)
    version = table.replace_files(
        FileChange(add=gathered.add, remove=gathered.remove),
        txn=[(request.id, request.generation), (request.lineage.id, request.generation)],
        metadata=_told(request, compared),
        guard=lambda base: _still_as_seen(request, gathered.remove, view.table_url, base),
        stated={request.lineage: _position(request, view, compared)},
    )
    uri.delete(work.place.folder, recursive=True)
    if version is None:
        return _by_another(request)
    return Published(
        request_id=request.id,
        cohort=request.lineage.cohort,
        version=version,
        recordings=request.difference.missing,
        rows=sum(int(counts.sum()) for counts in gathered.windows),
        withdrawn=request.difference.gone,
        dropped=dict(gathered.dropped),
        familiarity=compared,
    )


def note(request: Request, view: View) -> None:
    """Commits that a lineage is up to the corpus although there was nothing to do, so that the next look ends at once.

    Nothing is committed where the lineage has moved on since.
    """
    before = view.position(request.lineage)

    def guard(base: PinnedTable) -> list[str]:
        now = PositionLog(view.table_url).stated(base.version).get(request.lineage, Position())
        if now.generation != before.generation or now.corpus_version > request.seen.corpus_version:
            raise OvertakenError
        return []

    after = replace(_position(request, view), generation=before.generation, request=before.request)
    embedding_table(view.table_url).replace_files(FileChange(), guard=guard, stated={request.lineage: after})


def gather(request: Request, work: Work) -> Gathered:
    """The facts of all pieces of a request, each held against its batch. Raises IntegrityError, see `publish`."""
    found = Gathered()
    folder = work.place.folder
    encoded = staging.read_facts(folder, list(work.batches))
    for batch, facts in zip(request.difference.batches(), encoded, strict=True):
        rows = facts.add.rows if facts.add else 0
        if len(facts.windows) != len(batch.recordings) or sum(facts.windows) != rows:
            raise _broken(
                work, f"{len(facts.windows)} recordings with {sum(facts.windows)} windows, in a file of {rows}, of "
                f"batch {batch.key}", f"{len(batch.recordings)} recordings and equal counts"
            )  # fmt: skip
        found.windows.append(np.array(facts.windows, np.int32))
        found.dropped.update(facts.dropped)
        found.add += [facts.add] if facts.add else []
    for facts in staging.read_facts(folder, [one.key for one in work.removals]):
        found.add += [facts.add] if facts.add else []
        found.remove += [facts.remove] if facts.remove else []
    _check_there(work, found.add)
    return found


def _check_there(work: Work, files: Sequence[DataFile]) -> None:
    """Raises IntegrityError for a file that is not there, or not whole. A listing of the partition."""
    if not files:
        return
    table_url = work.place.table_url
    folders = {one.url(table_url).rsplit("/", 1)[0] for one in files}
    sizes = {found.url: found.bytes for folder in folders for found in uri.list_details(folder)}
    for file in files:
        if sizes.get(file.url(table_url)) != file.bytes:
            raise _broken(work, f"{file.path} of {sizes.get(file.url(table_url), 'no')} bytes", f"{file.bytes} bytes")


def _still_as_seen(request: Request, remove: Sequence[DataFile], table_url: str, base: PinnedTable) -> list[str]:
    _refuse_swept(request, base)
    if is_retired(PositionLog(table_url).stated(base.version), request.lineage.model_id):
        raise OvertakenError
    if remove:
        live = set(base.files(request.lineage.partition)["path"].to_pylist())
        if not {file.path for file in remove} <= live:
            raise OvertakenError
    return []


def is_done(request: Request, table_url: str) -> bool:
    """Whether this generation was committed. Raises OvertakenError where the parts of this attempt were swept."""
    main = embedding_table(table_url).newest()
    if main is None:
        return False
    if (main.transaction_version(request.lineage.id) or 0) >= request.generation:
        return True
    _refuse_swept(request, main)
    return False


def _refuse_swept(request: Request, base: PinnedTable) -> None:
    if (base.transaction_version(swept_id(request.name)) or 0) != request.attempt:
        raise OvertakenError


def _position(request: Request, view: View, compared: Familiarity | None = None) -> Position:
    """Where the lineage stands after the request. Taking away only leaves what it is up to as it was."""
    seen, before = request.seen, view.position(request.lineage)
    return Position(
        generation=request.generation,
        content=seen.content if request.encoder or seen.content == GONE else before.content,
        corpus_version=seen.corpus_version,
        request=request.id,
        likeness=compared.likeness if compared else before.likeness,
    )


def _by_another(request: Request) -> Published:
    return Published(request_id=request.id, cohort=request.lineage.cohort, version=None, dropped={})


def _told(request: Request, compared: Familiarity | None) -> dict[str, Any]:
    lineage, encoder = request.lineage, request.encoder
    told = {
        "corpus": request.seen.corpus_url,
        "corpus_version": request.seen.corpus_version,
        "content": request.seen.content,
        "cohort": lineage.cohort,
        "model_id": lineage.model_id,
        "spec_id": lineage.spec_id,
        "generation": request.generation,
        "recordings_embedded": request.difference.missing,
        "recordings_taken_away": request.difference.gone,
        "bundle": encoder.url if encoder else None,
        "spec": encoder.spec.to_dict() if encoder else {"source": lineage.source},
        "drift": compared.to_dict() if compared else None,
    }
    return {"request": request.id, "lineage": json.dumps(told)}


def _broken(work: Work, value: str, expected: str) -> IntegrityError:
    return IntegrityError(
        f"parts of cohort {work.place.partition['cohort']}", value=value, expected=expected,
        fix=f"delete _staging/{work.place.request} beside the table and run again; nothing was committed",
    )  # fmt: skip
