"""CSV and Parquet recordings as a mapping file describes them, read in batches of rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.core.units import canonical_unit
from xmae_dist.ingest.formats.label_cells import split_kinds
from xmae_dist.ingest.formats.mapping import ChannelMapping, Mapping
from xmae_dist.ingest.formats.source import Block, HeldRecording, Origin, Raw, SourceChannel, missing_value
from xmae_dist.ingest.formats.table_time import TimeGrid

_BATCH_BYTES = 16 * 2**20
_BATCH_ROWS = 2**18
_NATIVE = {pa.int8(): "int16", pa.uint8(): "int16", pa.int16(): "int16", pa.uint16(): "int32", pa.int32(): "int32"}


class ColumnsRecording:
    """A file with a row per sample and a column per channel: one recording.

    Raises InputError where the file cannot be parsed, lacks a column of the mapping, or (on reading) where
    its times contradict the declared rate.
    """

    def __init__(self, path: Path, recording_id: str, mapping: Mapping) -> None:
        self._path, self._mapping = path, mapping
        schema = _schema(path, mapping)
        _require(schema, [channel.column for channel in mapping.channels], path)
        if mapping.time is not None:
            _require(schema, [mapping.time.column], path)
        self.channels = tuple(_channel(item, mapping, schema.field(item.column).type) for item in mapping.channels)
        self.origin = Origin(
            recording_id=recording_id, subject_id=subject_of(recording_id, mapping), start_time_ns=self._start_time_ns()
        )

    def blocks(self) -> Iterator[Block]:
        grid = TimeGrid(self._mapping.time, self._mapping.rate_hz, self._path.name) if self._mapping.time else None
        for batch in self._batches():
            block: dict[str, Raw] = {
                channel.key: _numbers(batch.column(channel.key), channel) for channel in self.channels
            }
            if grid is None:
                yield block
            else:
                holes = grid.holes(batch.column(grid.column))
                yield {key: _with_holes(raw, holes) for key, raw in block.items()} if holes else block
        if grid is not None:
            grid.check_rate()

    def _start_time_ns(self) -> int | None:
        time = self._mapping.time
        if time is None or not (time.unix or time.format == "iso8601"):
            return None
        first = next((batch for batch in self._batches() if batch.num_rows), None)
        if first is None:
            return None
        return TimeGrid(time, self._mapping.rate_hz, self._path.name).first_ns(first.column(time.column))

    def _batches(self) -> Iterator[pa.RecordBatch]:
        columns = [channel.column for channel in self._mapping.channels]
        text: list[str] = []
        if self._mapping.time is not None:
            columns.append(self._mapping.time.column)
            text = [self._mapping.time.column]
        numbers = {channel.column: pa.float64() for channel in self._mapping.channels}
        yield from _read_batches(self._path, self._mapping, list(dict.fromkeys(columns)), text, numbers)


def rows_channels(path: Path, mapping: Mapping) -> tuple[SourceChannel, ...]:
    """The channels that every row of a `rows` file has. Raises InputError for a column that is not there."""
    schema = _schema(path, mapping)
    _require(schema, _row_columns(mapping), path)
    return tuple(_channel(item, mapping, pa.string()) for item in mapping.channels)


def rows_recordings(path: Path, mapping: Mapping) -> Iterator[HeldRecording | tuple[str, InputError]]:
    """The recordings of a `rows` file in order; one that cannot be read comes as (recording id, its error)."""
    channels = rows_channels(path, mapping)
    for batch in _read_batches(path, mapping, _row_columns(mapping), _row_columns(mapping), {}):
        for row in batch.to_pylist():
            recording_id = str(row[mapping.recording_column])
            try:
                yield _cell_recording(recording_id, row, channels, mapping)
            except InputError as error:
                yield recording_id, error


def subject_of(recording_id: str, mapping: Mapping) -> str | None:
    """The subject that `subject_pattern` finds in the recording id, or None."""
    if mapping.subject_pattern is None:
        return None
    found = re.search(mapping.subject_pattern, recording_id)
    return found.group(1) if found else None


def _cell_recording(
    recording_id: str, row: dict[str, Any], channels: tuple[SourceChannel, ...], mapping: Mapping
) -> HeldRecording:
    signals = {channel.key: _cell(row[channel.key], channel, recording_id, mapping) for channel in channels}
    labels, label_text = split_kinds({name: row[column] for name, column in mapping.labels.items()})
    subject = row[mapping.subject_column] if mapping.subject_column else subject_of(recording_id, mapping)
    origin = Origin(
        recording_id=recording_id,
        subject_id=None if subject is None else str(subject),
        labels=labels,
        label_text=label_text,
    )
    return HeldRecording(origin, channels, signals)


def _cell(cell: Any, channel: SourceChannel, recording_id: str, mapping: Mapping) -> Raw:
    if cell is None:
        return np.empty(0, dtype=np.float32)
    if not isinstance(cell, str):
        return np.asarray(cell, dtype=np.float64).astype(np.float32)
    words = cell.split(mapping.cell_separator if mapping.cell_separator.strip() else None)
    try:
        return np.array([np.nan if word in mapping.missing else float(word) for word in words], dtype=np.float32)
    except ValueError as error:
        raise InputError(
            f"column {channel.key} of recording {recording_id}",
            value=str(error),
            expected=f"numbers separated by {mapping.cell_separator!r}",
        ) from error


def _row_columns(mapping: Mapping) -> list[str]:
    optional = [mapping.recording_column, mapping.subject_column]
    columns = [channel.column for channel in mapping.channels] + [name for name in optional if name]
    return list(dict.fromkeys(columns + list(mapping.labels.values())))


def _channel(item: ChannelMapping, mapping: Mapping, stored: pa.DataType) -> SourceChannel:
    unit, factor = canonical_unit(item.unit)
    return SourceChannel(
        key=item.column,
        source_name=item.column,
        name=item.name,
        rate_hz=item.rate_hz or mapping.rate_hz,
        dtype=_NATIVE.get(stored, "float32") if mapping.format == "parquet" else "float32",
        unit=unit,
        scale=item.scale * factor,
        offset=item.offset * factor,
        device=item.device,
        body_site=item.body_site,
    )


def _schema(path: Path, mapping: Mapping) -> pa.Schema:
    try:
        if mapping.format == "parquet":
            return pa.parquet.read_schema(path)
        with _open_csv(path, mapping, None, {}) as reader:
            return reader.schema
    except (pa.ArrowInvalid, UnicodeDecodeError, LookupError) as error:
        raise InputError(
            f"file {path.name}", value=f"unreadable ({error})", expected=f"a {mapping.format} file"
        ) from error


def _require(schema: pa.Schema, columns: list[str], path: Path) -> None:
    for column in columns:
        if schema.names.count(column) != 1:
            raise InputError(
                f"column {column!r} of {path.name}",
                value="not in the file" if column not in schema.names else "there more than once",
                expected="one of " + ", ".join(schema.names),
                fix="correct the mapping file",
            )


def _read_batches(
    path: Path, mapping: Mapping, columns: list[str], text: list[str], numbers: dict[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    try:
        if mapping.format == "parquet":
            with pa.parquet.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=columns)
            return
        with _open_csv(path, mapping, columns, {**numbers, **dict.fromkeys(text, pa.string())}) as reader:
            yield from reader
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InputError(
            f"file {path.name}", value=f"unreadable ({error})", expected=f"a {mapping.format} file"
        ) from error


def _open_csv(
    path: Path, mapping: Mapping, columns: list[str] | None, types: dict[str, pa.DataType]
) -> pa.csv.CSVStreamingReader:
    return pa.csv.open_csv(
        path,
        # One thread: the files are what is spread over the cores.
        read_options=pa.csv.ReadOptions(
            block_size=_BATCH_BYTES, encoding=mapping.encoding, skip_rows=mapping.skip_rows, use_threads=False
        ),
        parse_options=pa.csv.ParseOptions(
            delimiter=mapping.delimiter, quote_char=mapping.quote or False, newlines_in_values=mapping.layout == "rows"
        ),
        convert_options=pa.csv.ConvertOptions(
            include_columns=columns, column_types=types, null_values=list(mapping.missing), strings_can_be_null=True
        ),
    )


def _numbers(column: pa.Array, channel: SourceChannel) -> Raw:
    """A column as raw samples of the channel's type, nulls as missing."""
    if channel.dtype != "float32":
        filled = column.cast(pa.int64()).fill_null(missing_value(channel.dtype))
        return filled.to_numpy(zero_copy_only=False).astype(channel.dtype)
    try:
        return column.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float32)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"column {channel.key!r}", value=str(error), expected="numbers") from error


def _with_holes(raw: Raw, holes: list[tuple[int, int]]) -> Raw:
    """`raw` with `count` missing samples put before each row of `holes` = [(row, count), …]."""
    mark = missing_value(raw.dtype)
    pieces: list[NDArray[Any]] = []
    start = 0
    for row, count in holes:
        pieces += [raw[start:row], np.full(count, mark, dtype=raw.dtype)]
        start = row
    return np.concatenate([*pieces, raw[start:]])
