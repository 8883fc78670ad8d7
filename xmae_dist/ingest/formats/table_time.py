"""The time column of a table: where samples are missing between rows, and whether the declared rate is true."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.mapping import TimeMapping

_PER_SECOND = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
_CLOCK = r"^\s*(?:(?:(?P<d>\d+):)?(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d+(?:\.\d+)?)\s*$"
# Too few steps give no mean rate worth checking when times are rounded.
_FEWEST_STEPS = 100


class TimeGrid:
    """Walks the times of a file batch by batch. `file` is named in errors.

    Times are compared with their neighbours only: rounded times and a slow drift of the device's clock must
    not be read as gaps.
    """

    def __init__(self, time: TimeMapping, rate_hz: float, file: str) -> None:
        self.column = time.column
        self._time, self._rate_hz, self._file = time, rate_hz, file
        self._last_s: float | None = None
        self._row = 0
        self._steps, self._stepped_s = 0, 0.0

    def holes(self, column: pa.Array) -> list[tuple[int, int]]:
        """(row in this batch, number of samples missing before it) for each gap. Raises InputError."""
        times_s = self._seconds(column)
        if not len(times_s):
            return []
        steps_s = np.diff(times_s, prepend=times_s[0] if self._last_s is None else self._last_s)
        first = 1 if self._last_s is None else 0
        self._check_steps(steps_s, first)
        is_gap = steps_s * self._rate_hz > self._time.gap_after_samples
        self._steps += int(np.count_nonzero(~is_gap[first:]))
        self._stepped_s += float(steps_s[first:][~is_gap[first:]].sum())
        self._last_s = float(times_s[-1])
        self._row += len(times_s)
        return [(int(row), round(float(steps_s[row]) * self._rate_hz) - 1) for row in np.flatnonzero(is_gap)]

    def check_rate(self) -> None:
        """Raises InputError where the mean rate between gaps is not the declared one."""
        if self._steps < _FEWEST_STEPS or self._stepped_s <= 0:
            return
        rate_hz = self._steps / self._stepped_s
        if abs(rate_hz / self._rate_hz - 1) > self._time.rate_tolerance:
            raise InputError(
                f"times of {self._file}",
                value=f"{rate_hz:.6g} samples per second",
                expected=f"{self._rate_hz:g} as declared",
                fix="correct rate_hz or time.format in the mapping file",
            )

    def first_ns(self, column: pa.Array) -> int:
        """The first time of the column as nanoseconds since 1970."""
        if self._time.format == "iso8601":
            return int(self._stamps(column.slice(0, 1))[0])
        return round(float(self._seconds(column.slice(0, 1))[0]) * 1e9)

    def _check_steps(self, steps_s: NDArray[np.float64], first: int) -> None:
        bad = np.flatnonzero(~(steps_s[first:] >= 0)) + first
        if len(bad):
            raise InputError(
                f"times of {self._file}",
                value=f"step back or not a time at row {self._row + int(bad[0]) + 1}",
                expected="times that increase",
                fix="sort the file, or split it where the clock was set",
            )
        longest = int(np.argmax(steps_s))
        if steps_s[longest] > self._time.longest_gap_s:
            raise InputError(
                f"times of {self._file}",
                value=f"a gap of {steps_s[longest]:.0f} s before row {self._row + longest + 1}",
                expected=f"at most {self._time.longest_gap_s:g} s",
                fix="split the file there, or raise time.longest_gap_s",
            )

    def _seconds(self, column: pa.Array) -> NDArray[np.float64]:
        if self._time.format == "clock":
            return self._clock_seconds(column)
        if self._time.format == "iso8601":
            return self._stamps(column) / 1e9
        try:
            return _floats(column) / _PER_SECOND[self._time.format]
        except pa.ArrowInvalid as error:
            raise self._not_a_time(error) from error

    def _clock_seconds(self, column: pa.Array) -> NDArray[np.float64]:
        fields = pc.extract_regex(column.cast(pa.string()), _CLOCK)
        if fields.null_count:
            row = int(np.flatnonzero(fields.is_null().to_numpy(zero_copy_only=False))[0])
            raise self._not_a_time(f"{column[row].as_py()!r} at row {self._row + row + 1}")
        days, hours, minutes, seconds = (_floats(pc.struct_field(fields, name), empty="0") for name in "dhms")
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds

    def _stamps(self, column: pa.Array) -> NDArray[np.int64]:
        try:
            stamps = column.cast(pa.timestamp("ns")).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise self._not_a_time(error) from error
        return stamps.to_numpy(zero_copy_only=False)

    def _not_a_time(self, what: Any) -> InputError:
        return InputError(f"times of {self._file}", value=str(what), expected=f"the format {self._time.format!r}")


def _floats(column: pa.Array, empty: str | None = None) -> NDArray[np.float64]:
    if empty is not None:
        column = pc.if_else(pc.equal(column, ""), empty, column)
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
