"""Rows of the index as bytes that say what was recorded, and nothing else: equal bytes, equal content.

Every value is written as its length and its bytes, so no two different rows have the same bytes; a null has length -1.
Numbers are 8 bytes little-endian, all NaN alike. Maps are sorted by key; a null map or list is an empty one, as it is
for readers. Where a signal lies is left out: the same content elsewhere is the same content.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.storage import index

PLACE_COLUMNS = ("part", "array_path", "offset")
CONTENT_COLUMNS = tuple(name for name in index.columns() if name not in PLACE_COLUMNS)


def encoded(rows: pa.RecordBatch) -> pa.Array:
    """The bytes of each row (n,), from the CONTENT_COLUMNS of `rows`, in their order."""
    pieces = [piece for name in CONTENT_COLUMNS for piece in _with_length(_bytes_of(rows.column(name)))]
    return pc.binary_join_element_wise(*pieces, b"")


def _with_length(values: pa.Array) -> tuple[pa.Array, pa.Array]:
    lengths = pc.fill_null(pc.binary_length(values), -1)
    return _fixed(lengths.to_numpy().astype("<i4")), pc.fill_null(values, b"")


def _bytes_of(column: pa.Array) -> pa.Array:
    """The bytes of each value of a column; null where it is null."""
    if pa.types.is_nested(column.type):
        return _joined(index.entries_of(column), sort=pa.types.is_map(column.type))
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.binary())
    return _number_bytes(column)


def _number_bytes(column: pa.Array) -> pa.Array:
    if pa.types.is_floating(column.type):
        numbers = pc.fill_null(column, 0.0).to_numpy().astype("<f8")
        numbers[np.isnan(numbers)] = np.nan
    else:
        numbers = pc.fill_null(column, 0).to_numpy().astype("<i8")
    return pc.if_else(pc.is_valid(column), _fixed(numbers), pa.scalar(None, pa.binary()))


def _fixed(numbers: np.ndarray) -> pa.Array:
    """The bytes of each number (n,)."""
    data = pa.py_buffer(numbers.tobytes())
    return pa.Array.from_buffers(pa.binary(numbers.dtype.itemsize), len(numbers), [None, data]).cast(pa.binary())


def _joined(column: pa.Array, *, sort: bool) -> pa.Array:
    """The entries of each list of structs (n,), one after another; sorted by their first field if told to."""
    entries = column.flatten()
    if sort and len(entries):
        keyed = pa.table({"row": pc.list_parent_indices(column), "key": entries.field(0)})
        entries = entries.take(pc.sort_indices(keyed, [("row", "ascending"), ("key", "ascending")]))
    fields = [_bytes_of(entries.field(at)) for at in range(entries.type.num_fields)]
    flat = pc.binary_join_element_wise(*(piece for field in fields for piece in _with_length(field)), b"")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), flat), b"")
