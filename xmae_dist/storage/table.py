"""Delta Lake tables (delta-rs): the one mechanism here for whatever must happen whole or not at all.

An append may carry an application transaction (app id, version). Of any number of writers, retries and
restarts that carry the same one, exactly one commits; the others learn that it was done. Each commit also
carries a write id, so that a commit whose answer was lost on the network is recognised as our own.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from xmae_dist.core.errors import StorageError
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.diagnose import NOTHING_THERE, explain
from xmae_dist.storage.file_actions import FileChange, log_entry

WRITE_ID = "xmae_write_id"
CHECKPOINT_EVERY = 10
_COMMIT_ATTEMPTS = 60
_MOVES = 20
_COMMITS_AT_ONCE = 8
_LOST_PAUSE_S = 0.1
_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 1.6, 1.6, 1.6)
_T = TypeVar("_T")

# Readers pin versions for as long as runs are kept: the log is never shortened behind their back.
_CONFIGURATION = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.deletedFileRetentionDuration": "interval 30 days",
}

Filters = Sequence[tuple[str, str, Any]]
Txn = tuple[str, int]
Guard = Callable[["PinnedTable"], Sequence[str]]
"""What a commit depends on: it is told the version that the commit is made on, raises where that forbids the commit,
and returns application ids. Of two commits at once with an id in common, the later one is tried again on what the first
left: its guard is asked anew."""


class Account(Protocol):
    """What every commit of a table states about the table."""

    def summed(self, batches: Iterable[pa.RecordBatch]) -> Any:
        """What rows come to that a commit adds or takes away."""

    def statement(self, base: PinnedTable, removed: Any, added: Any) -> Mapping[str, str]:
        """Metadata of the commit that is made on `base`, given what was `summed` (None for no rows)."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One entry of the log."""

    version: int
    info: Mapping[str, Any]
    """Timestamp (ms), operation and what the commit's metadata carried."""
    changes_rows: bool
    """Whether the table has other rows after it, as far as the log says; not where files were only rearranged."""
    removed: Sequence[str]
    """Paths of files that it took away, as the log has them."""


@dataclass(frozen=True, kw_only=True)
class _Write:
    """A change of a table that waits for its commit."""

    run: Callable[[CommitProperties], object]
    removed: Any = None
    added: Any = None


