"""Staged parts -> one commit: checked first, made once, found done by whoever comes second."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import IntegrityError, StorageError
from xmae_dist.embed import staging
from xmae_dist.embed.backlog import read_state, write_manifest
from xmae_dist.embed.encode import part_facts
from xmae_dist.embed.request import Request
from xmae_dist.storage import uri
from xmae_dist.storage.table import Table, sql_of

PARTITION_BY = ("model_id", "cohort")


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a commit did. `version` is None when another publisher had committed this generation before."""

    request_id: str
    cohort: str
    version: int | None
    recordings: int
    rows: int
    withdrawn: int
    dropped: dict[str, int]


def publish(request: Request, table_url: str) -> Published:
    """Check the staged parts of a request and append them in one commit; staging is removed afterwards.

    The commit carries two application transactions: the request, and its number in the lineage. The second keeps two
    jobs that looked at different snapshots from both adding what they have in common. Whoever comes second finds it
    done, and its parts perhaps gone. Raises IntegrityError for a recording without a part, a duplicate, a value that is
    not finite, or a damaged part; then nothing is committed.
    """
    try:
        rows, counts, dropped = collect(request, table_url)
    except (IntegrityError, StorageError):
        if read_state(table_url, request.cohort, request.encoder).generation < request.generation:
            raise
        return _nothing(request)
    table = Table(table_url)
    held = read_state(table_url, request.cohort, request.encoder)
    kept = {name: n for name, n in held.windows.items() if name in request.contents and name not in request.stale}
    write_manifest(table_url, request, kept | counts)
    withdrawn = _withdraw(table, request)
    txn = [(request.request_id, request.generation), (request.lineage, request.generation)]
    version = table.append(rows, txn=txn, metadata=_lineage(request, len(rows)), partition_by=PARTITION_BY)
    uri.delete(staging.staging_url(table_url, request), recursive=True)
    return Published(
        request_id=request.request_id,
        cohort=request.cohort,
        version=version,
        recordings=len(counts),
        rows=len(rows),
        withdrawn=withdrawn,
        dropped=dropped,
    )


def collect(request: Request, table_url: str) -> tuple[pa.Table, dict[str, int], dict[str, int]]:
    """All rows of a request, windows by recording, and dropped windows by reason; raises IntegrityError (see above)."""
    finished = staging.finished(staging.staging_url(table_url, request))
    tables: list[pa.Table] = []
    counts: dict[str, int] = {}
    dropped: Counter[str] = Counter()
    for batch in request.batches():
        if batch.key not in finished:
            raise _broken(request, f"no part for {batch.recordings[0].recording_id} and its batch", "every recording")
        part = staging.read_part(finished[batch.key])
        part_counts, part_dropped = part_facts(part)
        _check_part(request, part, part_counts, {r.recording_id for r in batch.recordings})
        tables.append(part.replace_schema_metadata(None))
        counts |= part_counts
        dropped += Counter(part_dropped)
    if not tables:  # only withdrawals: an empty commit still moves the lineage on
        tables = [Table(table_url).read(filters=[("cohort", "=", "")])]
    rows = pa.concat_tables(tables)
    _check_rows(request, rows)
    return rows, counts, dict(dropped)


def _check_part(request: Request, part: pa.Table, counts: dict[str, int], expected: set[str]) -> None:
    if set(counts) != expected:
        raise _broken(request, f"a part with recordings {sorted(set(counts) ^ expected)[:3]} too many or too few",
                      "exactly its batch")  # fmt: skip
    found = Counter(part["recording_id"].to_pylist())
    if any(found.get(name, 0) != n for name, n in counts.items()) or sum(counts.values()) != len(part):
        raise _broken(request, "a part whose rows disagree with its own counts", "equal counts")


def _check_rows(request: Request, rows: pa.Table) -> None:
    keys = rows.group_by(["recording_id", "start_s"]).aggregate([([], "count_all")])
    if len(keys) != len(rows):
        raise _broken(request, f"{len(rows) - len(keys)} duplicate windows", "each window once")
    values = pc.list_flatten(rows["embedding"]).to_numpy() if len(rows) else np.zeros(0, np.float32)
    if not np.isfinite(values).all():
        raise _broken(request, f"{np.count_nonzero(~np.isfinite(values))} values that are not finite", "finite values")


def _withdraw(table: Table, request: Request) -> int:
    """Remove rows of recordings that the cohort no longer has, or has with other content, for this encoder."""
    if not request.stale:
        return 0
    mine = [
        ("cohort", "=", request.cohort),
        ("model_id", "=", request.encoder.model_id),
        ("spec_id", "=", request.encoder.spec_id),
        ("recording_id", "in", list(request.stale)),
    ]
    removed = table.delete(
        sql_of(mine),
        metadata={"request": request.request_id, "reason": "no longer in the cohort"},
        # A slower publisher of this generation must not remove what the faster one has added since.
        unless=(request.lineage, request.generation),
    )
    return 0 if removed is None else len(request.stale)


def _nothing(request: Request) -> Published:
    return Published(
        request_id=request.request_id,
        cohort=request.cohort,
        version=None,
        recordings=0,
        rows=0,
        withdrawn=0,
        dropped={},
    )


def _lineage(request: Request, n_rows: int) -> dict[str, Any]:
    return {
        "request": request.request_id,
        "lineage": json.dumps(
            {
                "corpus": request.snapshot.url,
                "corpus_version": request.snapshot.version,
                "snapshot": _fingerprint(request),
                "cohort": request.cohort,
                "bundle": request.encoder.url,
                "model_id": request.encoder.model_id,
                "spec_id": request.encoder.spec_id,
                "spec": request.encoder.spec.to_dict(),
                "generation": request.generation,
                "rows": n_rows,
            }
        ),
    }


def _fingerprint(request: Request) -> str | None:
    """Of the cohort in the snapshot; None where all of it was withdrawn."""
    known = request.cohort in request.snapshot.cohorts()
    return request.snapshot.cohort(request.cohort).fingerprint if known else None


def _broken(request: Request, value: str, expected: str) -> IntegrityError:
    return IntegrityError(
        f"staged parts of cohort {request.cohort}", value=value, expected=expected,
        fix=f"delete _staging/{request.request_id} beside the table and run again; nothing was committed",
    )  # fmt: skip
