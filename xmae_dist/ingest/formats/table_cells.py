"""CSV and Parquet files as batches of Arrow columns, and what the lines above a table say."""

from __future__ import annotations

import codecs
import contextlib
import csv
import datetime
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError, some_of
from xmae_dist.ingest.formats.mapping import Mapping
from xmae_dist.ingest.formats.utf8 import as_utf8

_BATCH_BYTES = 16 * 2**20
_FEWEST_BYTES = 2**12
_BATCH_ROWS = 2**18
# Lines in which `header` looks where no lines are passed over.
_HEADER_LINES = 200
_HEADER_BYTES = 2**20


def schema(path: Path, mapping: Mapping) -> pa.Schema:
    """Columns of a file; those of a CSV file without types. Raises InputError where it cannot be parsed."""
    try:
        if mapping.format == "parquet":
            return pa.parquet.read_schema(path)
        # Arrow would parse a first block to guess types that nobody asks for: a third of the work of a small file.
        return pa.schema([(name, pa.null()) for name in _csv_names(path, mapping)])
    except (pa.ArrowInvalid, UnicodeDecodeError, LookupError, csv.Error) as error:
        raise _unreadable(path, mapping, error) from error


def require(found: pa.Schema, columns: Iterable[str], path: Path, mapping: Mapping) -> None:
    """Raises InputError for a column that is not there once, naming some of those that are."""
    for column in columns:
        if found.names.count(column) != 1:
            numbers = sum(_is_number(name) for name in found.names)
            headless = numbers > 0.5 * len(found.names) and mapping.format == "csv" and not mapping.column_names
            raise InputError(
                f"column {column!r} of {path.name}",
                value="not in the file" if column not in found.names else "there more than once",
                expected="one of " + some_of(found.names),
                fix="this file seems to have no header: give column_names, or layout = 'lines' where a line is a signal"
                if headless
                else "correct the mapping file",
            )


