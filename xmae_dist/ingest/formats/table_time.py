"""The cells of a time column as seconds, and as the wall time of the first of them."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.mapping import Mapping
from xmae_dist.ingest.formats.table_cells import plain_numbers

UNIT_S = {
    "days": 86400.0,
    "minutes": 60.0,
    "seconds": 1.0,
    "milliseconds": 1e-3,
    "microseconds": 1e-6,
    "nanoseconds": 1e-9,
}
# Twelve-hour clocks are not read: `3:00` would be two times.
_CLOCK = r"^\s*(?:(?:(?P<d>\d+):)?(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d+(?:\.\d+)?)\s*$"
_DAY_S = 86400.0
_INT64 = (-(2**63), 2**63 - 1)


class TimeCells:
    """Turns the time column of one file into seconds after its first cell, batch after batch.

    `first` is that cell on the clock of the file (seconds; for wall times since 1970), None before a batch was read.
    """

    def __init__(self, mapping: Mapping, file: str) -> None:
        assert mapping.time is not None
        self._mapping, self._time, self._thing = mapping, mapping.time, f"times of {file}"
        self._origin: Any = None
        self._last_s, self._days_s, self._row = 0.0, 0.0, 0
        self._later = False

    @property
    def absolute(self) -> bool:
        """Whether the cells themselves say when they were."""
        return self._time.unix or self._time.format == "iso8601" or self._time.epoch is not None

    @property
    def first_s(self) -> float:
        """The first cell in seconds on the clock of the file."""
        return float(self._origin or 0) * self._unit_s

    def first_ns(self) -> int | None:
        """The first cell in ns since 1970 UTC; None where it is no wall time, or none that 64 bits hold."""
        if not self.absolute or self._origin is None:
            return None
        ns = self._epoch_ns() + round(self._origin * round(self._unit_s * 1e9))
        return ns if _INT64[0] < ns < _INT64[1] else None

    def seconds(self, column: pa.Array) -> NDArray[np.float64]:
        """Seconds after the first cell of the file. Raises InputError for a cell that is no time."""
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise self._not_a_time(f"an empty cell at row {self._row + row + 1}")
        if not len(column):
            return np.empty(0)
        counts = self._counts(column)
        if self._origin is None:
            self._origin = counts[0].item()
        since: Any = counts - self._origin
        times_s = np.asarray(since, dtype=np.float64) * self._unit_s
        if self._time.format == "clock":
            times_s = self._past_midnight(times_s)
        self._row += len(column)
        self._last_s = float(times_s[-1])
        return times_s

    @property
    def _unit_s(self) -> float:
        return {"clock": 1.0, "iso8601": 1e-9 if self._fine else 1e-6}.get(self._time.format) or UNIT_S[
            self._time.format
        ]

    _fine = True  # times of day in ns; in µs where a date lies beyond what ns hold

    def _epoch_ns(self) -> int:
        if self._time.epoch is None:
            return 0
        try:
            epoch = datetime.datetime.fromisoformat(self._time.epoch)
        except ValueError as error:
            raise InputError("time.epoch", value=repr(self._time.epoch), expected="a date as in ISO 8601") from error
        since = (epoch if epoch.tzinfo else epoch.replace(tzinfo=datetime.UTC)) - _UNIX_EPOCH
        return since // datetime.timedelta(microseconds=1) * 1000

    def _counts(self, column: pa.Array) -> NDArray[Any]:
        """Cells as whole or broken numbers of the unit; whole ones exactly, however large."""
        if self._time.format == "clock":
            return self._clock_seconds(column)
        if pa.types.is_timestamp(column.type) or self._time.format == "iso8601":
            return self._stamps(column)
        if pa.types.is_string(column.type):
            column = plain_numbers(column, self._mapping)
        try:
            if self._origin is None or isinstance(self._origin, int):
                return column.cast(pa.int64()).to_numpy(zero_copy_only=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass  # broken numbers
        try:
            return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._not_a_time(error) from error

    def _clock_seconds(self, column: pa.Array) -> NDArray[np.float64]:
        cells = column.cast(pa.string())
        if self._mapping.decimal != ".":
            cells = pc.replace_substring(cells, self._mapping.decimal, ".")
        fields = pc.extract_regex(cells, _CLOCK)
        if fields.null_count:
            row = int(np.flatnonzero(fields.is_null().to_numpy(zero_copy_only=False))[0])
            raise self._not_a_time(f"{column[row].as_py()!r} at row {self._row + row + 1}")
        days, hours, minutes, seconds = (_number(pc.struct_field(fields, name)) for name in "dhms")
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    def _past_midnight(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """A day more from where the clock steps back by about a day on."""
        times_s = times_s + self._days_s
        steps_s = np.diff(times_s, prepend=self._last_s if self._row else times_s[0])
        midnight = (steps_s >= -_DAY_S) & (steps_s <= self._time.longest_gap_s - _DAY_S)
        if midnight.any():
            times_s = times_s + np.cumsum(midnight) * _DAY_S
            self._days_s += float(np.count_nonzero(midnight)) * _DAY_S
        return times_s

    def _stamps(self, column: pa.Array) -> NDArray[np.int64]:
        """ISO 8601 with or without a zone as ns (or µs) since 1970 UTC."""
        if pa.types.is_string(column.type):
            column = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), r"\s+([+-]\d\d:?\d\d)$", r"\1")
            column = pc.replace_substring(column, ",", ".")
        for fine in (True, False) if self._fine else (False,):
            for zone in ("UTC", None):
                try:
                    stamps = column.cast(pa.timestamp("ns" if fine else "us", zone))
                    if fine and _wrapped(column, stamps):
                        wrong = pa.ArrowInvalid("a date beyond the year 2262")
                        continue
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    wrong = error
                    continue
                if fine != self._fine and self._origin is not None:
                    self._origin //= 1000
                self._fine = fine
                local = zone is None and getattr(column.type, "tz", None) is None
                return self._in_utc(stamps) if local else stamps.cast(pa.int64()).to_numpy(zero_copy_only=False)
        raise self._not_a_time(wrong) from wrong

    def _in_utc(self, stamps: pa.Array) -> NDArray[np.int64]:
        """Wall times of the mapping's zone: where an hour comes twice, the second begins where the clock steps back."""
        if self._mapping.zone in (None, "UTC"):
            return stamps.cast(pa.int64()).to_numpy(zero_copy_only=False)
        try:
            early, late = (
                pc.assume_timezone(stamps, self._mapping.zone, ambiguous=which, nonexistent="raise")
                .cast(pa.int64())
                .to_numpy(zero_copy_only=False)
                for which in ("earliest", "latest")
            )
        except pa.ArrowInvalid as error:
            raise self._not_a_time(f"{error} (zone {self._mapping.zone})") from error
        twice = early != late
        back = np.concatenate(([False], np.diff(early) < 0)) & twice
        later = (np.cumsum(back) > 0) | self._later
        self._later = bool(later[-1]) and bool(twice[-1])
        return np.where(twice & later, late, early)

    def _not_a_time(self, what: Any) -> InputError:
        said = " ".join(str(what).split())[:300]
        return InputError(self._thing, value=said, expected=f"the format {self._time.format!r}")


