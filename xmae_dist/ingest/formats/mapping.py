"""The mapping file: what the columns of a delimited or Parquet file mean, in TOML or JSON.

Two layouts. `columns`: a row per sample and a column per channel; a file is a recording. `rows`: a row per
recording, whose whole signal stands in one cell. Examples with every field: `docs/mappings/`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from xmae_dist.core.errors import InputError
from xmae_dist.core.units import canonical_unit

TimeFormat = Literal["clock", "seconds", "milliseconds", "microseconds", "nanoseconds", "iso8601"]


@dataclass(frozen=True, kw_only=True)
class ChannelMapping:
    """One channel: the `column` it is read from; its numbers are value · scale + offset, in `unit`."""

    name: str
    column: str
    unit: str = "nu"
    scale: float = 1.0
    offset: float = 0.0
    rate_hz: float | None = None
    device: str | None = None
    body_site: str | None = None


@dataclass(frozen=True, kw_only=True)
class TimeMapping:
    """The time column. `clock` reads `m:ss.mmm` and `h:mm:ss.mmm`; `iso8601` and unix times give the wall
    time.

    A step longer than `gap_after_samples` sampling periods is a gap; one longer than `longest_gap_s` rejects
    the file, as does a mean rate that differs from the declared one by more than `rate_tolerance`.
    """

    column: str
    format: TimeFormat = "seconds"
    unix: bool = False
    gap_after_samples: float = 1.75
    longest_gap_s: float = 3600.0
    rate_tolerance: float = 0.01


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """A separate table of labels: `key` is its column of recording ids, `columns` maps label name -> column.

    `path` is relative to the folder that is ingested. A column of numbers becomes numeric labels, others
    text.
    """

    path: str
    key: str
    columns: dict[str, str]
    delimiter: str = ","
    quote: str = '"'
    encoding: str = "utf-8-sig"


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """How to read the files of one device. `files` is the glob that picks them in a folder.

    The recording id is the file's name without suffix (`columns`) or the column `recording_column` (`rows`).
    The subject is the column `subject_column`, or the first group of `subject_pattern` in the recording id,
    or unknown. `labels` maps label name -> column, for the layout `rows`.
    """

    layout: Literal["columns", "rows"]
    rate_hz: float
    channels: tuple[ChannelMapping, ...]
    files: str = "*"
    format: Literal["csv", "parquet"] = "csv"
    delimiter: str = ","
    quote: str = '"'
    encoding: str = "utf-8"
    skip_rows: int = 0
    missing: tuple[str, ...] = ("", "NaN", "nan", "NA", "null")
    time: TimeMapping | None = None
    recording_column: str | None = None
    subject_column: str | None = None
    subject_pattern: str | None = None
    cell_separator: str = " "
    labels: dict[str, str] = field(default_factory=dict)
    label_files: tuple[LabelFile, ...] = ()


def parse_mapping(text: str, name: str) -> Mapping:
    """The mapping in `text`, TOML or JSON by the suffix of `name`. Raises InputError naming the field at
    fault.
    """
    try:
        fields = json.loads(text) if name.endswith(".json") else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"mapping {name}", value=f"not parseable ({error})", expected="TOML, or JSON in *.json"
        ) from error
    mapping: Mapping = _build(Mapping, fields, name)
    _check(mapping, name)
    return mapping


_NESTED: dict[str, tuple[type, bool]] = {
    "channels": (ChannelMapping, True),
    "time": (TimeMapping, False),
    "label_files": (LabelFile, True),
}


def _build(kind: type, fields: Any, where: str) -> Any:
    """A dataclass from plain JSON values; unknown, missing and mistyped fields are named with their place."""
    if not isinstance(fields, dict):
        raise InputError(f"mapping {where}", value=repr(fields), expected="a table of fields")
    known = {item.name: item for item in dataclasses.fields(kind)}
    for name in fields:
        if name not in known:
            raise InputError(f"mapping {where}: field {name!r}", value="unknown", expected="one of " + ", ".join(known))
    for name, item in known.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in fields:
            raise InputError(f"mapping {where}: field {name!r}", value="missing", fix=f"add {name} to it")
    return kind(**{name: _value(kind, name, value, where) for name, value in fields.items()})


def _value(kind: type, name: str, value: Any, where: str) -> Any:
    if kind is Mapping and name in _NESTED and value is not None:
        nested, many = _NESTED[name]
        if many:
            return tuple(_build(nested, item, f"{where}: {name}[{at}]") for at, item in enumerate(value))
        return _build(nested, value, f"{where}: {name}")
    declared = str(next(item.type for item in dataclasses.fields(kind) if item.name == name))
    plain = {"float": (int, float), "int": (int,), "str": (str,), "bool": (bool,), "dict[str, str]": (dict,)}
    expected = plain.get(declared.removesuffix(" | None"))
    if expected and (not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected)):
        raise InputError(f"mapping {where}: field {name!r}", value=repr(value), expected=f"a {declared}")
    return tuple(value) if isinstance(value, list) else value


def _check(mapping: Mapping, where: str) -> None:
    _one_of(mapping.layout, ("columns", "rows"), f"mapping {where}: layout")
    _one_of(mapping.format, ("csv", "parquet"), f"mapping {where}: format")
    if mapping.time is not None:
        _one_of(mapping.time.format, get_args(TimeFormat), f"mapping {where}: time.format")
    if not mapping.rate_hz > 0:
        raise InputError(f"mapping {where}: rate_hz", value=mapping.rate_hz, expected="samples per second, above 0")
    if not mapping.channels:
        raise InputError(f"mapping {where}: channels", value="none", fix="add a [[channels]] table for each signal")
    names = [channel.name for channel in mapping.channels]
    for channel in mapping.channels:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", channel.name) or names.count(channel.name) > 1:
            raise InputError(
                f"mapping {where}: channel name",
                value=repr(channel.name),
                expected="distinct names of lower-case letters, digits and underscores",
            )
        if mapping.layout == "columns" and channel.rate_hz not in (None, mapping.rate_hz):
            raise InputError(
                f"mapping {where}: channel {channel.name}: rate_hz",
                value=channel.rate_hz,
                expected=f"{mapping.rate_hz:g}: the columns of one row share their time",
                fix="leave it out",
            )
        canonical_unit(channel.unit)
    _check_columns(mapping, where)
    if mapping.layout == "rows" and mapping.recording_column is None:
        raise InputError(f"mapping {where}: recording_column", value="missing", expected="the column of recording ids")
    if mapping.subject_pattern is not None:
        _check_pattern(mapping.subject_pattern, where)


def _check_columns(mapping: Mapping, where: str) -> None:
    columns = [channel.column for channel in mapping.channels]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise InputError(f"mapping {where}: column", value=f"{twice[0]!r} for two channels", fix="map it once")
    if mapping.layout == "columns":
        for name in ("recording_column", "subject_column", "labels"):
            if getattr(mapping, name):
                raise InputError(
                    f"mapping {where}: {name}",
                    value="given for the layout 'columns'",
                    expected="nothing: there a file is one recording",
                    fix="use subject_pattern and label_files",
                )


def _check_pattern(pattern: str, where: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise InputError(
            f"mapping {where}: subject_pattern", value=repr(pattern), expected=f"a regular expression ({error})"
        ) from error
    if groups < 1:
        raise InputError(f"mapping {where}: subject_pattern", value=repr(pattern), fix="put the subject in parentheses")


def _one_of(value: str, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise InputError(where, value=repr(value), expected="one of " + ", ".join(allowed))
