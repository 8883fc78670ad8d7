"""Parquet in and out, so that no thread of Arrow's ever holds memory that belongs to Python.

Arrow reads ahead in threads of its own, which may let go of what they read after the answer has been given. A buffer
that Python owns needs the interpreter to be let go of, and CPython before 3.14 ends a thread that asks for it while
the process finalises, through destructors that must not throw: the process prints its result and dies of SIGABRT.
So tables are scanned by delta-rs itself, and single objects are decoded from Arrow's own memory. Every Parquet byte
goes through here (`tests/storage/test_process_ends.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from xmae_dist.core.errors import IntegrityError

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