_UNIX_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def start_ns(cells: TimeCells | None, offset_s: float, header: datetime.datetime | None, clock: bool) -> int | None:
    """Wall time of the first sample in ns since 1970: of its time where that is one, else of the start that stands
    above the table, to which relative times are added (`clock`: times of its day).
    """
    ns = None
    if cells is not None and cells.absolute:
        ns = cells.first_ns()
    elif header is not None:
        since_s = 0.0
        if clock and cells is not None:
            midnight = header.replace(hour=0, minute=0, second=0, microsecond=0)
            since_s = cells.first_s - (header - midnight).total_seconds()
            since_s -= _DAY_S * math.floor(since_s / _DAY_S + 0.5)
        elif cells is not None:
            since_s = cells.first_s
        ns = (header - _UNIX_EPOCH) // datetime.timedelta(microseconds=1) * 1000 + round(since_s * 1e9)
    return None if ns is None else ns + round(offset_s * 1e9)


def _wrapped(column: pa.Array, stamps: pa.Array) -> bool:
    """Whether years that ns do not hold came out as others: pyarrow before 22 or so says nothing."""
    if not pa.types.is_string(column.type):
        return False
    told_N = pc.utf8_slice_codeunits(column, 0, 4).cast(pa.int64())  # ISO 8601 begins with four digits
    apart_N = pc.abs(pc.subtract(told_N, pc.year(stamps)))  # a zone moves a year by one
    return bool(pc.any(pc.greater(apart_N, 1)).as_py())


def _number(column: pa.Array) -> NDArray[np.float64]:
    return pc.if_else(pc.equal(column, ""), "0", column).cast(pa.float64()).to_numpy(zero_copy_only=False)
