"""Taking all rows of a bundle out of an embedding table, in one commit, so that no job puts them back.

The registry says first that the bundle is retired, so that no alias can come to mean it. The commit then takes away
every file of the bundle and states of each of its lineages that nothing is wanted of it. A job that was under way finds
its number taken, or the statement; a killed retirement is finished by the same command. Memory: 0.5 kB a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xmae_dist.core.errors import InputError, RunError, some_of
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.embed.positions import Position, PositionLog, embedding_table
from xmae_dist.embed.registry import Registry
from xmae_dist.embed.request import NOT_WANTED, Lineage, OvertakenError
from xmae_dist.storage.file_actions import DataFile, FileChange
from xmae_dist.storage.table import PinnedTable, Table

_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Retirement:
    """What leaves, or would leave, the table."""

    model_id: str
    cohorts: tuple[str, ...]
    files: int
    rows: int
    bytes: int
    version: int | None
    """Of the commit; None where nothing was done."""


def retire(table_url: str, model_id: str, *, bundle: str = "", dry_run: bool = False) -> Retirement:
    """Takes a bundle out. Raises InputError for one that the table does not know or that an alias means, RunError where
    other jobs committed first again and again.
    """
    registry = Registry(table_url)
    registry.state().refuse_meant(model_id)
    for attempt in range(_ATTEMPTS):
        base = Table(registry.table_url).at()
        positions = _lineages(registry.table_url, base, model_id)
        files = _files(base, model_id)
        if dry_run:
            return _told(model_id, positions, files, None)
        if not attempt:
            registry.retire(model_id, bundle)
        try:
            version = _commit(registry.table_url, model_id, positions, files)
        except OvertakenError:
            continue
        return _told(model_id, positions, files, version)
    raise RunError(
        f"bundle {model_id}", value=f"{_ATTEMPTS} commits by other jobs came first", expected="one of this job",
        fix="stop the jobs that embed with it, then run this again (it goes on)",
    )  # fmt: skip


def _lineages(table_url: str, base: PinnedTable, model_id: str) -> dict[Lineage, Position]:
    positions = PositionLog(table_url).stated(base.version)
    found = {one: position for one, position in positions.items() if one.model_id == model_id}
    if not found:
        raise InputError(
            f"bundle {model_id}",
            value=f"nothing of it in {table_url}",
            expected=f"one of {some_of(sorted({one.model_id for one in positions})) or 'none'}",
            fix="name a bundle id as in the column model_id, or the bundle's URL",
        )
    return found


def _files(base: PinnedTable, model_id: str) -> list[DataFile]:
    return [
        DataFile(
            path=one["path"],
            bytes=one["size_bytes"],
            partition={"model_id": model_id, "cohort": one["partition.cohort"]},
            rows=one["num_records"] or 0,
        )
        for one in base.files({"model_id": model_id}).to_pylist()
    ]


def _commit(table_url: str, model_id: str, positions: Mapping[Lineage, Position], files: list[DataFile]) -> int | None:
    """Raises OvertakenError where the table has moved on since it was looked at."""
    wanted = {lineage: position for lineage, position in positions.items() if position.content != NOT_WANTED}
    if not wanted:
        return None
    model_id = next(iter(wanted)).model_id
    after = {
        lineage: Position(
            generation=position.generation + 1,
            content=NOT_WANTED,
            corpus_version=position.corpus_version,
            request=digest_json({"retired": lineage.id, "generation": position.generation + 1}, 32),
        )
        for lineage, position in wanted.items()
    }

    def guard(base: PinnedTable) -> list[str]:
        now = {file.path for file in _files(base, model_id)}
        if now != {file.path for file in files} or _lineages(table_url, base, model_id) != dict(positions):
            raise OvertakenError
        return []

    version = embedding_table(table_url).replace_files(
        FileChange(remove=files),
        txn=[(lineage.id, position.generation) for lineage, position in after.items()],
        metadata={"retired": model_id},
        guard=guard,
        stated=after,
    )
    if version is None:
        raise OvertakenError
    return version


def _told(model_id: str, positions: Mapping[Lineage, Any], files: list[DataFile], version: int | None) -> Retirement:
    return Retirement(
        model_id=model_id,
        cohorts=tuple(sorted({one.cohort for one in positions})),
        files=len(files),
        rows=sum(one.rows for one in files),
        bytes=sum(one.bytes for one in files),
        version=version,
    )
