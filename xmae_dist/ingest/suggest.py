"""A first draft of a mapping for a file: what was found in it, and, as comments, what could not be told.

People write mappings by hand; this saves them the columns' names and the arithmetic of times. Nothing is guessed in
silence: whatever a person has to decide is a line that begins with `# could not tell`, and a rate that is not in the
file is written as 0, which no ingest accepts.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError, some_of
from xmae_dist.core.units import canonical_unit
from xmae_dist.ingest.formats import variables
from xmae_dist.ingest.formats.edf import EdfRecording
from xmae_dist.ingest.naming import channel_names

# The beginning of a table that is looked at: enough rows to measure a rate, whatever the file's length.
_LOOKED_AT_BYTES = 2**20
_DELIMITERS = (",", ";", "\t", "|", " ")
_MOST_HEADER_LINES = 40
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan|NaN|NA|")
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+")
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}.*")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2})?(\.\d+)?")
_TIME_NAME = re.compile(
    r"(?i)(^|[^a-z])(time|timestamp|t|ts|datetime|date|clock|unix|epoch|seconds?|sec|ms|us)([^a-z]|$)"
)
_UNIT_IN_NAME = re.compile(r"(.*?)[\s_]*[\(\[]([^\)\]]+)[\)\]]\s*$")
# (name of the format, units in a second, the least count that is a wall time: 1973 in that unit)
_COUNTS = (
    ("nanoseconds", 1e9, 1e17),
    ("microseconds", 1e6, 1e14),
    ("milliseconds", 1e3, 1e11),
    ("seconds", 1.0, 1e8),
)
_UNIT_WORDS = {"ns": "nanoseconds", "us": "microseconds", "µs": "microseconds", "ms": "milliseconds", "s": "seconds"}
_SLOWEST_HZ, _FASTEST_HZ = 0.5, 20_000.0
_RATE_ATTRIBUTES = (
    "fs",
    "rate",
    "sampling_rate",
    "sample_rate",
    "samplingrate",
    "sampling_frequency",
    "frequency",
    "hz",
)


@dataclass
class Draft:
    """Fields of a mapping in the order in which they are printed, and remarks."""

    fields: dict[str, Any] = field(default_factory=dict)
    time: dict[str, Any] = field(default_factory=dict)
    channels: list[dict[str, Any]] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)

    def text(self) -> str:
        lines = [f"# found: {one}" for one in self.found] + [f"# could not tell: {one}" for one in self.untold]
        lines += [f"{name} = {_toml(value)}" for name, value in self.fields.items()]
        if self.time:
            lines += ["", "[time]", *(f"{name} = {_toml(value)}" for name, value in self.time.items())]
        for channel in self.channels:
            lines += ["", "[[channels]]", *(f"{name} = {_toml(value)}" for name, value in channel.items())]
        return "\n".join(lines) + "\n"


def suggest(path: Path) -> str:
    """The draft for a table (CSV, text, Parquet), an HDF5 or MATLAB file as TOML; for an EDF what is in it.

    Raises InputError where the file cannot be opened or nothing in it looks like a signal.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"file {path}", value="no such file", fix="check the path")
    if suffix in (".edf", ".bdf"):
        return _edf(path)
    if suffix in (".h5", ".hdf5", ".mat"):
        return _variables(path).text()
    return (_parquet(path) if suffix in (".parquet", ".pq") else _text(path)).text()


def _edf(path: Path) -> str:
    recording = EdfRecording(path, path.stem)
    start = recording.origin.start_time_ns
    lines = [f"# {path.name} describes itself; no mapping is needed: xmae ingest {path.name} --corpus … --cohort …"]
    lines.append("# found: " + ("no start time" if start is None else f"start {np.datetime64(start, 'ns')}"))
    names = channel_names([channel.source_name for channel in recording.channels])
    for channel, name in zip(recording.channels, names, strict=True):
        lines.append(f"# found: {channel.source_name!r}, {channel.rate_hz:g} Hz, {channel.unit}; becomes {name!r}")
    lines += [f"# found: {key} {value:g}" for key, value in recording.origin.labels.items()]
    lines += [f"# found: {key} {value[:60]}" for key, value in recording.origin.label_text.items()]
    return "\n".join([*lines, "# could not tell: who it is; see --header-subjects and --labels", ""])