class Table:
    """A Delta table at `url`; every call looks at the newest version unless one is named.

    Storage failures raise StorageError, and so does a URL that delta-rs takes for another place. Holds no connection,
    so it is picklable and safe between threads.
    """

    def __init__(self, url: str, account: Account | None = None) -> None:
        """`account`: what commits state about the table; each is then made on the version that it was stated for."""
        self.url = uri.checked_place(url)  # delta-rs would read another place than we write
        self._account = account

    def exists(self) -> bool:
        return bool(self.patiently(lambda: DeltaTable.is_deltatable(self.url, uri.delta_options(self.url))))

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
        added = self._summed(rows.to_batches())

        def prepare(table: DeltaTable) -> _Write:
            return _Write(
                run=lambda commit: write_deltalake(table, rows, mode="append", commit_properties=commit), added=added
            )

        return self._commit(prepare, txn, metadata, guard=guard)

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

        predicate = sql_of(filters)

        def prepare(table: DeltaTable) -> _Write:
            before = parquet.scan(table, predicate=predicate)
            after = transform(before)

            def run(commit: CommitProperties) -> None:
                write_deltalake(table, after, mode="overwrite", predicate=predicate, commit_properties=commit)

            return _Write(run=run, removed=self._summed(before.to_batches()), added=self._summed(after.to_batches()))

        return self._commit(prepare, None, metadata)

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

        def prepare(table: DeltaTable) -> _Write:
            removed = self._summed(parquet.stream(table, predicate=predicate))
            return _Write(run=lambda commit: table.delete(predicate, commit_properties=commit), removed=removed)

        return self._commit(prepare, None, metadata, unless=unless, guard=guard)

    def replace_files(
        self,
        change: FileChange,
        txn: Txn | Sequence[Txn] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        guard: Guard | None = None,
        stated: Any = None,
    ) -> int | None:
        """Adds files that lie below the table already, and takes others away, in one commit of the table there is.

        Nothing but file names passes through here, so the size of a change is the number of its files: about 0.5 kB
        of log each. Whether the files that go are still there is for `guard` to see: the commit is made on the very
        version that it was asked about. `stated` is told to the table's account as what the commit adds. `txn`, and
        what is returned, as in `append`.
        """

        def prepare(table: DeltaTable) -> _Write:
            return _Write(run=lambda commit: self._put_entry(table, change, commit), added=stated)

        return self._commit(prepare, txn, metadata, guard=guard)

    def _put_entry(self, table: DeltaTable, change: FileChange, commit: CommitProperties) -> None:
        version = table.version() + 1
        transactions = [(one.app_id, one.version) for one in commit.app_transactions or ()]
        metadata = commit.custom_metadata or {}
        entry = log_entry(change, base=table.version(), metadata=metadata, transactions=transactions)
        if not uri.create_exclusively(_commit_key(self.url, version), entry):
            raise CommitFailedError(f"version {version} was made by another writer")
        table.load_as_version(version)

    def _summed(self, batches: Iterable[pa.RecordBatch]) -> Any:
        return None if self._account is None else self._account.summed(batches)

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

        return self.patiently(rows, version)

    def at(self, version: int | None = None) -> PinnedTable:
        """A version of the table (the newest unless told), to be read from more than once: the log is read here, and
        not again.
        """
        return PinnedTable(self, self.patiently(lambda: self._loaded(version), version))

    def newest(self) -> PinnedTable | None:
        """The newest version, as `at`; None where there is no table."""
        if not self.exists():
            return None
        return PinnedTable(self, self._load())

    def history(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Commits, newest first: version, timestamp (ms), operation and what `metadata` carried; a request for each."""
        return [{**one.info, "version": one.version} for one in itertools.islice(self.commits(), limit)]

    def commits(self) -> Iterator[Commit]:
        """The entries of the log, newest first, some at a time.

        Read from the log itself: delta-rs numbers commits wrongly while others are committing.
        """
        newest = self.version()
        with ThreadPoolExecutor(_COMMITS_AT_ONCE, thread_name_prefix="delta-history") as pool:
            for top in range(newest, -1, -_COMMITS_AT_ONCE):
                yield from pool.map(self.commit, range(top, max(-1, top - _COMMITS_AT_ONCE), -1))

    def commit(self, version: int) -> Commit:
        """The entry of the log that made `version`, by one request. Raises StorageError where there is none."""
        actions = [json.loads(line) for line in uri.read_bytes(_commit_key(self.url, version)).splitlines()]
        info = next(
            (one["commitInfo"] for one in actions if "commitInfo" in one), {"timestamp": 0, "operation": "unknown"}
        )
        files = [one.get("add") or one.get("remove") for one in actions]
        return Commit(
            version=version,
            info=info,
            changes_rows=any(one["dataChange"] for one in files if one),
            removed=[one["remove"]["path"] for one in actions if "remove" in one],
        )

    def merge_files(self, column: str, value: str, metadata: Mapping[str, Any]) -> bool:
        """Rewrites the small data files of one partition as few, in a commit that changes no row.

        False where there was nothing to merge, or another writer took files away meanwhile. delta-rs may make the
        commit on a later version than it read, so it states nothing about the table.
        """

        def merged() -> bool:
            table = self._loaded()
            before = table.version()
            properties = CommitProperties(custom_metadata={**metadata, WRITE_ID: uuid.uuid4().hex})
            try:
                table.optimize.compact(partition_filters=[(column, "=", value)], commit_properties=properties)
            except CommitFailedError:
                return False
            self._keep_log_short(table)
            return table.version() > before

        return self.patiently(merged)

    def checkpoint(self) -> None:
        """Writes a checkpoint of the newest version: all that it holds, in one object of the log."""
        self.patiently(lambda: self._loaded().create_checkpoint())

    def vacuum(self, *, retention_hours: int, dry_run: bool = False, keep_versions: Sequence[int] = ()) -> list[str]:
        """Removes data files that no version younger than `retention_hours` needs, nor one of `keep_versions`, and
        those that writers left which died or were refused; returns their paths.
        """

        def vacuumed(dry_run: bool) -> list[str]:
            return self._loaded().vacuum(
                retention_hours=retention_hours,
                enforce_retention_duration=False,
                dry_run=dry_run,
                full=True,
                keep_versions=list(keep_versions) or None,
            )

        there = {one.url for one in uri.list_details(self.url)}
        # delta-rs also names files that are gone, and would make two commits for each vacuum that removes nothing.
        found = [name for name in self.patiently(lambda: vacuumed(True)) if uri.join(self.url, name) in there]
        if found and not dry_run:
            self.patiently(lambda: vacuumed(False))
        return found

    def _load(self) -> DeltaTable:
        return self.patiently(self._loaded)

    def _loaded(self, version: int | None = None) -> DeltaTable:
        return DeltaTable(self.url, version=version, storage_options=uri.delta_options(self.url))

    def patiently(self, action: Callable[[], _T], version: int | None = None) -> _T:
        """The result of `action` on this table, which may be repeated: delta-rs gives up on a connection that broke.
        Raises StorageError.
        """
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
        prepare: Callable[[DeltaTable], _Write],
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
        first = sys.maxsize  # the version that the first try was made on
        for attempt in range(_COMMIT_ATTEMPTS):
            time.sleep(attempt * _LOST_PAUSE_S * int(write_id[:4], 16) / 0xFFFF)  # losers come back one by one
            table = self._load()
            base = PinnedTable(self, table)
            if any(_reached(table.transaction_version(app_id), version) for app_id, version in done):
                return self._own_commit(write_id, first) if attempt else None
            first = min(first, base.version)
            if guard is not None and asked[0] != base.version:  # what held on a version holds on it still
                asked = (base.version, guard(base))
            try:
                change = prepare(table)
                stated = {} if self._account is None else self._account.statement(base, change.removed, change.added)
                # The next number of each id: of two commits on one version that take it, delta-rs lets one through.
                held = [(app_id, (table.transaction_version(app_id) or 0) + 1) for app_id in asked[1]]
                change.run(self._properties({**(metadata or {}), **stated, WRITE_ID: write_id}, [*txns, *held]))
            except CommitFailedError:
                pass  # someone else committed something that ours must see first, or the answer to ours was lost
            except (OSError, DeltaError) as error:
                if not _is_broken(error):
                    raise _explained(self.url, error, None) from error
                self._after(error, next(breaks))
            else:
                self._keep_log_short(table)
                return table.version()
            if (arrived := self._own_commit(write_id, base.version)) is not None:
                return arrived
        raise StorageError(
            self.url,
            value=f"{_COMMIT_ATTEMPTS} commits lost to other writers",
            expected="one of this writer",
            fix="run fewer writers at once, then run this again (it is safe to repeat)",
        )

    def _properties(self, metadata: Mapping[str, Any], txns: Sequence[Txn]) -> CommitProperties:
        return CommitProperties(
            custom_metadata=dict(metadata),
            app_transactions=[Transaction(app_id, version) for app_id, version in txns] or None,
            # What is stated about a version would be wrong of the next: delta-rs must not move such a commit on.
            max_commit_retries=_MOVES if self._account is None else 0,
        )

    def _own_commit(self, write_id: str, base: int) -> int | None:
        """The version of our commit on top of `base`, if it arrived although its answer did not."""
        for commit in itertools.takewhile(lambda one: one.version > base, self.commits()):
            if commit.info.get(WRITE_ID) == write_id:
                return commit.version
        return None

    def _keep_log_short(self, table: DeltaTable) -> None:
        """Whoever opens the table reads the newest checkpoint and the commits since. Old commits stay: versions are
        pinned, and their entries hold what was said of them.
        """
        if table.version() % CHECKPOINT_EVERY:
            return
        with contextlib.suppress(OSError, DeltaError):  # the commit is done; the next checkpoint serves as well
            table.create_checkpoint()


class PinnedTable:
    """One version of a table, its log held in memory (a few hundred bytes a data file). Not picklable."""

    def __init__(self, table: Table, loaded: DeltaTable) -> None:
        self.version: int = loaded.version()
        self._table, self._loaded = table, loaded

    def stream(self, columns: Sequence[str] | None = None, filters: Filters | None = None) -> Iterator[pa.RecordBatch]:
        """Rows where all `filters` hold, batch by batch, in no certain order; files that partition values or
        statistics exclude are not read. Nothing is repeated: a connection that breaks in between raises StorageError.
        """
        try:
            yield from self._scanned(columns, filters)
        except OSError as error:
            raise explain(self._table.url, error) from error

    def collected(
        self,
        collect: Callable[[Iterator[pa.RecordBatch]], _T],
        columns: Sequence[str] | None = None,
        filters: Filters | None = None,
    ) -> _T:
        """What `collect` makes of `stream`; it is called again, from the start, where a connection broke."""
        return self._table.patiently(lambda: collect(self._scanned(columns, filters)), self.version)

    def _scanned(self, columns: Sequence[str] | None, filters: Filters | None) -> Iterator[pa.RecordBatch]:
        return parquet.stream(self._loaded, columns, sql_of(filters) if filters else None)

    @property
    def schema(self) -> pa.Schema:
        """Columns and their types."""
        return pa.schema(self._loaded.schema().to_arrow())

    def transaction_version(self, app_id: str) -> int | None:
        """The version last committed under this application id, as of this version of the table."""
        return self._loaded.transaction_version(app_id)

    def files(self, partition: Mapping[str, str] | None = None) -> pa.Table:
        """The data files (of a partition), from the log: `path`, `size_bytes`, `num_records`, `partition.<name>`, and
        of each column with statistics `min.<name>` and `max.<name>`.
        """
        found = pa.table(self._loaded.get_add_actions(flatten=True))
        for column, value in (partition or {}).items():
            found = found.filter(pc.equal(found[f"partition.{column}"], value))
        return found

    def partition_values(self, column: str) -> list[str]:
        """The sorted values of a partition column, from the log."""
        return sorted({str(partition[column]) for partition in self._loaded.partitions()})


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
