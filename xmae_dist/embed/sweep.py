"""Bytes below an embedding table that nothing needs: found and removed without racing a job or a reader.

A file that no commit names may be a running job's: it is kept while anything below the job's staging folder is younger
than a grace period. A job older than that is taken for dead: first one commit says that its attempt was swept, on which
its own commit would be refused, then its files go. A file that a commit took away is kept for the grace period after
that commit, for readers of older versions. Memory: the listing of the table, some 300 bytes an object.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import tempfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from xmae_dist.core.errors import StorageError
from xmae_dist.embed import manifest
from xmae_dist.embed.backlog import swept_id
from xmae_dist.embed.part import refuse_other_table
from xmae_dist.embed.positions import PositionLog, embedding_table
from xmae_dist.embed.request import OvertakenError
from xmae_dist.storage import uri
from xmae_dist.storage.diagnose import NOTHING_THERE
from xmae_dist.storage.file_actions import FileChange
from xmae_dist.storage.log_erasure import forget_files
from xmae_dist.storage.table import PinnedTable, Table
from xmae_dist.storage.uri import StoredObject

_INTERNAL = re.compile(r"(_delta_log|_staging|_requests|_manifests|_models)/")


@dataclass(kw_only=True)
class SweepReport:
    """What a sweep did (or, on a dry run, would do)."""

    dead_requests: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    manifest_rows: int = 0
    """Rows of manifests that no longer say anything: of recordings that left, or of requests that died."""

    def count(self, gone: Iterable[StoredObject]) -> list[StoredObject]:
        listed = list(gone)
        self.files += len(listed)
        self.bytes += sum(one.bytes for one in listed)
        return listed


def sweep(table_url: str, *, grace_s: float, dry_run: bool = False) -> SweepReport:
    """Removes what no version of the grace period needs; safe to interrupt, repeat, and run beside jobs and readers.

    `grace_s` must be longer than a job goes without finishing a batch, and than any reader holds a version. Raises
    InputError for a table that is no embedding table.
    """
    report = SweepReport()
    table = embedding_table(table_url)  # its URL is the one that listings use
    # The listing comes first: what is committed after it is then seen as needed.
    found = _Listing(table.url, grace_s)
    main = table.newest()
    if main is None:
        return report
    refuse_other_table(main.schema, table.url)
    for request, objects in found.dead.items():
        if dry_run or _is_given_up(table, request, found):
            report.dead_requests.append(request)
            found.forget(request)
            _delete(report.count(objects), dry_run)
    if found.dead:  # one that was taken for dead may have been committed before it could be given up
        main = table.newest() or main
    alive = set(found.staged)
    _delete_files(table, report.count(_unneeded(table, main, found.data, alive, grace_s)), dry_run)
    if (manifests := manifest.manifest_table(table_url)).exists():
        report.manifest_rows = _settled(table, manifests, dry_run)
        listed = [one for one in uri.list_details(manifests.url) if "/_delta_log/" not in one.url]
        newest = manifests.at(manifests.version())
        _delete_files(manifests, report.count(_unneeded(manifests, newest, listed, alive, grace_s)), dry_run)
        _delete(report.count(_carried_over(found.v1, newest)), dry_run)
    return report


class _Listing:
    """All objects of a table, by what they are for."""

    def __init__(self, table_url: str, grace_s: float) -> None:
        self.data: list[StoredObject] = []
        self.v1: list[StoredObject] = []
        self.staged: dict[str, list[StoredObject]] = {}
        for one in uri.list_details(table_url):
            path = one.url.removeprefix(table_url).lstrip("/")
            kind = _INTERNAL.match(path)
            if kind is None:
                self.data.append(one)
            elif kind.group(1) == "_staging":
                self.staged.setdefault(path.split("/")[1], []).append(one)
            elif kind.group(1) == "_requests":
                self.v1.append(one)
        until_s = time.time() - grace_s
        self.dead = {
            request: objects
            for request, objects in self.staged.items()
            if max(one.modified_s for one in objects) <= until_s
        }

    def forget(self, request: str) -> None:
        del self.staged[request]


def _is_given_up(table: Table, request: str, found: _Listing) -> bool:
    """Whether a request cannot be committed any more, after a commit that says so where one is needed."""
    begun = next((one.url for one in found.dead[request] if one.url.endswith("/begun.json")), None)
    if begun is None:
        return True  # of format v1, or written by a worker after its request was committed
    try:
        told = json.loads(uri.read_bytes(begun))
    except StorageError as error:
        if error.value != NOTHING_THERE:
            raise
        return False  # its job has just committed

    def guard(base: PinnedTable) -> list[str]:
        if base.transaction_version(request) is not None:
            raise OvertakenError
        return []

    with contextlib.suppress(OvertakenError):  # it was committed; what is left of its staging can go
        table.replace_files(FileChange(), txn=(swept_id(told["name"]), told["attempt"] + 1), guard=guard)
    return True


def _unneeded(
    table: Table, newest: PinnedTable, listed: Iterable[StoredObject], alive: set[str], grace_s: float
) -> Iterator[StoredObject]:
    """Data files that are not in the newest version, were not taken away lately, and are of no job that may live."""
    until_s = time.time() - grace_s
    live = set(newest.files()["path"].to_pylist())
    lately = set(_taken_away_since(table, until_s * 1000))
    needed = {uri.join(table.url, urllib.parse.unquote(path)) for path in live | lately}
    for one in listed:
        request = one.url.rsplit("/", 1)[-1].split("-")[0]
        if one.url not in needed and request not in alive and one.modified_s <= until_s:
            yield one


def _taken_away_since(table: Table, since_ms: float) -> Iterator[str]:
    for commit in table.commits():
        if commit.info["timestamp"] < since_ms:
            return
        yield from commit.removed


def _settled(table: Table, manifests: Table, dry_run: bool) -> int:
    """Rewrites the manifest of each lineage that has rows which say nothing any more; returns how many there were.

    Whoever appended to the manifests had begun before, and is committed before its staging goes: read in this order,
    every request with rows is found staged or committed, unless it was swept.
    """
    there = manifests.at(manifests.version())
    staging = uri.join(table.url, "_staging")
    # By objects: a local folder stays where its files went.
    staged = {one.removeprefix(staging).split("/")[1] for one in uri.list_urls(staging, recursive=True)}
    positions = {one.id: position for one, position in PositionLog(table.url).stated(table.version()).items()}
    rows = 0
    for lineage in set(there.partition_values("lineage")) & set(positions):
        with tempfile.TemporaryDirectory(prefix="xmae-manifest-") as folder, contextlib.suppress(OvertakenError):
            rows += manifest.settle(manifests, there, lineage, positions[lineage], staged, folder, dry_run=dry_run)
    return rows


def _carried_over(v1: Sequence[StoredObject], there: PinnedTable) -> Iterator[StoredObject]:
    """Manifests of format v1 of lineages that the manifest table has."""
    by_lineage = itertools.groupby(v1, key=lambda one: one.url.partition("/_requests/")[2].split("/")[0])
    for lineage, objects in by_lineage:
        if there.transaction_version(lineage) is not None:
            yield from objects


def _delete_files(table: Table, files: Sequence[StoredObject], dry_run: bool) -> None:
    """Data files, and what the log says of the values in them, which are names too."""
    if not dry_run:
        forget_files(table, [one.url.removeprefix(table.url).lstrip("/") for one in files])
    _delete(files, dry_run)


def _delete(objects: Iterable[StoredObject], dry_run: bool) -> None:
    if not dry_run:
        for one in objects:
            uri.delete(one.url)
