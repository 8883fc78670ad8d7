"""The mapping file: what the columns of a delimited or Parquet file mean, in TOML or JSON.

Four layouts. `columns`: a row per sample and a column per channel; a file is a recording. `rows`: a row per
recording, whose whole signal stands in one cell. `lines`: no header, a line per channel and a number per sample; a
file is a recording. `variables`: MATLAB and HDF5; a channel is a variable (`ecg`, `data/ecg`, `data.ecg`) or one row or
column of it (`signals[2]`, from 0), each at a rate of its own, and times only check the rate.
Every key: `docs/mapping.md`; examples: `docs/mappings/`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import posixpath
import re
import tomllib
import zoneinfo
from collections.abc import Mapping as Dictionary
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from xmae_dist.core.errors import InputError
from xmae_dist.core.units import canonical_unit

TimeFormat = Literal["clock", "days", "minutes", "seconds", "milliseconds", "microseconds", "nanoseconds", "iso8601"]


@dataclass(frozen=True, kw_only=True)
class ChannelMapping:
    """One channel: the `column` it is read from; its numbers are value · scale + offset, in `unit`.

    Of several columns the first is taken that is neither flat nor empty. In the layout `lines` a column is the
    number of a line, from 1. A `rate_hz` below the mapping's reads a column that has a value in some rows only.
    """

    name: str
    column: str | tuple[str, ...]
    unit: str = "nu"
    scale: float = 1.0
    offset: float = 0.0
    rate_hz: float | None = None
    device: str | None = None
    body_site: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it may be read from, the preferred first."""
        return (self.column,) if isinstance(self.column, str) else tuple(self.column)


@dataclass(frozen=True, kw_only=True)
class TimeMapping:
    """The time column. `clock` reads `m:ss.mmm` and `h:mm:ss.mmm`, past midnight too; `iso8601`, unix times and an
    `epoch` give the wall time.

    Rows are counted; times tell where whole samples are missing: a step longer than `gap_after_samples` sampling
    periods that later rows do not take back. One longer than `longest_gap_s` rejects the file, as does a rate that
    differs from the declared one by more than `rate_tolerance`. Where rows share the time of a packet,
    `packet_stamp` says of which of them it is ("first" or "last"); without it the more even of both is taken.
    """

    column: str
    format: TimeFormat = "seconds"
    unix: bool = False
    epoch: str | None = None
    gap_after_samples: float = 1.75
    longest_gap_s: float = 3600.0
    rate_tolerance: float = 0.01
    packet_stamp: Literal["first", "last"] | None = None


@dataclass(frozen=True, kw_only=True)
class HeaderMapping:
    """What the lines above the table say. Each is the number of a line, whose first cell is meant, or a regular
    expression on these lines, whose group (or groups, joined by a space) is meant.

    `start` is a unix time in seconds or a date and time; `start_format` is its form where it is not ISO 8601
    (`%d.%m.%Y %H:%M:%S`).
    """

    rate_hz: int | str | None = None
    start: int | str | None = None
    start_format: str | None = None


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
    """How to read the files of one device. `files` is the glob that picks them in a folder, by name or by path.

    The recording id is the file's name without suffix (`columns`, `lines`) or the column `recording_column` (`rows`).
    The subject is the column `subject_column`, or the first group of `subject_pattern` in the recording id or in the
    path with its folders, or unknown.
    `labels` maps label name -> column, for the layout `rows`, or variable, for the layout `variables`.

    Above the table `skip_rows` lines are passed over; then comes the line of column names, or none where
    `column_names` gives them, and `rows_after_header` lines that are no samples (units). `zone` is that of wall
    times without one; UTC unless given. `resample` brings rows at irregular times onto a grid of `rate_hz`; steps
    longer than `bridge_s` become gaps. `joined` are other files of the same recording and clock: what `*` stands for
    in their `files` is what it stands for in ours.
    """

    layout: Literal["columns", "rows", "lines", "variables"]
    channels: tuple[ChannelMapping, ...]
    rate_hz: float | None = None
    files: str = "*"
    format: Literal["csv", "parquet", "mat", "hdf5"] = "csv"
    delimiter: str = ","
    quote: str = '"'
    decimal: str = "."
    thousands: str = ""
    encoding: str = "utf-8"
    skip_rows: int = 0
    rows_after_header: int = 0
    column_names: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("", "NaN", "nan", "NA", "null")
    header: HeaderMapping | None = None
    time: TimeMapping | None = None
    zone: str | None = None
    resample: bool = False
    bridge_s: float = 0.15
    recording_column: str | None = None
    subject_column: str | None = None
    subject_pattern: str | None = None
    cell_separator: str = " "
    labels: dict[str, str] = field(default_factory=dict)
    label_files: tuple[LabelFile, ...] = ()
    joined: tuple[Mapping, ...] = ()

    def companions(self, head: str, sizes: Dictionary[str, int]) -> tuple[str, ...]:
        """Files of the recording of `head`, relative to the listing, that are in it."""
        names = (joined_name(head, self.files, other.files) for other in self.joined)
        return tuple(name for name in dict.fromkeys(names) if name in sizes and name != head)


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


