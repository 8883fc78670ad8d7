"""A pinned version of the corpus: what it holds, and how to read it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import InputError, IntegrityError, StorageError
from xmae_dist.storage import contents, index, uri
from xmae_dist.storage.contents import CohortContent, Contents
from xmae_dist.storage.diagnose import NOTHING_THERE
from xmae_dist.storage.fingerprint_v1 import fingerprints_v1
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.ledger import Ledger
from xmae_dist.storage.ordered import BATCH_ROWS, Runs
from xmae_dist.storage.row_bytes import CONTENT_COLUMNS
from xmae_dist.storage.table import Filters, PinnedTable, Table
from xmae_dist.storage.zarr_store import ChannelReader

_T = TypeVar("_T")
# Small cohorts are sorted together up to so many rows.
_TOGETHER_ROWS = 32_768
ORDER = ("cohort", "subject_id", "recording_id", "channel")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """All channels of one recording, in one snapshot."""

    subject_id: str
    recording_id: str
    cohort: str
    labels: Mapping[str, float]
    label_text: Mapping[str, str]
    channels: Mapping[str, IndexRow]
    corpus_url: str

    @property
    def duration_s(self) -> float:
        """Seconds of the longest channel."""
        return max(row.duration_s for row in self.channels.values())

    def read(self, channel: str, start_s: float = 0.0, stop_s: float | None = None) -> np.ndarray:
        """Physical values of [start_s, stop_s) of a channel, float32 (n,); missing samples and gaps are NaN.

        The span is clipped to the recording. Raises InputError for a channel it does not have,
        IntegrityError for damaged bytes.
        """
        if channel not in self.channels:
            raise InputError(
                f"recording {self.recording_id}",
                value=f"no channel {channel!r}",
                expected=f"one of {', '.join(sorted(self.channels))}",
                fix="check the channel's name",
            )
        row = self.channels[channel]
        start = max(0, round(start_s * row.rate_hz))
        stop = row.length if stop_s is None else min(row.length, round(stop_s * row.rate_hz))
        return read_row(self.corpus_url, row, start, max(start, stop))


@functools.lru_cache(maxsize=32)
def array_reader(url: str) -> ChannelReader:
    """The reader of an array, kept with its shard indexes; arrays are immutable, so it never goes stale."""
    return ChannelReader(url)


def read_row(corpus_url: str, row: IndexRow, start: int, stop: int) -> np.ndarray:
    """Samples [start, stop) of a row in physical units, float32; missing samples and declared gaps are
    NaN.
    """
    reader = array_reader(uri.join(corpus_url, row.array_path))
    signal = reader.read(row.offset + start, row.offset + stop)
    for gap_start, gap_stop in row.gaps:
        signal[max(0, gap_start - start) : max(0, gap_stop - start)] = np.nan
    return signal


@contextlib.contextmanager
def kept_version(index: Table, version: int) -> Iterator[None]:
    """Raises InputError where what the block reads of an old version of the index was vacuumed."""
    try:
        yield
    except StorageError as error:
        if error.value != NOTHING_THERE or version == (newest := index.version()):
            raise
        raise InputError(
            f"snapshot {version} of {index.url}",
            value="a version whose files were vacuumed",
            expected="a snapshot that is still kept",
            fix=f"use the newest snapshot ({newest})",
        ) from error


class Snapshot:
    """The rows of one version of the index, or of some of its cohorts: a query, which reads when it is asked.

    Immutable; readers pin it and runs record its fingerprint. Picklable: a version and a place.
    """

    def __init__(
        self,
        url: str,
        version: int,
        cohorts_filter: Sequence[str] | None = None,
        *,
        pinned: PinnedTable | None = None,
    ) -> None:
        """`url`: of the corpus. `cohorts_filter`: the only cohorts to see. `pinned`: the version, if its log was
        read already.
        """
        self.url, self.version = url, version
        self._only = None if cohorts_filter is None else tuple(sorted(set(cohorts_filter)))
        if pinned is not None:
            self._pinned = pinned

    def __getstate__(self) -> dict[str, object]:
        return {"url": self.url, "version": self.version, "_only": self._only}

    @functools.cached_property
    def _pinned(self) -> PinnedTable:
        return self._index.at(self.version)

    @functools.cached_property
    def contents(self) -> Mapping[str, CohortContent]:
        """What each cohort with rows holds, by its name, in the order of names. No row is read where the commit states
        it (format v2).
        """
        held = self._stated.cohorts if self._stated is not None else self.counted()
        everything = sorted(held.items())
        return {name: one for name, one in everything if one.rows and (self._only is None or name in self._only)}

    def counted(self) -> Mapping[str, CohortContent]:
        """As `contents`, whatever is stated: one pass over all rows, about 15 µs of CPU each."""
        with kept_version(self._index, self.version):
            return Ledger.counted(self._pinned, self._filters()).cohorts

    @functools.cached_property
    def _stated(self) -> Contents | None:
        return Ledger(self._index.url).stated(self.version)

    @property
    def _index(self) -> Table:
        return Table(uri.join(self.url, "index"))

    def _collected(
        self,
        collect: Callable[[Iterator[pa.RecordBatch]], _T],
        columns: Sequence[str] | None,
        filters: Filters | None = None,
    ) -> _T:
        with kept_version(self._index, self.version):
            return self._pinned.collected(collect, columns, self._filters(filters))

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the content: what was recorded and its labels, not where it lies or in
        which order.
        """
        return contents.fingerprint(self.contents)

    def legacy_fingerprint(self) -> str | None:
        """The fingerprint that this content had in corpora of format v1, by which window stores and runs made then are
        known; None where nothing can have been made of it then. A version of that time is read and sorted whole, about
        100 µs of CPU a row; of a later one it is stated.
        """
        if self._stated is not None:
            if self._only is None:
                return self._stated.v1.get(self.fingerprint)
            return next(iter(self.contents.values())).v1 if len(self.contents) == 1 else None
        return self._collected(fingerprints_v1, CONTENT_COLUMNS)[0]

    def cohorts(self) -> list[str]:
        """The names of the cohorts that have rows, sorted; no row is read."""
        there = self._pinned.partition_values("cohort")
        return there if self._only is None else [name for name in there if name in self._only]

    def cohort(self, name: str) -> Snapshot:
        """The same version, reduced to one cohort. Raises InputError for one without rows."""
        if name not in self.cohorts():
            raise InputError(
                "cohort",
                value=repr(name),
                expected=f"one of {', '.join(self.cohorts()) or 'none (empty corpus)'}",
                fix="`xmae inspect` lists them",
            )
        reduced = Snapshot(self.url, self.version, [name], pinned=self._pinned)
        reduced._stated = self._stated
        return reduced

    def subjects(self) -> pa.StringArray:
        """The subjects, sorted, as an Arrow array: some 20 bytes each."""

        def distinct(batches: Iterator[pa.RecordBatch]) -> pa.Array:
            found = pa.array([], pa.string())
            for batch in batches:
                found = pc.unique(pa.chunked_array([found, pc.unique(batch["subject_id"])]))
            return found.take(pc.sort_indices(found))

        return self._collected(distinct, ["subject_id"])

    def batches(
        self, columns: Sequence[str] | None = None, filters: Filters | None = None, *, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """The index rows where all `filters` hold, in the columns of `IndexRow` or some of them; in no certain order.

        Filters on the cohort, and on columns that files are sorted by, spare reading what they exclude.
        """
        held: list[pa.RecordBatch] = []
        rows = 0
        with kept_version(self._index, self.version):
            for batch in self._pinned.stream(columns, self._filters(filters)):
                held.append(batch)
                rows += batch.num_rows
                if rows >= batch_rows:
                    yield _as_one(held)
                    held, rows = [], 0
        if rows:
            yield _as_one(held)

    def table(self, columns: Sequence[str] | None = None, filters: Filters | None = None) -> pa.Table:
        """The same as one table, for selections that are known to be small."""
        schema = index.arrow_schema()
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])

        def whole(batches: Iterator[pa.RecordBatch]) -> pa.Table:
            return pa.Table.from_batches([batch.cast(schema) for batch in batches], schema)

        return self._collected(whole, columns, filters)

    def ordered(
        self,
        columns: Sequence[str] | None = None,
        filters: Filters | None = None,
        by: Sequence[str] = ORDER,
    ) -> Iterator[pa.RecordBatch]:
        """As `batches`, in order of the columns `by`, which must be among `columns`; held and kept as `sorted_rows`.

        Where cohorts come first and all rows are asked for, one cohort is sorted after another, or some small ones at a
        time. What filters leave is sorted at once: a scan for each cohort would cost more than it spares.
        """
        if by[0] != "cohort" or filters:
            together: list[list[str] | None] = [None]
        else:
            together = self._cohorts_together()
        for cohorts in together:
            own: Filters | None = filters if cohorts is None else [("cohort", "in", cohorts)]
            with tempfile.TemporaryDirectory(prefix="xmae-rows-") as folder:
                yield from self.sorted_rows(folder, by, own, columns)

    def _cohorts_together(self) -> list[list[str] | None]:
        """The cohorts in order, some small ones at a time; [None] where no commit states how many rows each
        has.
        """
        if self._stated is None:
            return [None]
        together: list[list[str] | None] = []
        rows = _TOGETHER_ROWS
        for name, content in self.contents.items():
            if rows + content.rows > _TOGETHER_ROWS:
                some: list[str] = []
                together.append(some)
                rows = 0
            some.append(name)
            rows += content.rows
        return together

    def sorted_rows(
        self,
        folder: str,
        by: Sequence[str] = ORDER,
        filters: Filters | None = None,
        columns: Sequence[str] | None = None,
    ) -> Runs:
        """The same, to be gone through more than once. As many rows are held as `Runs` holds, about 200 MB of all
        columns; others wait in `folder`, on local disk.
        """
        return self._collected(lambda batches: Runs(batches, by, folder), columns, filters)

    def rows(self, filters: Filters | None = None) -> Iterator[IndexRow]:
        """The rows where all `filters` hold, in the order of ORDER; about 15 µs of CPU a row."""
        for batch in self.ordered(filters=filters):
            yield from _objects(batch)

    def recordings(self, filters: Filters | None = None) -> Iterator[Recording]:
        """Recordings with rows where all `filters` hold, in the order of cohort, subject and recording id, as `rows`.

        Raises IntegrityError where a channel of a recording stands twice.
        """
        keyed = itertools.groupby(self.rows(filters), key=lambda row: (row.cohort, row.subject_id, row.recording_id))
        for _, rows in keyed:
            yield recording_of(list(rows), self.url)

    def arrays(self) -> Iterator[tuple[str, list[IndexRow]]]:
        """The path of each array that has rows, with its rows in the order in which they lie there."""
        rows = itertools.chain.from_iterable(map(_objects, self.ordered(by=("array_path", "offset"))))
        for path, own in itertools.groupby(rows, key=lambda row: row.array_path):
            yield path, list(own)

    def reader(self, row: IndexRow) -> ChannelReader:
        """The reader of the array that holds `row`, kept between calls."""
        return array_reader(uri.join(self.url, row.array_path))

    def _filters(self, filters: Filters | None = None) -> Filters:
        only = [] if self._only is None else [("cohort", "in", list(self._only))]
        return [*only, *(filters or ())]