def _variables(path: Path) -> Draft:
    draft = Draft(fields={"layout": "variables", "format": "mat" if path.suffix.lower() == ".mat" else "hdf5"})
    draft.fields |= {"files": f"*{path.suffix}", "rate_hz": 0.0}
    with variables.opened(path) as file:
        for place in variables.places(file):
            array = variables.array_at(file, place)
            shape = "x".join(map(str, array.shape))
            longest, across = max(array.shape), array.size // max(array.shape)
            if longest < 100 or across > 64:
                draft.found.append(f"{place}, {shape}: too short, or too many rows, for signals")
                continue
            rate_hz = _stated_rate(array)
            for number in range(across):
                name = place if across == 1 else f"{place}[{number}]"
                bare = name.rsplit("/", 1)[-1].rstrip("]").replace("[", "_")
                draft.channels.append({"name": bare, "column": name} | ({"rate_hz": rate_hz} if rate_hz else {}))
            draft.found.append(f"{place}, {shape}" + (f", {rate_hz:g} Hz in its attributes" if rate_hz else ""))
    if not draft.channels:
        raise InputError(f"file {path.name}", value="no array of 100 numbers or more", expected="signals")
    rates = {channel.get("rate_hz") for channel in draft.channels}
    if None in rates:
        draft.untold.append("rate_hz, in Hz: nothing in the file states it for every channel")
    else:
        del draft.fields["rate_hz"]
    draft.untold.append("units, and which of the channels are signals and which are times: remove what is none")
    return _named(draft)


def _stated_rate(array: Any) -> float | None:
    for name, value in dict(getattr(array, "attrs", {})).items():
        number = np.asarray(value).ravel()
        if str(name).lower() in _RATE_ATTRIBUTES and number.size == 1 and number.dtype.kind in "iuf":
            return float(number[0]) or None
    return None


def _parquet(path: Path) -> Draft:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pa.parquet.ParquetFile(path) as file:
            batch = next(file.iter_batches(batch_size=20_000), None)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"file {path.name}", value=f"unreadable ({error})", expected="a Parquet file") from error
    if batch is None or not batch.num_rows:
        raise InputError(f"file {path.name}", value="no rows", expected="a row per sample")
    draft = Draft(fields={"layout": "columns", "files": f"*{path.suffix}", "format": "parquet", "rate_hz": 0.0})
    columns = {name: [_cell(one) for one in batch.column(name).to_pylist()] for name in batch.schema.names}
    return _columns(draft, columns, {}, path)


def _cell(value: Any) -> str:
    return "" if value is None else value.isoformat() if hasattr(value, "isoformat") else str(value)


