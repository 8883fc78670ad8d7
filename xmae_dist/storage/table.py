"""Delta Lake tables (delta-rs): the one mechanism here for whatever must happen whole or not at all.

An append may carry an application transaction (app id, version). Of any number of writers, retries and
restarts that carry the same one, exactly one commits; the others learn that it was done. Each commit also
carries a write id, so that a commit whose answer was lost on the network is recognised as our own.
"""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from xmae_dist.core.errors import StorageError
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.diagnose import NOTHING_THERE, explain

WRITE_ID = "xmae_write_id"
_COMMIT_ATTEMPTS = 20
_LOST_PAUSE_S = 0.1
_PAUSES_S = (0.1, 0.4, 1.6, 1.6)
_T = TypeVar("_T")

# Readers pin versions for as long as runs are kept: the log is never shortened behind their back.
_CONFIGURATION = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.deletedFileRetentionDuration": "interval 30 days",
}

Filters = Sequence[tuple[str, str, Any]]
Txn = tuple[str, int]
Guard = Callable[[int], Sequence[str]]
"""What a commit depends on: it is told the version that the commit is made on, raises where that forbids the commit,
and returns application ids. Of two commits at once with an id in common, the later one is tried again on what the first
left: its guard is asked anew."""


class Table:
    """A Delta table at `url`; every call looks at the newest version unless one is named.

    Storage failures raise StorageError, and so does a URL that delta-rs takes for another place. Holds no connection,
    so it is picklable and safe between threads.
    """

    def __init__(self, url: str) -> None:
        self.url = uri.checked_place(url)  # delta-rs would read another place than we write

    def exists(self) -> bool:
        return bool(self._patiently(lambda: DeltaTable.is_deltatable(self.url, uri.delta_options(self.url))))

    def create(self, schema: pa.Schema, *, partition_by: Sequence[str] = ()) -> bool:
        """Makes an empty table (version 0); False where there is one already. Refuses stores without safe
        commits.
        """
        if self.exists():
            return False
        uri.probe_conditional_put(self.url)
        # delta-rs lets two creators both commit (as versions 0 and 1): version 0 is put here, where one wins.
        first = _commit_key(self.url, 0)
        return uri.create_exclusively(first, _first_commit(self.url, schema, partition_by))

    def version(self) -> int:
        """The newest version. Raises StorageError where there is no table."""
        return self._load().version()

    def transaction_version(self, app_id: str) -> int | None:
        """The version last committed under this application id, None where there was none (or no table)."""
        return self._load().transaction_version(app_id) if self.exists() else None

    def append(
        self,
        rows: pa.Table,
        txn: Txn | Sequence[Txn] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        partition_by: Sequence[str] = (),
        guard: Guard | None = None,
    ) -> int | None:
        """Adds rows in one commit, making the table where there is none; returns the version of that commit.

        Returns None, and changes nothing, where `txn` = (app id, version) was committed before, here or by
        another writer at this moment. Several may be given: any of them committed before makes it None. What `guard`
        finds holds at the moment of the commit; what it raises passes.
        """
        self.create(rows.schema, partition_by=partition_by)

        def write(table: DeltaTable, commit: CommitProperties) -> None:
            write_deltalake(table, rows, mode="append", commit_properties=commit)

        return self._commit(write, txn, metadata, guard=guard)

    def rewrite(
        self,
        filters: Filters,
        transform: Callable[[pa.Table], pa.Table],
        metadata: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Replaces the rows where all `filters` hold by `transform` of them, in one commit.

        `transform` sees the rows as they are at the moment of committing; it is called again where another
        writer came between. What it returns must satisfy `filters` too.
        """

        def write(table: DeltaTable, commit: CommitProperties) -> None:
            rows = transform(parquet.scan(table, predicate=sql_of(filters)))
            write_deltalake(table, rows, mode="overwrite", predicate=sql_of(filters), commit_properties=commit)

        return self._commit(write, None, metadata)

    def delete(
        self,
        predicate: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        unless: Txn | None = None,
        guard: Guard | None = None,
    ) -> int | None:
        """Removes the rows that satisfy the SQL `predicate`, in one commit.

        Returns None, and changes nothing, where the transaction `unless` was committed, by whomever: rows that come
        with it stay. `guard` as in `append`.
        """

        def write(table: DeltaTable, commit: CommitProperties) -> None:
            table.delete(predicate, commit_properties=commit)

        return self._commit(write, None, metadata, unless=unless, guard=guard)

    def read(
        self,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        filters: Filters | None = None,
    ) -> pa.Table:
        """Rows of a version (the newest unless told), optionally some columns, and rows where all
        `filters` hold. They come in no certain order.
        """

        def rows() -> pa.Table:
            return parquet.scan(self._loaded(version), columns, sql_of(filters) if filters else None)

        return self._patiently(rows, version)

    def batches(
        self, version: int | None = None, columns: Sequence[str] | None = None, filters: Filters | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows of `read`, some thousands at a time, so that memory does not grow with them. Where the connection
        breaks amid them it raises: what was given out cannot be taken back.
        """

        def opened() -> tuple[pa.RecordBatch | None, Iterator[pa.RecordBatch]]:
            found = parquet.batches(self._loaded(version), columns, sql_of(filters) if filters else None)
            return next(found, None), found

        first, others = self._patiently(opened, version)
        if first is None:
            return
        yield first
        try:
            yield from others
        except (OSError, DeltaError) as error:
            raise _explained(self.url, error, version) from error

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Commits, newest first: version, timestamp (ms), operation and what `metadata` carried.

        Read from the log itself: delta-rs numbers commits wrongly while others are committing.
        """
        newest = self.version()
        oldest = 0 if limit is None else max(0, newest - limit + 1)
        with ThreadPoolExecutor(8, thread_name_prefix="delta-history") as pool:
            return list(pool.map(self._commit_info, range(newest, oldest - 1, -1)))

    def _commit_info(self, version: int) -> dict[str, Any]:
        for line in uri.read_bytes(_commit_key(self.url, version)).splitlines():
            action = json.loads(line)
            if "commitInfo" in action:
                return {**action["commitInfo"], "version": version}
        return {"version": version, "timestamp": 0, "operation": "unknown"}

    def vacuum(self, *, retention_hours: int, dry_run: bool = False) -> list[str]:
        """Removes data files that no version younger than `retention_hours` needs; returns their paths."""

        def removed() -> list[str]:
            return self._loaded().vacuum(
                retention_hours=retention_hours, enforce_retention_duration=False, dry_run=dry_run
            )

        return self._patiently(removed)

    def _load(self) -> DeltaTable:
        return self._patiently(self._loaded)

    def _loaded(self, version: int | None = None) -> DeltaTable:
        return DeltaTable(self.url, version=version, storage_options=uri.delta_options(self.url))

    def _patiently(self, action: Callable[[], _T], version: int | None = None) -> _T:
        """The result of `action`, which may be repeated: delta-rs gives up on a connection that broke."""
        for pause_s in (*_PAUSES_S, None):
            try:
                return action()
            except TableNotFoundError:
                what = "no table there" if version is None else f"no version {version} there"
                raise StorageError(self.url, value=what, expected="a Delta table", fix="check the URL") from None
            except (OSError, DeltaError) as error:
                if not _is_broken(error):
                    raise _explained(self.url, error, version) from error
                self._after(error, pause_s)
        raise AssertionError("the last pause is None, which raises")

    def _after(self, error: OSError | DeltaError, pause_s: float | None) -> None:
        """Waits before another try; raises where the store cannot be used, or `pause_s` is None."""
        told = explain(self.url, error)
        if pause_s is None or told.value == NOTHING_THERE:
            raise told from error
        uri.probe(self.url)
        time.sleep(pause_s)

    def _commit(
        self,
        write: Any,
        txn: Txn | Sequence[Txn] | None,
        metadata: Mapping[str, Any] | None,
        *,
        unless: Txn | None = None,
        guard: Guard | None = None,
    ) -> int | None:
        """Commits until it is done by us (its version) or turns out to be done already (None)."""
        write_id = uuid.uuid4().hex
        txns = _listed(txn)
        done = [*txns, *_listed(unless)]
        breaks = iter((*_PAUSES_S, None))
        asked: tuple[int, Sequence[str]] = (-1, ())
        for attempt in range(_COMMIT_ATTEMPTS):
            time.sleep(attempt * _LOST_PAUSE_S * int(write_id[:4], 16) / 0xFFFF)  # losers come back one by one
            table = self._load()
            if any(_reached(table.transaction_version(app_id), version) for app_id, version in done):
                return self._own_commit(write_id)
            # The next number of each: of two commits on one version that take it, delta-rs lets one through.
            if guard is not None and asked[0] != table.version():  # what held on a version holds on it still
                asked = (table.version(), guard(table.version()))
            held = [(app_id, (table.transaction_version(app_id) or 0) + 1) for app_id in asked[1]]
            commit = CommitProperties(
                custom_metadata={**(metadata or {}), WRITE_ID: write_id},
                app_transactions=[Transaction(app_id, version) for app_id, version in (*txns, *held)] or None,
                max_commit_retries=_COMMIT_ATTEMPTS,
            )
            try:
                write(table, commit)
            except CommitFailedError:
                continue  # someone else committed something that ours must see first
            except (OSError, DeltaError) as error:
                if not _is_broken(error):
                    raise _explained(self.url, error, None) from error
                self._after(error, next(breaks))
                if (arrived := self._own_commit(write_id)) is not None:
                    return arrived  # only the answer was lost
                continue
            return table.version()
        raise StorageError(
            self.url,
            value=f"{_COMMIT_ATTEMPTS} commits lost to other writers",
            expected="a turn to commit",
            fix="run fewer writers at once, then run this again (it is safe to repeat)",
        )

    def _own_commit(self, write_id: str) -> int | None:
        """The version of our commit, if it arrived although its answer did not; None where another writer
        was first.
        """
        for commit in self.history(_COMMIT_ATTEMPTS):
            if commit.get(WRITE_ID) == write_id:
                return int(commit["version"])
        return None


def _commit_key(url: str, version: int) -> str:
    return uri.join(url, "_delta_log", f"{version:020d}.json")


def _first_commit(url: str, schema: pa.Schema, partition_by: Sequence[str]) -> bytes:
    """What delta-rs writes as version 0 of an empty table."""
    with tempfile.TemporaryDirectory(prefix="xmae-table-") as folder:
        DeltaTable.create(folder, schema=schema, partition_by=list(partition_by), configuration=_CONFIGURATION)
        actions = [json.loads(line) for line in uri.read_bytes(_commit_key(folder, 0)).splitlines()]
    for action in actions:
        if "commitInfo" in action:
            action["commitInfo"]["operationParameters"]["location"] = url
    return "\n".join(json.dumps(action) for action in actions).encode()


def _listed(txn: Txn | Sequence[Txn] | None) -> list[Txn]:
    if txn is None:
        return []
    return [txn] if isinstance(txn, tuple) and isinstance(txn[0], str) else list(txn)  # type: ignore[list-item,arg-type]


def sql_of(filters: Filters) -> str:
    """The SQL predicate of `(column, "=" | "in", value)` filters that must all hold; strings are quoted."""
    return " AND ".join(f"{column} {_condition(operator, value)}" for column, operator, value in filters)


def _condition(operator: str, value: Any) -> str:
    if operator == "in":
        if not value:
            return "IS NULL AND FALSE"  # SQL has no empty list
        return f"IN ({', '.join(_literal(one) for one in value)})"
    if operator in ("=", "!=", "<", "<=", ">", ">="):
        return f"{operator} {_literal(value)}"
    raise ValueError(f"no SQL for the operator {operator!r}")


def _literal(value: Any) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def _is_broken(error: OSError | DeltaError) -> bool:
    """Whether it was the connection: delta-rs names an answer that was cut off while it listed as one of its own."""
    return isinstance(error, OSError) or "response body error" in str(error)


def _reached(committed: int | None, version: int) -> bool:
    return committed is not None and committed >= version


def _explained(url: str, error: OSError | DeltaError, version: int | None) -> StorageError:
    told = explain(url, error)
    if version is not None and "endpoint" not in str(told.value):
        return StorageError(
            url,
            value=f"no version {version} there",
            expected="a version of this table",
            fix="see its history",
        )
    return told
