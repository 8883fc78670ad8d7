"""Orphans and vacuum: bytes that no snapshot needs, found and removed without ever racing a writer or a
reader.

A part that nobody committed is invisible, but its writer may still be at work: nothing younger than a
grace period is touched. Withdrawn samples lie inside shards shared with others: their part is copied
without them, the copy replaces it in the index by one commit, and the old part is then an orphan like any
other. Estimates of clocks of withdrawn subjects are deleted from their table.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import IntegrityError
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.storage import compaction, index, log_erasure, uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.part import PartWriter
from xmae_dist.storage.shard_reader import ShardedReader
from xmae_dist.storage.table import Table, sql_of
from xmae_dist.storage.zarr_store import ChannelReader

GRACE_S = 24 * 3600.0
# Between the clocks of two writers; the log is in the order of commits, not of their times.
_CLOCK_SKEW_S = 3600.0
_TAKE_ROWS_AWAY = ("withdraw", "compact", "drop-duplicates")

PartKey = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Orphan:
    """A part that no snapshot of the grace period refers to."""

    cohort: str
    part: str
    url: str
    age_s: float
    bytes: int


@dataclass(frozen=True, kw_only=True)
class VacuumReport:
    """What a vacuum did (or, on a dry run, would do)."""

    removed: tuple[Orphan, ...]
    compacted: tuple[str, ...]
    """Parts (cohort/part) copied without withdrawn samples."""
    estimates: int
    """Estimates of clocks that were of withdrawn subjects."""
    table_files: int
    """Files of the corpus's tables that no version of the grace period needs."""
    merged: tuple[str, ...] = ()
    """Cohorts whose many small files of the index were merged; none on a dry run."""
    old_versions: bool | None
    """Whether the bucket keeps what is removed as old versions; None where that could not be asked."""

    @property
    def bytes(self) -> int:
        return sum(orphan.bytes for orphan in self.removed)


def orphans(corpus: Corpus, *, grace_s: float = GRACE_S) -> list[Orphan]:
    """Parts that are neither referred to nor younger than `grace_s` (by the newest object in them)."""
    # The listing comes first: a part committed after it is then seen as referred to.
    parts = _listed_parts(corpus)
    needed = _needed_parts(corpus, grace_s)
    now = time.time()
    return [
        Orphan(cohort=key[0], part=key[1], url=url, age_s=now - newest_s, bytes=size)
        for key, (url, newest_s, size) in sorted(parts.items())
        if key not in needed and now - newest_s >= grace_s
    ]


def vacuum(corpus: Corpus, *, grace_s: float = GRACE_S, dry_run: bool = False) -> VacuumReport:
    """Removes withdrawn samples and orphans; safe to interrupt, repeat, and run beside writers.

    `grace_s` must be longer than the longest ingest of one part, and than any reader holds an old
    snapshot. The bytes of a withdrawn subject are gone once the vacuum that follows the compaction by
    `grace_s` has run.
    """
    wasteful = _wasteful_parts(corpus)
    if not dry_run:
        corpus.withdrawn.read()  # a list that is begun later could not name whose rows are removed here
        for cohort, part in wasteful:
            _compact(corpus, cohort, part)
    collectable = orphans(corpus, grace_s=grace_s)
    if not dry_run:
        for orphan in collectable:
            uri.delete(orphan.url, recursive=True)
    estimates = _forget_estimates(corpus, dry_run)
    merged = () if dry_run else tuple(compaction.merge_files(corpus.index))
    return VacuumReport(
        removed=tuple(collectable),
        compacted=tuple(f"{c}/{p}" for c, p in wasteful),
        estimates=estimates,
        old_versions=uri.keeps_old_versions(corpus.url),
        table_files=sum(
            vacuum_table(table, grace_s=grace_s, dry_run=dry_run, keep_versions=kept)
            for table, kept in (
                (corpus.index, _before_merges(corpus.index)),
                (corpus.alignments, ()),
                (corpus.withdrawn.table, ()),
            )
        ),
        merged=merged,
    )


def _before_merges(index: Table) -> list[int]:
    """Versions whose files were merged and which readers may still pin: those after the last withdrawal. The files of
    earlier ones hold who was withdrawn.
    """
    kept = []
    for commit in index.commits():
        if commit.info.get("xmae_operation") == "withdraw":
            break
        if commit.info.get("xmae_operation") == compaction.OPERATION:
            kept.append(commit.version - 1)
    return kept


def vacuum_table(table: Table, *, grace_s: float, dry_run: bool = False, keep_versions: Sequence[int] = ()) -> int:
    """Removes the files of a table that no version of the grace period needs (rounded up to hours), nor one of
    `keep_versions`, and what its log says of the values in them; returns how many files they are.
    """
    if not table.exists():
        return 0
    hours = math.ceil(max(0.0, grace_s) / 3600)
    found = table.vacuum(retention_hours=hours, dry_run=True, keep_versions=keep_versions)
    if found and not dry_run:
        log_erasure.forget_files(table, found)
        table.vacuum(retention_hours=hours, keep_versions=keep_versions)
    return len(found)