# What a joined file has in common with the first unless it says otherwise.
_ITS_OWN = {"channels", "files", "joined", "labels", "label_files", "subject_pattern", "subject_column", "layout"}
_NESTED: dict[str, tuple[type, bool]] = {
    "channels": (ChannelMapping, True),
    "time": (TimeMapping, False),
    "header": (HeaderMapping, False),
    "label_files": (LabelFile, True),
    "joined": (Mapping, True),
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
    if kind is Mapping and isinstance(fields.get("joined"), list):
        shared = {name: value for name, value in fields.items() if name not in _ITS_OWN}
        joined = [{**shared, "layout": fields["layout"], **one} for one in fields["joined"] if isinstance(one, dict)]
        fields = {**fields, "joined": joined}
    return kind(**{name: _value(kind, name, value, where) for name, value in fields.items()})


_PLAIN: dict[str, tuple[type, ...]] = {
    "float": (int, float),
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "dict[str, str]": (dict,),
    "int | str": (int, str),
    "tuple[str, ...]": (list,),
    "str | tuple[str, ...]": (str, list),
}


def _value(kind: type, name: str, value: Any, where: str) -> Any:
    if kind is Mapping and name in _NESTED and value is not None:
        nested, many = _NESTED[name]
        if many:
            if not isinstance(value, list):
                raise InputError(f"mapping {where}: field {name!r}", value=repr(value), expected=f"[[{name}]] tables")
            return tuple(_build(nested, item, f"{where}: {name}[{at}]") for at, item in enumerate(value))
        return _build(nested, value, f"{where}: {name}")
    declared = str(next(item.type for item in dataclasses.fields(kind) if item.name == name)).removesuffix(" | None")
    expected = _PLAIN.get(declared)
    texts = isinstance(value, list) and not all(isinstance(one, str) for one in value)
    if expected and (not isinstance(value, expected) or texts or (isinstance(value, bool) and bool not in expected)):
        raise InputError(f"mapping {where}: field {name!r}", value=repr(value), expected=f"a {declared}")
    if declared == "float" and value is not None:
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _check(mapping: Mapping, where: str) -> None:
    _one_of(mapping.layout, ("columns", "rows", "lines", "variables"), f"mapping {where}: layout")
    _one_of(mapping.format, ("csv", "parquet", "mat", "hdf5"), f"mapping {where}: format")
    if (mapping.layout == "variables") != (mapping.format in ("mat", "hdf5")):
        raise InputError(
            f"mapping {where}: layout",
            value=f"{mapping.layout!r} with the format {mapping.format!r}",
            expected="'variables' for 'mat' and 'hdf5', and only for these",
        )
    _check_rate(mapping, where)
    _check_time(mapping, where)
    _check_text(mapping, where)
    if not mapping.channels:
        raise InputError(f"mapping {where}: channels", value="none", fix="add a [[channels]] table for each signal")
    for channel in mapping.channels:
        _check_channel(channel, mapping, where)
    _check_columns(mapping, where)
    if mapping.layout == "rows" and mapping.recording_column is None:
        raise InputError(f"mapping {where}: recording_column", value="missing", expected="the column of recording ids")
    if mapping.subject_pattern is not None:
        check_pattern(mapping.subject_pattern, f"mapping {where}: subject_pattern")
    for at, other in enumerate(mapping.joined):
        _check_joined(mapping, other, f"{where}: joined[{at}]")


def _check_rate(mapping: Mapping, where: str) -> None:
    stated = mapping.header is not None and mapping.header.rate_hz is not None
    each = all(channel.rate_hz for channel in mapping.channels)
    if mapping.rate_hz is None and not stated and not each:
        raise InputError(
            f"mapping {where}: field 'rate_hz'",
            value="missing",
            expected="samples per second",
            fix="add rate_hz, or header.rate_hz where the lines above the table tell it",
        )
    if mapping.rate_hz is not None and not mapping.rate_hz > 0:
        raise InputError(f"mapping {where}: rate_hz", value=mapping.rate_hz, expected="samples per second, above 0")
    if mapping.resample and mapping.time is None:
        raise InputError(
            f"mapping {where}: resample", value="true without [time]", fix="name the column of times to resample from"
        )
    if not mapping.bridge_s > 0:
        raise InputError(f"mapping {where}: bridge_s", value=mapping.bridge_s, expected="seconds, above 0")


def _check_time(mapping: Mapping, where: str) -> None:
    if mapping.zone is not None:
        try:
            zoneinfo.ZoneInfo(mapping.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
            raise InputError(
                f"mapping {where}: zone", value=repr(mapping.zone), expected="a name like 'Europe/Berlin' or 'UTC'"
            ) from error
    if mapping.header is not None:
        for name in ("rate_hz", "start"):
            if isinstance(pattern := getattr(mapping.header, name), str):
                check_pattern(pattern, f"mapping {where}: header.{name}")
    time = mapping.time
    if time is None:
        return
    _one_of(time.format, get_args(TimeFormat), f"mapping {where}: time.format")
    if time.packet_stamp is not None:
        _one_of(time.packet_stamp, ("first", "last"), f"mapping {where}: time.packet_stamp")
    if not time.gap_after_samples > 1:
        raise InputError(
            f"mapping {where}: time.gap_after_samples",
            value=time.gap_after_samples,
            expected="sampling periods, above 1",
        )
    if time.epoch is not None and time.format in ("clock", "iso8601"):
        raise InputError(
            f"mapping {where}: time.epoch", value=f"given for the format {time.format!r}", expected="a count of units"
        )


def _check_text(mapping: Mapping, where: str) -> None:
    _one_of(mapping.decimal, (".", ","), f"mapping {where}: decimal")
    for name, signs in (("delimiter", mapping.delimiter), ("quote", mapping.quote or '"')):
        if mapping.layout != "lines" and len(signs) != 1:
            raise InputError(
                f"mapping {where}: {name}",
                value=repr(signs),
                expected="one sign",
                fix='a tab is "\\t" in double quotes',
            )
    if mapping.format == "csv" and mapping.decimal == mapping.delimiter and mapping.layout != "lines":
        raise InputError(
            f"mapping {where}: decimal",
            value=f"{mapping.decimal!r}, which is the delimiter too",
            expected="two different signs",
            fix="delimiter is often ';' where decimal is ','",
        )
    if mapping.thousands and mapping.thousands in (mapping.decimal, mapping.delimiter):
        raise InputError(f"mapping {where}: thousands", value=repr(mapping.thousands), expected="a sign of its own")
    for name in ("skip_rows", "rows_after_header"):
        if getattr(mapping, name) < 0:
            raise InputError(f"mapping {where}: {name}", value=getattr(mapping, name), expected="0 or more lines")


def _check_channel(channel: ChannelMapping, mapping: Mapping, where: str) -> None:
    names = [one.name for one in mapping.channels]
    if not re.fullmatch(r"[a-z][a-z0-9_]*", channel.name) or names.count(channel.name) > 1:
        raise InputError(
            f"mapping {where}: channel name",
            value=repr(channel.name),
            expected="distinct names of lower-case letters, digits and underscores",
        )
    if not channel.columns:
        raise InputError(f"mapping {where}: channel {channel.name}: column", value="none", fix="name one")
    if channel.rate_hz is not None and not channel.rate_hz > 0:
        raise InputError(f"mapping {where}: channel {channel.name}: rate_hz", value=channel.rate_hz, expected="above 0")
    if mapping.layout == "columns" and (channel.rate_hz or 0.0) > (mapping.rate_hz or math.inf):
        raise InputError(
            f"mapping {where}: channel {channel.name}: rate_hz",
            value=channel.rate_hz,
            expected=f"at most {mapping.rate_hz:g}, the rate of the rows",
            fix="leave it out, or state as rate_hz of the mapping how many rows a second has",
        )
    if mapping.layout == "lines" and not all(re.fullmatch(r"[1-9]\d*", one) for one in channel.columns):
        raise InputError(
            f"mapping {where}: channel {channel.name}: column",
            value=repr(channel.column),
            expected="the number of a line as a text, from '1'",
        )
    canonical_unit(channel.unit)


def _check_columns(mapping: Mapping, where: str) -> None:
    columns = [column for channel in mapping.channels for column in channel.columns]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise InputError(f"mapping {where}: column", value=f"{twice[0]!r} for two channels", fix="map it once")
    if mapping.layout != "rows":
        others = ("labels",) if mapping.layout != "variables" else ()
        for name in ("recording_column", "subject_column", *others):
            if getattr(mapping, name):
                raise InputError(
                    f"mapping {where}: {name}",
                    value=f"given for the layout {mapping.layout!r}",
                    expected="not given: in this layout a file is one recording",
                    fix="use subject_pattern and label_files",
                )


def check_pattern(pattern: str, thing: str) -> None:
    """Raises InputError, naming `thing`, where `pattern` is no regular expression with a group."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise InputError(thing, value=repr(pattern), expected=f"a regular expression ({error})") from error
    if groups < 1:
        raise InputError(thing, value=repr(pattern), fix="put what is meant in parentheses")


def _check_joined(mapping: Mapping, other: Mapping, where: str) -> None:
    _check(other, where)
    if mapping.layout != "columns" or other.layout != "columns" or other.joined:
        raise InputError(f"mapping {where}", value="joined", expected="files of the layout 'columns', joined once")
    if len(_wildcards(mapping.files)) != len(_wildcards(other.files)):
        raise InputError(
            f"mapping {where}: files",
            value=repr(other.files),
            expected=f"as many '*' as {mapping.files!r}: they stand for the same",
        )
    names = [channel.name for one in (mapping, *mapping.joined) for channel in one.channels]
    if len(set(names)) < len(names):
        raise InputError(f"mapping {where}: channel name", value=f"one of {names} twice", expected="distinct names")


def picks(files: str, path: str) -> bool:
    """Whether the glob `files` picks a file by its path: a pattern of one part by the name, `csv/*.csv` by the last
    two parts.
    """
    return _tail(files, path) is not None


def joined_name(head: str, files: str, others: str) -> str:
    """The path of the file that `others` means beside `head`, which `files` picked."""
    found = _tail(files, head)
    stood_for = iter(found.groups() if found else ())
    tail = re.sub(_WILDCARD, lambda _: next(stood_for, ""), others)
    parts = head.split("/")
    return posixpath.join("/" if head.startswith("/") else "", *parts[: len(parts) - files.count("/") - 1], tail)


_WILDCARD = r"(\[[^]]+\]|\*|\?)"


def _wildcards(pattern: str) -> list[str]:
    return re.findall(_WILDCARD, pattern)


def _tail(pattern: str, path: str) -> re.Match[str] | None:
    """The last parts of `path` against a glob of as many; a group for each wildcard."""
    parts, expression = _compiled(pattern)
    return expression.fullmatch("/".join(path.split("/")[-parts:]))


@functools.lru_cache(maxsize=32)
def _compiled(pattern: str) -> tuple[int, re.Pattern[str]]:
    """How many parts a glob has, and the expression that it means: made once for millions of files."""
    pattern = pattern.removeprefix("./").removeprefix("**/")
    # Every second word of the split is a wildcard.
    words = [
        f"({_MEANS.get(word) or word.replace('[!', '[^')})" if at % 2 else re.escape(word)
        for at, word in enumerate(re.split(_WILDCARD, pattern))
    ]
    return 1 + pattern.count("/"), re.compile("".join(words))


_MEANS = {"*": "[^/]*", "?": "[^/]"}


def _one_of(value: str, allowed: tuple[str, ...], where: str) -> None:
    if value not in allowed:
        raise InputError(where, value=repr(value), expected="one of " + ", ".join(allowed))