def recording_of(rows: Sequence[IndexRow], corpus_url: str) -> Recording:
    """The recording that some rows are all channels of. Raises IntegrityError where a channel stands twice."""
    labels: dict[str, float] = {}
    label_text: dict[str, str] = {}
    channels: dict[str, IndexRow] = {}
    for row in rows:
        if row.channel in channels:
            raise twice(row.cohort, row.recording_id, row.channel)
        channels[row.channel] = row
        labels.update(row.labels)
        label_text.update(row.label_text)
    return Recording(
        subject_id=rows[0].subject_id,
        recording_id=rows[0].recording_id,
        cohort=rows[0].cohort,
        labels=labels,
        label_text=label_text,
        channels=channels,
        corpus_url=corpus_url,
    )


def twice(cohort: str, recording_id: str, channel: str) -> IntegrityError:
    """Of a channel of a recording that has two rows."""
    return IntegrityError(
        f"recording {cohort}/{recording_id}",
        value=f"channel {channel} twice",
        expected="one row per channel",
        fix="`xmae repair` names the copies and can drop one",
    )


def _objects(batch: pa.RecordBatch) -> Iterator[IndexRow]:
    """Rows of a batch, few at a time: as objects they are ten times as large."""
    for at in range(0, batch.num_rows, BATCH_ROWS):
        yield from index.from_arrow(batch.slice(at, BATCH_ROWS))


def _as_one(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
