"""A corpus: immutable parts of signals, and one Delta index whose versions are the corpus's snapshots.

    <url>/corpus.json                                       format and identity
    <url>/index/                                            Delta table, a row per (recording, channel)
    <url>/signals/<cohort>/<part>/part.json                 claim of the writer of that part
    <url>/signals/<cohort>/<part>/<channel>/                Zarr v3 array: its recordings end to end
    <url>/alignments/                                       Delta table, a row per pair of recordings on two clocks
    <url>/withdrawn/                                        Delta table, who was withdrawn and must not come back

A part is written first and becomes visible by one commit to the index. A commit that adds recordings holds its cohorts:
of two at once that share one, the later is checked again on what the first left. A withdrawal holds all cohorts there
are, and the first commit of a cohort holds what a withdrawal also holds. See storage/FORMAT.md.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import InputError, StorageError
from xmae_dist.storage import compaction, index, uri
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.ledger import Ledger
from xmae_dist.storage.losses import lost
from xmae_dist.storage.part import PartWriter
from xmae_dist.storage.snapshot import ORDER, Recording, Snapshot, array_reader, kept_version
from xmae_dist.storage.table import PinnedTable, Table, sql_of
from xmae_dist.storage.withdrawn import WithdrawnList

__all__ = ["FORMAT", "AlreadyThereError", "Corpus", "IndexRow", "PartWriter", "Recording", "Snapshot"]

FORMAT = "xmae-corpus/v2"
_FORMAT_V1 = "xmae-corpus/v1"
ALIGNMENTS_SCHEMA = pa.schema(
    [
        pa.field("pair", pa.string(), nullable=False),
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("source_cohort", pa.string(), nullable=False),
        pa.field("target_cohort", pa.string(), nullable=False),
        pa.field("accepted", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("estimate", pa.string(), nullable=False),
    ]
)
"""Estimates of how the clocks of two recordings differ; `estimate` is JSON, `pair` names what determines it."""
_ALL_COHORTS = "cohorts"
# Rows that are held as objects at a time while a commit is made.
_ROWS_AT_ONCE = 4096
_SIGNAL = ("recording_id", "channel")


class AlreadyThereError(InputError):
    """Recordings to be committed are in the corpus already."""


class Corpus:
    """A corpus at an object-store or local URL. Make one with `create`, `open` or `open_or_create`."""

    def __init__(self, url: str, document: dict[str, Any]) -> None:
        self.url = url
        self.format: str = document["format"]
        self.id: str = document["id"]
        index_url = uri.join(url, "index")
        self.index = Table(index_url, Ledger(index_url, functools.partial(_upgrade, url)))
        self.alignments = Table(uri.join(url, "alignments"))
        self.withdrawn = WithdrawnList(Table(uri.join(url, "withdrawn")), self.index)

    @classmethod
    def create(cls, url: str) -> Corpus:
        """Makes an empty corpus. Raises StorageError where one exists or the store cannot commit safely."""
        url = uri.checked_place(url)
        uri.probe(url)
        Table(uri.join(url, "index")).create(index.arrow_schema(), partition_by=["cohort"])
        document = {"format": FORMAT, "id": uuid.uuid4().hex, "created_s": round(time.time(), 3)}
        if not uri.create_exclusively(uri.join(url, "corpus.json"), json.dumps(document, indent=2).encode()):
            raise StorageError(
                url, value="a corpus already", expected="none there", fix="open it, or choose another URL"
            )
        return cls(url, document)

    @classmethod
    def open(cls, url: str) -> Corpus:
        """Opens a corpus. Raises StorageError, within seconds, where the store or the corpus cannot be
        reached.
        """
        url = uri.checked_place(url)
        uri.probe(url)
        if not uri.exists(uri.join(url, "corpus.json")):
            raise StorageError(
                url,
                value="no corpus there",
                expected="a corpus.json",
                fix="check the URL, or `xmae ingest` into it",
            )
        document = json.loads(uri.read_bytes(uri.join(url, "corpus.json")))
        if document.get("format") not in (FORMAT, _FORMAT_V1):
            raise StorageError(
                url,
                value=f"corpus format {document.get('format')!r}",
                expected=f"{FORMAT} or {_FORMAT_V1}",
                fix="use the version of xmae_dist that wrote it",
            )
        return cls(url, document)

    @classmethod
    def open_or_create(cls, url: str) -> Corpus:
        """Opens the corpus at `url`, or makes it; several callers may do so at once."""
        url = uri.checked_place(url)
        uri.probe(url)
        if not uri.exists(uri.join(url, "corpus.json")):
            try:
                return cls.create(url)
            except StorageError as error:
                if error.value != "a corpus already":
                    raise
        return cls.open(url)

    def begin_part(self, cohort: str, part_id: str) -> PartWriter:
        """Starts an immutable part. Its name is `part_id`, or `part_id.2`, … where an earlier attempt left
        one.
        """
        return PartWriter.claim(self.url, cohort, part_id)

    def commit_part(self, rows: Iterable[IndexRow], txn_id: str) -> int | None:
        """Makes rows visible in one commit and returns its version; None, reading and changing nothing, if `txn_id`
        was committed. `rows` are read once, and held as columns of the index only.

        Raises InputError for rows that contradict themselves or the stored arrays, or of a withdrawn subject,
        AlreadyThereError for a recording that is in the corpus, or gets there at this moment.
        """
        if self.committed(txn_id):
            return None
        named: set[tuple[str, str, str]] = set()
        tables = []
        rows = iter(rows)
        while some := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            index.check(some, named)
            self._check_arrays(some)
            tables.append(index.to_arrow(some))
        table = pa.concat_tables(tables) if tables else index.to_arrow([])
        version = self.index.append(
            table.sort_by([(name, "ascending") for name in ORDER]),
            txn=(_app_id(txn_id), 1),
            metadata={"xmae_operation": "ingest", "xmae_txn": txn_id},
            guard=lambda base: self._admit(table, base),
        )
        if version is not None and version % compaction.EVERY_COMMITS == 0:
            with contextlib.suppress(StorageError):  # the commit is done, and the next time serves as well
                compaction.merge_files(self.index)
        return version

    def _admit(self, rows: pa.Table, base: PinnedTable) -> list[str]:
        """What a commit of `rows` on `base` holds; raises where they must not be added to it."""
        self._check_not_withdrawn(rows)
        held: set[str] = set()
        there = base.partition_values("cohort")
        for cohort in rows["cohort"].unique().to_pylist():
            # A withdrawal cannot hold a cohort that it does not see.
            held |= {_cohort_id(cohort)} if cohort in there else {_cohort_id(cohort), _ALL_COHORTS}
            if cohort in there:
                _check_new(cohort, rows.filter(pc.equal(rows["cohort"], cohort)).select(_SIGNAL), base)
        return sorted(held)

    def committed(self, txn_id: str) -> bool:
        """Whether `txn_id` is in the index."""
        return self.index.transaction_version(_app_id(txn_id)) is not None

    def snapshot(self, version: int | None = None, *, allow_withdrawn: bool = False) -> Snapshot:
        """A version of the corpus (the newest unless told), pinned.

        Raises InputError for an old version with recordings that were withdrawn since, unless
        `allow_withdrawn`.
        """
        base = self.index.at()
        if version is None or version == base.version:
            return Snapshot(self.url, base.version, pinned=base)
        if not 0 <= version < base.version:
            raise StorageError(
                self.index.url, value=f"no version {version} there", expected=f"0 to {base.version}", fix="name another"
            )
        if not allow_withdrawn:
            self._refuse_withdrawn(version, base.version)
        return Snapshot(self.url, version)

    def _refuse_withdrawn(self, pinned: int, newest: int) -> None:
        """Only a withdrawal takes signals away."""
        subjects: set[str] = set()
        signals = 0
        with kept_version(self.index, pinned):
            for subject, *_ in lost(self.index, pinned, newest):
                subjects.add(subject)
                signals += 1
        if signals:
            raise InputError(
                f"snapshot {pinned} of {self.url}",
                value=f"{len(subjects)} subject(s), {signals} signal(s) withdrawn since",
                expected="a snapshot without withdrawn subjects",
                fix=f"use the newest snapshot ({newest}), or `xmae pretrain --allow-withdrawn`",
            )

    def withdraw(self, subject_ids: Sequence[str], *, reason: str = "") -> int | None:
        """Removes all rows of subjects in one commit (their bytes go with `vacuum`); returns its version.

        Returns None where none of them has a row. They are put on the list of the withdrawn first, with or without
        rows: nothing of theirs is committed until `readmit`. Old snapshots that hold them refuse to open from then on.
        """
        rows = self._identities(subject_ids)
        absent = set(subject_ids) - {subject for subject, _, _ in rows}
        self.withdrawn.add([*rows, *((subject, "", "") for subject in absent)], reason=reason)
        if not rows:
            return None
        subjects = {subject for subject, _, _ in rows}
        return self.index.delete(
            sql_of([("subject_id", "in", sorted(subjects))]),
            metadata={"xmae_operation": "withdraw", "xmae_subjects": str(len(subjects)), "xmae_reason": reason},
            guard=lambda base: [_ALL_COHORTS, *map(_cohort_id, base.partition_values("cohort"))],
        )

    def readmit(self, subject_ids: Sequence[str]) -> None:
        """Takes subjects off the list of the withdrawn: what is ingested of them from now on is taken in."""
        self.withdrawn.remove(subject_ids)

    def _identities(self, subject_ids: Sequence[str]) -> set[tuple[str, str, str]]:
        columns = ("subject_id", "cohort", "recording_id")
        found = self.index.read(columns=columns, filters=[("subject_id", "in", sorted(set(subject_ids)))])
        return set(zip(*(found[name].to_pylist() for name in columns), strict=True))

    def _check_not_withdrawn(self, rows: pa.Table) -> None:
        withdrawn = sorted(set(rows["subject_id"].unique().to_pylist()) & self.withdrawn.read().subjects)
        if withdrawn:
            raise InputError(
                f"subjects of {self.url}",
                value=f"{', '.join(withdrawn[:5])}{', …' if len(withdrawn) > 5 else ''}: withdrawn",
                expected="only people who were not withdrawn",
                fix="leave them out (`xmae ingest` does), or `xmae readmit` them first",
            )

    def _check_arrays(self, rows: Sequence[IndexRow]) -> None:
        """Every row must lie within an array that was closed, at the array's own rate and unit."""
        for row in rows:
            try:
                reader = array_reader(uri.join(self.url, row.array_path))
            except StorageError as error:
                raise InputError(
                    f"array {row.array_path}",
                    value="not closed, or not there",
                    expected="a closed array before its rows are committed",
                    fix="close the part first",
                ) from error
            end = row.offset + row.length
            if end > reader.length or row.rate_hz != reader.rate_hz or row.unit != reader.unit:
                raise InputError(
                    f"index row {row.cohort}/{row.recording_id}/{row.channel}",
                    value=f"samples [{row.offset}, {end}) at {row.rate_hz} Hz in {row.unit!r}",
                    expected=f"within {reader.length} samples at {reader.rate_hz} Hz in {reader.unit!r}",
                    fix="take offset, rate and unit from the part's channel",
                )


