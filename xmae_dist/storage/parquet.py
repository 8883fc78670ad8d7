"""Parquet in and out, so that no thread of Arrow's ever holds memory that belongs to Python.

Arrow reads ahead in threads of its own, which may let go of what they read after the answer has been given. A buffer
that Python owns needs the interpreter to be let go of, and CPython before 3.14 ends a thread that asks for it while
the process finalises, through destructors that must not throw: the process prints its result and dies of SIGABRT.
So tables are scanned by delta-rs itself, and single objects are decoded from Arrow's own memory. Every Parquet byte
goes through here (`tests/storage/test_process_ends.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from xmae_dist.core.errors import IntegrityError
from xmae_dist.storage import uri

_TAIL_BYTES = 64 << 10  # the end of an object that says what it holds, and mostly a column or two
# What object stores and file systems say of an object that is not there, as delta-rs passes it on.
_ABSENT = ("not found", "No such file")


def scan(table: DeltaTable, columns: Sequence[str] | None = None, predicate: str | None = None) -> pa.Table:
    """Rows of a Delta table that satisfy the SQL `predicate`, in the types of its schema and in no certain order.

    Raises OSError where a file of the table cannot be read, IntegrityError where one is damaged.
    """
    found = _scanned(table, columns, predicate)
    try:
        return found.read_all()
    except pa.ArrowInvalid as error:
        raise _told(table, str(error)) from error


def stream(
    table: DeltaTable, columns: Sequence[str] | None = None, predicate: str | None = None
) -> Iterator[pa.RecordBatch]:
    """As `scan`, a batch at a time: of rows that were read and not yet asked for, delta-rs holds a few batches."""
    found = _scanned(table, columns, predicate)
    try:
        yield from found
    except pa.ArrowInvalid as error:
        raise _told(table, str(error)) from error


def _scanned(table: DeltaTable, columns: Sequence[str] | None, predicate: str | None) -> pa.RecordBatchReader:
    schema = pa.schema(table.schema().to_arrow())
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    found = table.scan(columns=None if columns is None else list(columns), predicate=predicate)
    # delta-rs answers in views; asked for another type it converts.
    return pa.RecordBatchReader.from_stream(found, schema=schema)


def decode(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one Parquet object of these bytes; `columns` leaves the others undecoded."""
    with _opened(data) as file:
        return file.read(columns=None if columns is None else list(columns))


def metadata(data: bytes) -> dict[bytes, bytes]:
    """What the schema of one Parquet object carries beside its columns."""
    with _opened(data) as file:
        return dict(file.schema_arrow.metadata or {})


def read_columns(url: str, columns: Sequence[str] | None = None, *, size: int | None = None) -> pa.Table:
    """Some columns of the Parquet object at `url` (those that it has; all unless told), and what its schema carries.

    Two requests at most, one more where its `size` in bytes is not known: its end, which says where columns lie, and
    the columns. Raises StorageError where there is no object, IntegrityError where it cannot be decoded.
    """
    size = uri.size(url) if size is None else size
    partial = _Partial(url, size)
    partial.fetch(max(0, size - _TAIL_BYTES), size)
    with partial.decoding(), partial.opened() as file:
        wanted = [name for name in file.schema_arrow.names if columns is None or name in columns]
        extent = _extent(file.metadata, wanted)
    partial.fetch(*extent)
    with partial.decoding(), partial.opened() as file:
        return file.read(columns=wanted, use_threads=False)


class _Partial:
    """An object of which the bytes that were fetched are there, in Arrow's own memory; the rest is never touched."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size = url, size
        self._buffer = pa.allocate_buffer(size)
        self._bytes = np.frombuffer(self._buffer, np.uint8)
        self._tail = size

    def fetch(self, start: int, stop: int) -> None:
        """[start, stop), less its end where that was fetched as the end of the object."""
        stop = min(stop, self._tail)
        if start >= stop:
            return
        with uri.storage_errors(self._url):
            data = uri.read_ranges(self._url, [start], [stop])[0]
        if len(data) != stop - start:
            raise self._damage(f"{len(data)} bytes from {start} on, not {stop - start}")
        self._bytes[start:stop] = np.frombuffer(data, np.uint8)
        self._tail = min(self._tail, start) if stop == self._tail else self._tail

    def opened(self) -> pq.ParquetFile:
        return pq.ParquetFile(pa.BufferReader(self._buffer))

    @contextlib.contextmanager
    def decoding(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damage(str(error)[-200:]) from error

    def _damage(self, what: str) -> IntegrityError:
        return IntegrityError(
            self._url,
            value=f"no Parquet that can be decoded ({what})",
            expected=f"the {self._size} bytes that were written",
            fix="restore the object from a copy, or write it again",
        )


def _extent(found: pq.FileMetaData, columns: Sequence[str]) -> tuple[int, int]:
    """The bytes from the first to the last of these columns."""
    starts, stops = [], []
    for group in range(found.num_row_groups):
        for number in range(found.num_columns):
            chunk = found.row_group(group).column(number)
            if chunk.path_in_schema.partition(".")[0] in columns:
                first = chunk.dictionary_page_offset or chunk.data_page_offset
                starts.append(min(first, chunk.data_page_offset))
                stops.append(starts[-1] + chunk.total_compressed_size)
    return (min(starts), max(stops)) if starts else (0, 0)


def encode(rows: pa.Table) -> bytes:
    """Rows as the bytes of one Parquet object."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _opened(data: bytes) -> pq.ParquetFile:
    native = pa.BufferOutputStream()
    native.write(data)  # a copy in Arrow's memory, which no thread needs Python to free
    return pq.ParquetFile(pa.BufferReader(native.getvalue()))


def _told(table: DeltaTable, said: str) -> Exception:
    if any(sign in said for sign in _ABSENT):
        return FileNotFoundError(said)
    if "Object Store error" in said:
        return OSError(said)
    return IntegrityError(
        f"table {table.table_uri}",
        value=f"a data file that cannot be decoded ({said[-200:]})",
        expected="the Parquet that was committed",
        fix="restore the file from a copy; XMAE_TRACEBACK=1 names it in full",
    )