def read_batches(
    path: Path, mapping: Mapping, columns: Sequence[str], text: Iterable[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Rows of the file in batches, `columns` alone: those of `text` as text, the others of a CSV file as numbers.

    Raises InputError where the file cannot be parsed.
    """
    text = set(text)
    types = {name: pa.string() if name in text or mapping.thousands else pa.float64() for name in columns}
    try:
        if mapping.format == "parquet":
            with pa.parquet.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns))
            return
        with _open_csv(path, mapping, list(columns), types) as reader:
            yield from reader
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _unreadable(path, mapping, error) from error


def floats(column: pa.Array, mapping: Mapping, name: str) -> NDArray[np.float64]:
    """A column of numbers as float64, empty cells as NaN. Raises InputError naming the column."""
    try:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = plain_numbers(column, mapping)
        return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"column {name!r}", value=str(error), expected="numbers") from error


def plain_numbers(column: pa.Array, mapping: Mapping) -> pa.Array:
    """A column of texts with the decimal point as a point and without separators of thousands."""
    if mapping.thousands:
        column = pc.replace_substring(column, mapping.thousands, "")
    if mapping.decimal != ".":
        column = pc.replace_substring(column, mapping.decimal, ".")
    return pc.utf8_trim_whitespace(column)


def header_rate_hz(path: Path, mapping: Mapping) -> float | None:
    """The rate that the lines above the table tell, where the mapping says where. Raises InputError."""
    if mapping.header is None or mapping.header.rate_hz is None:
        return None
    word = _header_value(path, mapping, mapping.header.rate_hz, "rate_hz")
    try:
        rate_hz = float(word.replace(mapping.decimal, "."))
    except ValueError:
        rate_hz = 0.0
    if not rate_hz > 0:
        raise InputError(f"header.rate_hz of {path.name}", value=repr(word), expected="samples per second, above 0")
    return rate_hz


def stated_rate_hz(path: Path, mapping: Mapping) -> float | None:
    """The rate of the rows: of the mapping, or of the lines above the table. Raises InputError where they differ."""
    told = header_rate_hz(path, mapping)
    if told is None or mapping.rate_hz is None:
        return told or mapping.rate_hz
    if abs(told / mapping.rate_hz - 1) > 1e-3:
        raise InputError(
            f"header.rate_hz of {path.name}",
            value=f"{told:g} samples per second",
            expected=f"{mapping.rate_hz:g} as declared",
            fix="correct rate_hz in the mapping file, or leave it out",
        )
    return mapping.rate_hz


def header_start(path: Path, mapping: Mapping) -> datetime.datetime | None:
    """The start that the lines above the table tell, with its zone, where the mapping says where. Raises InputError."""
    if mapping.header is None or mapping.header.start is None:
        return None
    word = _header_value(path, mapping, mapping.header.start, "start")
    zone = ZoneInfo(mapping.zone or "UTC")
    try:
        if mapping.header.start_format is not None:
            start = datetime.datetime.strptime(word, mapping.header.start_format)
        elif _is_number(word):
            start = datetime.datetime.fromtimestamp(float(word), tz=datetime.UTC)
        else:
            start = datetime.datetime.fromisoformat(re.sub(r"\s+(?=[+-]\d\d:?\d\d$)", "", word))
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(
            f"header.start of {path.name}",
            value=repr(word),
            expected="a unix time, or a date and time as in ISO 8601",
            fix="give header.start_format, such as '%d.%m.%Y %H:%M:%S'",
        ) from error
    return start if start.tzinfo else start.replace(tzinfo=zone)


def _header_value(path: Path, mapping: Mapping, place: int | str, name: str) -> str:
    with path.open("rb") as file:
        raw = file.read(_HEADER_BYTES)
    lines = raw.decode(mapping.encoding, "replace").removeprefix("\ufeff").splitlines()
    lines = lines[: mapping.skip_rows or _HEADER_LINES]
    if isinstance(place, int):
        cells = next(csv.reader(lines[place - 1 : place], delimiter=mapping.delimiter), None) if place > 0 else None
        if not cells:
            raise InputError(
                f"header.{name} of {path.name}",
                value=f"line {place}",
                expected=f"one of the {len(lines)} lines above the table (skip_rows)",
            )
        return cells[0].strip()
    found = re.search(place, "\n".join(lines), re.MULTILINE)
    if found is None:
        raise InputError(
            f"header.{name} of {path.name}",
            value=f"no match for {place!r}",
            expected=f"a match in its first {len(lines)} lines",
            fix="correct the pattern, or skip_rows if it stands further down",
        )
    named = found.groupdict()
    parts = [named["date"], named["time"]] if {"date", "time"} <= set(named) else found.groups("")
    return " ".join(part.strip() for part in parts)


@contextlib.contextmanager
def _open_csv(
    path: Path, mapping: Mapping, columns: list[str], types: dict[str, pa.DataType]
) -> Iterator[pa.csv.CSVStreamingReader]:
    names = _names_given(path, mapping)
    with (
        as_utf8(path, mapping.encoding) as readable,
        _reader(readable, mapping, names, columns, types) as reader,
    ):
        yield reader


def _reader(
    path: Path,
    mapping: Mapping,
    names: list[str] | None,
    columns: list[str],
    types: dict[str, pa.DataType],
) -> pa.csv.CSVStreamingReader:
    return pa.csv.open_csv(
        path,
        # One thread: the files are what is spread over the cores.
        read_options=pa.csv.ReadOptions(
            # As much as the file has: Arrow makes room for a whole block before it reads.
            block_size=max(_FEWEST_BYTES, min(_BATCH_BYTES, path.stat().st_size + 1)),
            skip_rows=mapping.skip_rows,
            skip_rows_after_names=mapping.rows_after_header,
            column_names=names,
            use_threads=False,
        ),
        parse_options=pa.csv.ParseOptions(
            delimiter=mapping.delimiter, quote_char=mapping.quote or False, newlines_in_values=mapping.layout == "rows"
        ),
        convert_options=pa.csv.ConvertOptions(
            include_columns=columns,
            column_types=types,
            null_values=list(mapping.missing),
            strings_can_be_null=True,
            decimal_point=mapping.decimal,
        ),
    )


def _csv_names(path: Path, mapping: Mapping) -> list[str]:
    """Names of the columns: those that are given, else the cells of the first line that is not passed over."""
    if (given := _names_given(path, mapping)) is not None:
        return given
    encoding = "utf-8-sig" if codecs.lookup(mapping.encoding).name == "utf-8" else mapping.encoding
    with path.open(encoding=encoding, newline="") as file:
        lines = (line for at, line in enumerate(file) if at >= mapping.skip_rows)
        filled = (line for line in lines if line.strip("\r\n"))
        # Only in a table of recordings may a cell go on in the next line.
        header = filled if mapping.layout == "rows" else itertools.islice(filled, 1)
        if mapping.quote:
            names = next(csv.reader(header, delimiter=mapping.delimiter, quotechar=mapping.quote), None)
        else:
            names = next(csv.reader(header, delimiter=mapping.delimiter, quoting=csv.QUOTE_NONE), None)
    if names is None:
        raise pa.ArrowInvalid("Empty CSV file")
    return names


def _names_given(path: Path, mapping: Mapping) -> list[str] | None:
    """Column names of a file without a header; one more where its lines end in a delimiter. Raises InputError."""
    if not mapping.column_names:
        return None
    names = list(mapping.column_names)
    with path.open(encoding=mapping.encoding, errors="replace", newline="") as file:
        lines = (line for at, line in enumerate(file) if at >= mapping.skip_rows + mapping.rows_after_header)
        first = next((line for line in lines if line.strip()), "")
    # A line as long as a recording is no row of a table.
    cells = next(csv.reader(io.StringIO(first), delimiter=mapping.delimiter, quotechar=mapping.quote or '"'), [])
    if len(cells) == len(names) + 1 and not cells[-1].strip():
        return [*names, ""]
    if cells and len(cells) != len(names):
        raise InputError(
            f"column_names of {path.name}",
            value=f"{len(names)} names for {len(cells):,} columns",
            expected="a name for each column",
            fix="name them all, or use layout = 'lines' where a line is a whole signal",
        )
    return names


def _unreadable(path: Path, mapping: Mapping, error: Exception) -> InputError:
    said = " ".join(str(error).split())
    said = said if len(said) < 400 else said[:400] + "…"
    return InputError(
        f"file {path.name}",
        value=f"unreadable ({said})",
        expected=f"a {mapping.format} file",
        fix=_likely_fix(said, mapping),
    )


def _likely_fix(said: str, mapping: Mapping) -> str | None:
    """What in the mapping would probably read the cell that was refused."""
    found = re.search(r"conversion error to double: invalid value '([^']*)'", said)
    if found is None or mapping.format != "csv":
        return None
    cell = found.group(1).strip()
    if re.fullmatch(r"-?[\d.]*\d,\d+", cell) and mapping.decimal == ".":
        return "set decimal = ',' in the mapping file (and thousands, where it separates them)"
    if re.fullmatch(r"-?\d{1,3}([,' ]\d{3})+(\.\d+)?", cell) and not mapping.thousands:
        return f"set thousands = {re.sub(r'[-.0-9]', '', cell)[0]!r} in the mapping file"
    if not re.search(r"\d", cell):
        return "if this is a row of units, set rows_after_header = 1; if it means a missing sample, add it to missing"
    return None


def _is_number(word: Any) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