def _text(path: Path) -> Draft:
    raw = path.open("rb").read(_LOOKED_AT_BYTES)
    encoding = _encoding(raw)
    lines = raw.decode(encoding, "replace").splitlines()
    # The last line may be cut.
    lines = lines[:-1] if len(raw) == _LOOKED_AT_BYTES else lines
    if len(lines) < 3:
        raise InputError(
            f"file {path.name}",
            value=f"{len(lines)} lines",
            expected="a table with a row per sample",
            fix="layout = 'lines' reads a signal in one line (docs/mapping.md)",
        )
    delimiter = _delimiter(lines)
    rows = [_split(line, delimiter) for line in lines]
    width = Counter(len(row) for row in rows[_MOST_HEADER_LINES // 2 :] or rows).most_common(1)[0][0]
    decimal = "," if delimiter != "," and any(_COMMA_NUMBER.fullmatch(cell.strip()) for cell in rows[-1]) else "."
    first = next((at for at, row in enumerate(rows) if len(row) == width and _mostly_numbers(row, decimal)), None)
    if first is None:
        raise InputError(f"file {path.name}", value="no row of numbers", expected="a row per sample", fix="write it")
    draft = Draft(fields={"layout": "columns", "files": f"*{path.suffix}"})
    draft.fields |= {"delimiter": delimiter} if delimiter != "," else {}
    draft.fields |= {"decimal": decimal} if decimal != "." else {}
    draft.fields |= {"quote": "'"} if _quote(lines) == "'" else {}
    draft.fields |= {"encoding": encoding} if encoding != "utf-8" else {}
    names, units = _header(rows, first, width, draft)
    draft.fields["rate_hz"] = 0.0
    body = [row for row in rows[first:] if len(row) == width]
    point = (lambda cell: cell.replace(",", ".")) if decimal == "," else (lambda cell: cell)
    columns = {name: [point(row[at].strip()) for row in body] for at, name in enumerate(names)}
    return _columns(draft, columns, units, path)


def _encoding(raw: bytes) -> str:
    if raw.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    try:
        raw[: _LOOKED_AT_BYTES - 4].decode("utf-8")
    except UnicodeDecodeError as error:
        return "utf-8" if error.end >= len(raw) - 8 else "latin-1"
    return "utf-8"


def _delimiter(lines: Sequence[str]) -> str:
    """The sign that cuts most lines into equally many cells, most of them numbers."""
    some = [line for line in lines[-min(len(lines), 200) :] if line.strip()]

    def fit(delimiter: str) -> tuple[float, float, int]:
        rows = [_split(line, delimiter) for line in some]
        width, times = Counter(map(len, rows)).most_common(1)[0]
        cells = [cell.strip() for row in rows for cell in row]
        numbers = sum(bool(_NUMBER.fullmatch(cell) or _COMMA_NUMBER.fullmatch(cell)) for cell in cells)
        return (numbers / len(cells) if width > 1 else 0.0), times / len(rows), width

    best = max(_DELIMITERS, key=fit)
    return best if fit(best)[0] > 0 else ","


def _split(line: str, delimiter: str) -> list[str]:
    return next(csv.reader(io.StringIO(line), delimiter=delimiter, quotechar=_quote([line])), [])


def _quote(lines: Sequence[str]) -> str:
    """The sign around texts: some tools write apostrophes."""
    single = any(re.search(r"(^|[,;\t|])'[^']*'($|[,;\t|])", line) for line in lines)
    return "'" if single and not any('"' in line for line in lines) else '"'


def _mostly_numbers(row: Sequence[str], decimal: str) -> bool:
    cells = [cell.strip().replace(decimal, ".") if decimal == "," else cell.strip() for cell in row]
    filled = [cell for cell in cells if cell]
    good = [bool(_NUMBER.fullmatch(cell) or _ISO.fullmatch(cell) or _CLOCK.fullmatch(cell)) for cell in filled]
    return bool(filled) and sum(good) >= max(1, len(good) - 1) and any(_NUMBER.fullmatch(cell) for cell in filled)


def _header(rows: list[list[str]], first: int, width: int, draft: Draft) -> tuple[list[str], dict[str, str]]:
    """Names of the columns and the units of a row below them; notes what stands above and between."""
    names_at = next((at for at in range(first) if len(rows[at]) == width), None)
    if names_at is None:
        draft.fields |= {"skip_rows": first} if first else {}
        names = [f"column_{number}" for number in range(1, width + 1)]
        draft.fields["column_names"] = names
        draft.untold.append("names of the columns: there is no header, and they are numbered")
        return names, {}
    draft.fields |= {"skip_rows": names_at} if names_at else {}
    between = first - names_at - 1
    draft.fields |= {"rows_after_header": between} if between else {}
    names = [cell.strip() for cell in rows[names_at]]
    units: dict[str, str] = {}
    for row in rows[names_at + 1 : first]:
        units |= {name: cell.strip() for name, cell in zip(names, row, strict=False) if _unit(cell.strip())}
    return names, units


def _columns(draft: Draft, columns: dict[str, list[str]], units: dict[str, str], path: Path) -> Draft:
    numbers = {name: values for name, cells in columns.items() if (values := _floats(cells)) is not None}
    time = _time_column(columns, numbers)
    if time is None:
        draft.untold.append("rate_hz, in samples per second: no column looks like times")
    else:
        again = _repeated(columns)
        if again.any():
            draft.untold.append(f"why {again.mean():.2%} of the rows are those before again")
        _measure(draft, time, columns[time], numbers.get(time), again)
    falling = [name for name in numbers if name != time and _TIME_NAME.search(name) and _stamps_like(numbers[name])]
    for name in falling:
        draft.untold.append(f"why the times in column {name!r}, which is left out, step back")
        del numbers[name]
    left_out = [name for name in columns if name not in numbers and name != time and name not in falling]
    if left_out:
        draft.untold.append(f"what the columns without numbers mean, which are left out: {some_of(left_out)}")
    for name, values in numbers.items():
        if name == time or not name:
            continue
        if np.nanmin(values) == np.nanmax(values):
            draft.found.append(f"column {name!r} is flat and left out")
            continue
        bare, written = _split_unit(name, units)
        unit = written if written is not None and _unit(written) else None
        if unit is None:
            said = "" if written is None else f" (the file says {written!r})"
            draft.untold.append(f"the unit of {name!r}{said}")
        draft.channels.append({"name": bare, "column": name, "unit": unit or "nu"})
    if not draft.channels:
        raise InputError(f"file {path.name}", value="no column of numbers that change", expected="signals")
    draft.found.append(
        f"{len(draft.channels)} columns of numbers in {len(next(iter(columns.values()))):,} rows looked at"
    )
    return _named(draft)


def _stamps_like(values: NDArray[np.float64]) -> bool:
    """Whether numbers are so large that they can only be wall times."""
    return bool(np.isfinite(values).all() and values.min() >= _COUNTS[-1][2])


def _floats(cells: Iterable[str]) -> NDArray[np.float64] | None:
    """A column as numbers, empty cells as NaN; None where it holds something else, or nothing."""
    try:
        values = np.array([float(cell) if cell not in ("", "NA", "null") else np.nan for cell in cells])
    except ValueError:
        return None
    return values if np.isfinite(values).any() else None


def _time_column(columns: dict[str, list[str]], numbers: dict[str, NDArray[np.float64]]) -> str | None:
    """Dates or clock times first, then numbers that never fall: by name, and then the first column."""
    for name, cells in columns.items():
        if name not in numbers and all(_ISO.fullmatch(cell) or _CLOCK.fullmatch(cell) for cell in cells[:100]):
            return name
    rising = [
        name
        for name, values in numbers.items()
        if len(values) > 2 and np.isfinite(values).all() and (np.diff(values) >= 0).all() and values[-1] > values[0]
    ]
    named = [name for name in rising if _TIME_NAME.search(name)]
    first = next(iter(columns))
    return named[0] if named else first if first in rising and len(columns) > 1 else None


def _repeated(columns: dict[str, list[str]]) -> NDArray[np.bool_]:
    """(rows,) whether a row is the one before it again, in every column."""
    rows = list(zip(*columns.values(), strict=True))
    return np.array([False, *(one == before for before, one in itertools.pairwise(rows))])


def _measure(
    draft: Draft, name: str, cells: Sequence[str], values: NDArray[np.float64] | None, again: NDArray[np.bool_]
) -> None:
    draft.time["column"] = name
    if values is None:
        iso = bool(_ISO.fullmatch(cells[0]))
        draft.time["format"] = "iso8601" if iso else "clock"
        seconds = _stamps(cells) if iso else _clock(cells)
        draft.found.append(f"the first time is {cells[0]}")
    else:
        seconds = _counted(draft, name, values)
    seconds = seconds[~again]
    packets = float((np.diff(seconds) == 0).mean()) > 0.5
    if packets:
        draft.untold.append("whether rows share the time of their packet (time.packet_stamp), as many here do")
    rate_hz = _usual_rate(seconds)
    draft.fields["rate_hz"] = _round_rate(rate_hz)
    lost_s = float(seconds[-1] - seconds[0]) - (len(seconds) - 1) / rate_hz
    draft.found.append(f"{rate_hz:.5g} rows per second of the times in column {name!r}")
    if lost_s > max(2 / rate_hz, 0.002 * (seconds[-1] - seconds[0])):
        draft.untold.append(f"what became of {lost_s:.3g} s without rows: gaps, as an ingest takes them")
    steps_s = np.diff(seconds)
    low, high = np.quantile(steps_s, [0.1, 0.9])
    # Times in whole milliseconds have steps of two kinds, which is no irregularity.
    apart = np.diff(np.unique(np.round(steps_s, 9)))
    if not packets and high - low > max(0.3 / rate_hz, 1.5 * float(apart.min(initial=np.inf))):
        draft.untold.append(
            f"whether rows are even: steps go from {low:.4g} to {high:.4g} s. Times of arrival are put right; where "
            "samples were taken unevenly, resample = true"
        )


def _usual_rate(seconds: NDArray[np.float64]) -> float:
    """Rows per second over many rows at a time: the median, which gaps do not move, nor jitter, nor rounding."""
    times_s, counts = np.unique(seconds, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    lag = max(1, min(len(times_s) - 1, max(10, len(times_s) // 20)))
    return float(np.median((before[lag:] - before[:-lag]) / np.maximum(times_s[lag:] - times_s[:-lag], 1e-12)))


def _counted(draft: Draft, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seconds of a column of counts; says which unit was taken, and why."""
    for kind, per_second, least in _COUNTS:
        if values[0] >= least:
            draft.time |= {"format": kind, "unix": True}
            draft.found.append(f"times are {kind} since 1970: {np.datetime64(int(values[0] / per_second), 's')}")
            return values / per_second
    _, written = _split_unit(name, {})
    word = written or name.rsplit("_", 1)[-1].lower()
    steps = np.diff(values)
    usual = float(np.median(steps)) or float(steps.mean())
    fitting = [kind for kind, per, _ in reversed(_COUNTS) if _SLOWEST_HZ <= per / usual <= _FASTEST_HZ]
    kind = _UNIT_WORDS.get(word) or (fitting[0] if fitting else "seconds")
    if word not in _UNIT_WORDS:
        rates = ", ".join(f"{one} ({per / usual:.5g} Hz)" for one, per, _ in reversed(_COUNTS) if one in fitting)
        draft.untold.append(f"the unit of the times for sure: {rates or 'none gives a usual rate'}")
    draft.time["format"] = kind
    return values / next(per for one, per, _ in _COUNTS if one == kind)


def _stamps(cells: Sequence[str]) -> NDArray[np.float64]:
    import datetime

    stamps = [datetime.datetime.fromisoformat(cell.replace("Z", "+00:00")) for cell in cells]
    return np.array([(stamp - stamps[0]).total_seconds() for stamp in stamps])


def _clock(cells: Sequence[str]) -> NDArray[np.float64]:
    parts = [[float(part) for part in cell.split(":")] for cell in cells]
    return np.array([sum(part * 60**at for at, part in enumerate(reversed(one))) for one in parts])


def _round_rate(rate_hz: float) -> float:
    """A whole rate where the measured one is within 0.5 % of it: clocks are not better."""
    whole = round(rate_hz)
    return float(whole) if whole and abs(rate_hz / whole - 1) < 0.005 else float(f"{rate_hz:.6g}")


def _split_unit(name: str, units: dict[str, str]) -> tuple[str, str | None]:
    found = _UNIT_IN_NAME.fullmatch(name)
    if name in units:
        return (found.group(1) if found else name), units[name]
    return (found.group(1), found.group(2).strip()) if found else (name, None)


def _unit(word: str) -> bool:
    try:
        canonical_unit(word)
    except InputError:
        return False
    return bool(word)


def _named(draft: Draft) -> Draft:
    """Channels by the names that they will have in a corpus."""
    given = [channel["name"] for channel in draft.channels]
    for channel, name in zip(draft.channels, channel_names(given), strict=True):
        channel["name"] = name if re.match(r"[a-z]", name) else f"channel_{name}"
    return draft


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else f"{value:.10g}"