def _upgrade(url: str) -> bool:
    """Makes a corpus of format v1 one of v2, before the first commit that only v2 has: a program that knows but v1 must
    not write beside it. Returns whether the corpus was of format v1 once.
    """
    document = json.loads(uri.read_bytes(uri.join(url, "corpus.json")))
    if document["format"] == _FORMAT_V1:
        document |= {"format": FORMAT, "upgraded_from": _FORMAT_V1}
        uri.write_bytes(uri.join(url, "corpus.json"), json.dumps(document, indent=2).encode())
    return "upgraded_from" in document


def _check_new(cohort: str, rows: pa.Table, base: PinnedTable) -> None:
    """A recording is committed once: the same one under another transaction is a mistake of the caller.

    Of what is there, as much is held as `rows` has; files without a name in their range are not read.
    """
    names = rows["recording_id"]
    least, most = pc.min_max(names).values()
    filters = [("cohort", "=", cohort), ("recording_id", ">=", least.as_py()), ("recording_id", "<=", most.as_py())]

    def alike(batches: Iterator[pa.RecordBatch]) -> pa.Table:
        found = [batch.filter(pc.is_in(batch["recording_id"], value_set=names)) for batch in batches]
        return pa.Table.from_batches(found, rows.schema)

    there = base.collected(alike, _SIGNAL, filters)
    twice = sorted(set(rows.join(there, keys=list(_SIGNAL), join_type="inner")["recording_id"].to_pylist()))
    if twice:
        raise AlreadyThereError(
            f"cohort {cohort}",
            value=f"{len(twice)} recording(s) already in the corpus, such as {twice[0]!r}",
            expected="recordings that are not there yet",
            fix="leave them out, or use another cohort name",
        )


def _cohort_id(cohort: str) -> str:
    return f"cohort:{cohort}"


def _app_id(txn_id: str) -> str:
    return f"ingest:{txn_id}"