def _forget_estimates(corpus: Corpus, dry_run: bool) -> int:
    """Deletes the estimates of subjects who are not in the newest snapshot; returns how many there were."""
    if not corpus.alignments.exists():
        return 0
    # The estimates come first: what was estimated had been committed to the index before.
    gone = corpus.alignments.read(columns=["subject_id"])["subject_id"].combine_chunks()
    for batch in corpus.snapshot().batches(["subject_id"]):
        gone = gone.filter(pc.invert(pc.is_in(gone, value_set=batch["subject_id"])))
    if len(gone) and not dry_run:
        corpus.alignments.delete(sql_of([("subject_id", "in", sorted(set(gone.to_pylist())))]))
    return len(gone)


def _listed_parts(corpus: Corpus) -> dict[PartKey, tuple[str, float, int]]:
    """(cohort, part) → (URL, time of the newest object, bytes) of every part in the store, committed or
    not.
    """
    root = uri.join(corpus.url, "signals")
    parts: dict[PartKey, tuple[str, float, int]] = {}
    for found in uri.list_details(root):
        cohort, part = found.url.removeprefix(root).lstrip("/").split("/")[:2]
        url, newest_s, size = parts.get((cohort, part), (uri.join(root, cohort, part), 0.0, 0))
        parts[(cohort, part)] = (url, max(newest_s, found.modified_s), size + found.bytes)
    return parts


def _needed_parts(corpus: Corpus, grace_s: float) -> set[PartKey]:
    """Parts of every version that was the newest at some moment of the grace period.

    Ingests only add, so beside the newest version only those before a commit that took rows away have to be read.
    """
    since_ms = (time.time() - grace_s) * 1000
    versions = {corpus.index.version()}
    for commit in corpus.index.commits():
        if commit.info["timestamp"] < since_ms - _CLOCK_SKEW_S * 1000:
            break
        if commit.info["timestamp"] >= since_ms and commit.info.get("xmae_operation") in _TAKE_ROWS_AWAY:
            versions.add(commit.version - 1)
    needed: set[PartKey] = set()
    for version in versions:
        for batch in corpus.snapshot(version, allow_withdrawn=True).batches(["cohort", "part"]):
            parts = pa.Table.from_batches([batch]).group_by(["cohort", "part"]).aggregate([])
            needed.update(zip(parts["cohort"].to_pylist(), parts["part"].to_pylist(), strict=True))
    return needed


def _wasteful_parts(corpus: Corpus) -> list[PartKey]:
    """Parts in the newest snapshot with arrays, or spans of arrays, that no row refers to."""
    arrays: set[str] = set()
    visible: set[PartKey] = set()
    wasteful: set[PartKey] = set()
    for path, rows in corpus.snapshot().arrays():
        key = (rows[0].cohort, rows[0].part)
        arrays.add(path)
        visible.add(key)
        if _has_unused_span(corpus, path, rows):
            wasteful.add(key)
    for found in uri.list_details(uri.join(corpus.url, "signals")):
        path = found.url.removeprefix(corpus.url).strip("/")
        if path.endswith("/zarr.json") and path.removesuffix("/zarr.json") not in arrays:
            cohort, part = path.split("/")[1:3]
            wasteful |= {(cohort, part)} & visible
    return sorted(wasteful)


def _has_unused_span(corpus: Corpus, path: str, rows: list[IndexRow]) -> bool:
    """Whether rows, in order of offset, leave samples of their array uncovered."""
    covered = end = 0
    for row in rows:
        stop = row.offset + row.length
        covered += max(0, stop - max(end, row.offset))
        end = max(end, stop)
    return covered < ShardedReader(uri.join(corpus.url, path)).length


def _compact(corpus: Corpus, cohort: str, part: str) -> None:
    """Copies the samples that rows refer to into a new part, and lets it take the old one's place in the
    index.
    """
    filters = [("cohort", "=", cohort), ("part", "=", part)]
    rows = index.from_arrow(corpus.index.read(filters=filters))
    moved: dict[tuple[str, int], IndexRow] = {}
    with corpus.begin_part(cohort, re.sub(r"\.c(\.\d+)?$", "", part) + ".c") as copy:
        for row in sorted(rows, key=lambda row: (row.array_path, row.offset)):
            moved[row.array_path, row.offset] = _copy_row(corpus, row, copy)

    def replaced(current: pa.Table) -> pa.Table:
        # Of the rows at this moment: one withdrawn while we copied stays withdrawn.
        there = index.from_arrow(current)
        return index.to_arrow([moved.get((row.array_path, row.offset), row) for row in there])

    corpus.index.rewrite(
        [("cohort", "=", cohort), ("part", "in", [part, copy.part])], replaced, {"xmae_operation": "compact"}
    )


def _copy_row(corpus: Corpus, row: IndexRow, copy: PartWriter) -> IndexRow:
    source = ChannelReader(uri.join(corpus.url, row.array_path))
    raw = source.read_raw(row.offset, row.offset + row.length)
    if sha256_hex(raw) != row.digest:
        raise IntegrityError(
            f"part {row.part}, recording {row.recording_id}, channel {row.channel}",
            value="samples that are not those of the index",
            expected=f"SHA-256 {row.digest}",
            fix="`xmae verify` lists all damage; nothing was removed",
        )
    have = source.attributes
    channel = copy.channel(
        row.channel,
        dtype=source.dtype,
        rate_hz=have.rate_hz,
        unit=have.unit,
        scale=have.scale,
        offset=have.offset,
        missing=have.missing,
        device=have.device,
        body_site=have.body_site,
    )
    return dataclasses.replace(row, part=copy.part, array_path=channel.array_path, offset=channel.append(raw))
