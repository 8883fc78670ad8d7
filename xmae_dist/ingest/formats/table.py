"""CSV and Parquet recordings as a mapping file describes them, read in batches of rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.core.units import canonical_unit
from xmae_dist.ingest.formats import table_cells
from xmae_dist.ingest.formats.label_cells import is_empty, split_kinds
from xmae_dist.ingest.formats.mapping import ChannelMapping, Mapping, joined_name
from xmae_dist.ingest.formats.source import Block, HeldRecording, Origin, Raw, SourceChannel, missing_value
from xmae_dist.ingest.formats.table_strand import Strand, TableFile
from xmae_dist.ingest.formats.table_time import start_ns

_NATIVE = {pa.int8(): "int16", pa.uint8(): "int16", pa.int16(): "int16", pa.uint16(): "int32", pa.int32(): "int32"}


class ColumnsRecording:
    """A file with a row per sample and a column per channel, and the files that the mapping joins to it: one
    recording.

    Raises InputError where a file cannot be parsed, lacks a column of the mapping, or (on reading) where its times
    contradict the declared rate.
    """

    def __init__(self, path: Path, recording_id: str, mapping: Mapping) -> None:
        self._mapping, self._recording_id = mapping, recording_id
        files = [(path, mapping)]
        for other in mapping.joined:
            files.append((_beside(path, mapping, other), other))
        self._strands: list[Strand] = []
        self._chosen: list[str] = []
        for at, (file, its) in enumerate(files):
            self._strands += self._strands_of(TableFile(file, its), f"{at}:" if at else "")
        self.channels = tuple(channel for strand in self._strands for channel in strand.channels)
        self._origin: Origin | None = None

    @property
    def origin(self) -> Origin:
        """Where it comes from and when it began; the first look at it reads the times of the whole file."""
        if self._origin is None:
            starts = [start for strand in self._strands if (start := strand.start_ns) is not None]
            _, before_s = self._leads
            notes = (*self._chosen, *(note for strand in self._strands for note in strand.notes))
            self._origin = Origin(
                recording_id=self._recording_id,
                subject_id=subject_of(self._recording_id, self._mapping),
                start_time_ns=min(starts) - round(before_s * 1e9) if starts else None,
                notes=notes,
            )
        return self._origin

    def blocks(self) -> Iterator[Block]:
        """The samples; channels of other rates follow one another, each with its missing samples in front."""
        leads, _ = self._leads
        nothing: dict[str, Raw] = {channel.key: np.empty(0, dtype=channel.dtype) for channel in self.channels}
        for strand, lead in zip(self._strands, leads, strict=True):
            if lead:
                yield nothing | {
                    channel.key: np.full(lead, missing_value(channel.dtype), dtype=channel.dtype)
                    for channel in strand.channels
                }
            for block in strand.blocks():
                yield {**nothing, **block}

    @cached_property
    def _leads(self) -> tuple[list[int], float]:
        return _common_start(self._strands) if len(self._strands) > 1 else ([0], 0.0)

    def _strands_of(self, file: TableFile, prefix: str) -> list[Strand]:
        mapping = file.mapping
        columns = {channel.name: self._column(file, channel) for channel in mapping.channels}
        rates = list(dict.fromkeys(channel.rate_hz or file.rate_hz for channel in mapping.channels))
        strands = []
        for rate_hz in rates:
            channels = [
                _channel(one, columns[one.name], rate_hz, mapping, file.schema.field(columns[one.name]).type, prefix)
                for one in mapping.channels
                if (one.rate_hz or file.rate_hz) == rate_hz
            ]
            strands.append(Strand(file, channels, rate_hz, sparse=len(rates) > 1, named=bool(self._mapping.joined)))
        return strands

    def _column(self, file: TableFile, channel: ChannelMapping) -> str:
        there = [column for column in channel.columns if column in file.schema.names]
        table_cells.require(file.schema, there or channel.columns[:1], file.path, file.mapping)
        if len(channel.columns) == 1:
            return there[0]
        chosen = file.liveliest(there)
        if chosen != channel.columns[0]:
            why = "flat or empty" if channel.columns[0] in there else "not in the file"
            self._chosen.append(f"channel {channel.name} is read from {chosen!r}: {channel.columns[0]!r} is {why}")
        return chosen


def _beside(path: Path, mapping: Mapping, other: Mapping) -> Path:
    """The file of `other` that belongs to `path`."""
    found = Path(joined_name(str(path), mapping.files, other.files))
    if not found.is_file():
        raise InputError(
            f"file {found.name}",
            value="no such file",
            expected=f"one beside {path.name}, which the mapping joins to it",
            fix="restore it, or ingest these files with a mapping of their own",
        )
    return found


def _common_start(strands: Sequence[Strand]) -> tuple[list[int], float]:
    """Samples to put before each strand, so that all begin at one moment of the clock that they share; and how long
    before the first of them that moment is.

    Where rates differ no moment is a whole number of samples before all of them: of the moments within a second
    before, the one with the least rest is taken. Raises InputError where nothing tells when a strand began.
    """
    starts_s = [strand.start_s for strand in strands]
    known = np.array([start for start in starts_s if start is not None])
    if len(known) < len(starts_s):
        raise InputError(
            "joined files",
            value="no time that they share",
            expected="[time] with wall times or one clock, or header.start, in each",
            fix="state the start of each file: header.start, or [time] with unix = true",
        )
    since_s = known - known.min()
    rates = np.array([strand.rate_hz for strand in strands])
    slowest = int(np.argmin(rates))
    first = max(0, int(np.ceil(since_s[slowest] * rates[slowest] - 0.5)))
    back = first + np.arange(1 + int(np.ceil(rates[slowest])))
    moments_s = since_s[slowest] - back / rates[slowest]
    leads = (since_s - moments_s[:, None]) * rates
    rest_s = np.abs(leads - np.round(leads)) / rates
    rest_s[np.round(leads) < 0] = np.inf
    # Of equal ones the nearest.
    best = int(np.argmin(np.round(rest_s.max(axis=1), 6)))
    return np.round(leads[best]).astype(int).tolist(), float(-moments_s[best])


def rows_channels(path: Path, mapping: Mapping) -> tuple[SourceChannel, ...]:
    """The channels that every row of a `rows` file has. Raises InputError for a column that is not there."""
    if mapping.layout == "lines":
        return tuple(
            _channel(item, item.columns[0], _stated_rate(path, mapping, item), mapping, pa.string())
            for item in mapping.channels
        )
    table_cells.require(table_cells.schema(path, mapping), _row_columns(mapping), path, mapping)
    return tuple(
        _channel(item, item.columns[0], _stated_rate(path, mapping, item), mapping, pa.string())
        for item in mapping.channels
    )


def rows_recordings(path: Path, mapping: Mapping) -> Iterator[HeldRecording | tuple[str, InputError]]:
    """The recordings of a `rows` file in order; one that cannot be read comes as (recording id, its error)."""
    channels = rows_channels(path, mapping)
    for batch in table_cells.read_batches(path, mapping, _row_columns(mapping), _row_columns(mapping)):
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
        subject_id=None if is_empty(subject) else str(subject).strip(),
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
        return _parsed(words, mapping)
    except ValueError as error:
        raise InputError(
            f"column {channel.key} of recording {recording_id}",
            value=str(error),
            expected=f"numbers separated by {mapping.cell_separator!r}",
        ) from error


def _parsed(words: list[str], mapping: Mapping) -> NDArray[np.float32]:
    """Numbers as the mapping writes them, missing ones as NaN. Raises ValueError naming the first that is none."""
    if mapping.thousands:
        words = [word.replace(mapping.thousands, "") for word in words]
    if mapping.decimal != ".":
        words = [word.replace(mapping.decimal, ".") for word in words]
    return np.array([np.nan if word in mapping.missing else float(word) for word in words], dtype=np.float32)


def _row_columns(mapping: Mapping) -> list[str]:
    optional = [mapping.recording_column, mapping.subject_column]
    columns = [channel.columns[0] for channel in mapping.channels] + [name for name in optional if name]
    return list(dict.fromkeys(columns + list(mapping.labels.values())))


def _stated_rate(path: Path, mapping: Mapping, channel: ChannelMapping) -> float:
    rate_hz = channel.rate_hz or table_cells.stated_rate_hz(path, mapping)
    assert rate_hz is not None  # the mapping was checked
    return rate_hz


def _channel(
    item: ChannelMapping, column: str, rate_hz: float, mapping: Mapping, stored: pa.DataType, prefix: str = ""
) -> SourceChannel:
    unit, factor = canonical_unit(item.unit)
    integers = mapping.format == "parquet" and not mapping.resample
    return SourceChannel(
        key=prefix + column,
        source_name=column,
        name=item.name,
        rate_hz=rate_hz,
        dtype=_NATIVE.get(stored, "float32") if integers else "float32",
        unit=unit,
        scale=item.scale * factor,
        offset=item.offset * factor,
        device=item.device,
        body_site=item.body_site,
    )


def lines_recording(path: Path, recording_id: str, mapping: Mapping) -> HeldRecording:
    """The one recording of a file without a header: a line per channel, a number per sample. Raises InputError."""
    channels = rows_channels(path, mapping)
    wanted = {int(channel.key) for channel in channels}
    lines: dict[int, str] = {}
    try:
        with path.open(encoding=mapping.encoding) as file:
            filled = (line for at, line in enumerate(file) if at >= mapping.skip_rows and line.strip())
            lines = {at: line for at, line in enumerate(filled, 1) if at in wanted}
    except UnicodeDecodeError as error:
        raise InputError(f"file {path.name}", value=f"not {mapping.encoding} ({error})", expected="text") from error
    signals: dict[str, Raw] = {}
    for channel in channels:
        if int(channel.key) not in lines:
            raise InputError(f"file {path.name}", value=f"no line {channel.key}", expected="a line for each channel")
        signals[channel.key] = _line(lines[int(channel.key)], channel, path, mapping)
    start = table_cells.header_start(path, mapping)
    origin = Origin(
        recording_id=recording_id,
        subject_id=subject_of(recording_id, mapping),
        start_time_ns=start_ns(None, 0.0, start, False),
    )
    return HeldRecording(origin, channels, signals)


def _line(line: str, channel: SourceChannel, path: Path, mapping: Mapping) -> Raw:
    line = line.strip().removeprefix("\ufeff").rstrip(mapping.delimiter + " \t")
    words = line.split(mapping.delimiter if mapping.delimiter.strip() else None)
    words = [word.strip().strip(mapping.quote or None) for word in words]
    try:
        return _parsed(words, mapping)
    except ValueError as error:
        raise InputError(
            f"line {channel.key} of {path.name}",
            value=str(error)[:200],
            expected=f"numbers separated by {mapping.delimiter!r}",
            fix="correct delimiter, decimal or skip_rows in the mapping file",
        ) from error
