"""What the times of a table say of its rows: their rate, where samples are missing, and what cannot be judged.

A time is what a device or a phone wrote beside a row, not when the sample was taken: one time may stand for a whole
packet, be rounded to a second, or tell when a sample arrived. So rows are counted and times only tell where that
count is out by whole samples, for good: a step that the rows behind it take back is no gap.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CHUNK = 2**20
# Groups of equal times in a window of the first estimate of the rate.
_WINDOW_GROUPS = 16
# Below this many rows times are too few to contradict a declared rate.
_FEWEST_ROWS = 10
_BLOCK_S = 10.0
# Groups over which a level is the median: the fewest that hide one late row; more where times are noisier.
_WIDTHS = (3, 8, 32, 128, 512)
# Groups from which the noise is taken.
_SAMPLE = 2**17
# A level that moves by so many times its noise has moved.
_SURE = 6.0
# Levels known better than this come from a device's own clock: its first time is then taken as it is.
_EXACT = 0.02
_FEWEST_LEVELS = 8
_REFINEMENTS = 4
_SETTLED = 1e-4
_UNITS = {1e-9: "nanoseconds", 1e-6: "microseconds", 1e-3: "milliseconds", 1.0: "seconds", 60.0: "minutes"}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a mapping allows: see `TimeMapping`."""

    rate_hz: float
    gap_after_samples: float = 1.75
    longest_gap_s: float = 3600.0
    rate_tolerance: float = 0.01
    packet_stamp: str | None = None
    unit_s: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Rows on one running grid. `gaps`: (row, samples missing before it); `offset_s`: when row 0 was sampled, counted
    from the first time; `rate_hz` as measured, by rows and missing samples over the whole span.
    """

    rows: int
    rate_hz: float
    offset_s: float = 0.0
    gaps: tuple[tuple[int, int], ...] = ()
    scatter_samples: float = 0.0
    """How far 99 of 100 times lie from the grid at most, in samples; 0 where rows share times."""

    @property
    def samples(self) -> int:
        return self.rows + sum(missing for _, missing in self.gaps)


def timeline(times_s: Floats, limits: Limits, thing: str) -> Timeline:
    """The rows of `times_s` (n,), seconds that never step back, on a grid of the declared rate.

    Raises InputError, naming `thing` and what was measured, where times step back, contradict the declared rate, or
    are so irregular that rows cannot be told from missing ones.
    """
    n = len(times_s)
    _check_order(times_s, thing)
    if n < 2:
        return Timeline(rows=n, rate_hz=limits.rate_hz)
    groups = _Groups.of(times_s, limits.packet_stamp)
    if len(groups) < 2:
        raise InputError(
            thing, value=f"one time for all {n} rows", expected="times that increase", fix="leave [time] out"
        )
    if n < _FEWEST_ROWS:
        _check_longest(groups, limits, thing)
    if n < _FEWEST_ROWS:
        fit = _Fit(groups, 1 / limits.rate_hz, limits)
        return Timeline(rows=n, rate_hz=limits.rate_hz, gaps=tuple(fit.gaps()))
    seen_s = period_s = groups.period_s()
    _check_unit(groups, 1 / period_s, limits, thing)
    _check_longest(groups, limits, thing)
    exact = _Fit(groups, period_s, limits).noise < _EXACT
    for _ in range(_REFINEMENTS):
        fit = _Fit(groups, period_s, limits)
        gaps = fit.gaps()
        # Rows and missing ones over the whole span: neither rounding nor a choice of steps has a say in it.
        before_s, period_s = period_s, groups.span_s / (groups.span_rows + sum(count for _, count in gaps))
        if abs(before_s / period_s - 1) < _SETTLED:
            break
    scatter = fit.check_steady(limits, thing)
    if exact and abs(seen_s / period_s - 1) > max(_SETTLED, 0.5 * limits.rate_tolerance):
        raise _rows_against_steps(groups, seen_s, period_s, thing)
    _check_rate(groups, 1 / period_s, limits, thing)
    return Timeline(rows=n, rate_hz=1 / period_s, offset_s=fit.offset_s(), gaps=tuple(gaps), scatter_samples=scatter)


def steps_of(times_s: Floats) -> str:
    """The steps of times in words: how far they spread."""
    steps_s = np.diff(times_s[: 2**22])
    low, half, high = np.percentile(steps_s, [5, 50, 95]) * 1e3
    return (
        f"steps of {steps_s.min() * 1e3:.4g} to {steps_s.max() * 1e3:.4g} ms "
        f"(median {half:.4g} ms, nine of ten between {low:.4g} and {high:.4g} ms)"
    )


@dataclass(frozen=True)
class _Groups:
    """Rows that share a time: `starts` (g + 1,) their first rows and the number of rows, `times_s` (g,)."""

    times_s: Floats
    starts: Ints
    last: bool  # the time is that of a group's last row

    @classmethod
    def of(cls, times_s: Floats, packet_stamp: str | None) -> _Groups:
        new = np.concatenate([_changes(times_s, part) for part in _chunks(1, len(times_s))])
        starts = np.concatenate(([0], new, [len(times_s)])).astype(np.int64)
        stamps = times_s if len(starts) == len(times_s) + 1 else times_s[starts[:-1]]
        first, last = cls(stamps, starts, False), cls(stamps, starts, True)
        if packet_stamp is not None or len(starts) == len(times_s) + 1:
            return last if packet_stamp == "last" else first
        return last if last._unevenness() < 0.95 * first._unevenness() else first

    def __len__(self) -> int:
        return len(self.times_s)

    @cached_property
    def anchors(self) -> Ints:
        """The row of each group that its time belongs to."""
        return self.starts[1:] - 1 if self.last else self.starts[:-1]

    @cached_property
    def usual(self) -> float:
        """Rows that usually share a time."""
        return float(np.median(np.diff(self.starts[: _CHUNK + 1])))

    @cached_property
    def lead(self) -> int:
        """Groups at the start that may be cut short, so that their time says little of their first row."""
        return 1 if self.usual > 1.5 and not self.last and len(self) > 3 else 0

    @property
    def span_rows(self) -> int:
        """Rows between the anchors of the first whole group and the last."""
        return int(self.anchors[-1] - self.anchors[self.lead])

    @property
    def span_s(self) -> float:
        return float(self.times_s[-1] - self.times_s[self.lead])

    def _steps(self, part: slice) -> tuple[Floats, Ints]:
        """Seconds and rows between neighbouring groups of a part (of the first groups, where many)."""
        return np.diff(self.times_s[part]), np.diff(self.anchors[part])

    def _unevenness(self) -> float:
        steps_s, rows = self._steps(slice(self.lead, _CHUNK))
        if not len(rows):
            return math.inf
        excess = steps_s - rows * (np.sum(steps_s) / np.sum(rows))
        return float(np.median(np.abs(excess - np.median(excess))))

    def period_s(self) -> float:
        """Seconds a row between gaps: of neighbouring groups where most agree, else of windows of them."""
        steps_s, rows = self._steps(slice(self.lead, None))
        each = steps_s / rows
        middle = float(np.median(each))
        near = np.abs(each / middle - 1) < 0.25
        if np.sum(rows[near]) < 0.5 * np.sum(rows):
            size = min(_WINDOW_GROUPS, max(1, len(self) // 8))
            edges = np.arange(self.lead, len(self), size)
            steps_s, rows = np.diff(self.times_s[edges]), np.diff(self.anchors[edges])
            each = steps_s / rows
            middle = float(np.median(each))
        near = np.abs(each / middle - 1) < 0.5
        return float(np.sum(steps_s[near]) / np.sum(rows[near]))


class _Fit:
    """Groups against a grid of `period_s`: `residual` is by how many samples a group's time is late."""

    def __init__(self, groups: _Groups, period_s: float, limits: Limits) -> None:
        self._groups, self._period_s, self._limits = groups, period_s, limits
        self._start_s = float(groups.times_s[groups.lead])
        self._start_row = int(groups.anchors[groups.lead])
        self._found: list[tuple[int, float]] = []  # (group, samples missing before it)
        self._wanted = limits.gap_after_samples - 1
        # A long step of rounded times may show a little less than the whole samples that are missing.
        self._least = self._wanted * 2 / 3
        sample = self.residual(0, _SAMPLE)
        # Wide enough that times that come late, or rounded, cannot look like a missing sample.
        for self.width in _WIDTHS:
            self.noise = _noise_of_levels(sample, self.width)
            if _SURE * self.noise <= self._least or len(sample) < 4 * _FEWEST_LEVELS * self.width:
                break

    def residual(self, start: int, stop: int) -> Floats:
        """Samples by which groups start … stop are late, were nothing missing."""
        part = slice(max(start, self._groups.lead), min(stop, len(self._groups)))
        late_s = np.asarray(self._groups.times_s[part]) - self._start_s
        return late_s / self._period_s - (self._groups.anchors[part] - self._start_row)

    def gaps(self) -> list[tuple[int, int]]:
        """(row, samples missing before it) of each gap, in order."""
        for group, excess in self._candidates():
            behind = self.width + 2 * math.ceil(excess / max(1.0, self._groups.usual))
            before, after = self._around(group, behind)
            shift = _settled(after, self.width) - float(np.median(before))
            few = min(len(before), len(after), self.width)
            if shift >= max(self._least, _SURE * self.noise * math.sqrt(self.width / few)):
                bisect.insort(self._found, (group, shift))
        return self._whole()

    def _whole(self) -> list[tuple[int, int]]:
        """Gaps in whole samples: their sum is rounded, not each, so that no error adds up."""
        total, gaps = 0.0, []
        for group, shift in self._found:
            count = round(total + shift) - round(total)
            total += shift
            if count:
                gaps.append((int(self._groups.starts[group]), count))
        return gaps

    def _candidates(self) -> list[tuple[int, float]]:
        """Groups whose step is long and whose followers are, on average, later than those before: (group, excess of
        its step in samples), the longest first, so that the others are judged with it taken out.
        """
        found: list[tuple[int, float]] = []
        for part in _chunks(self._groups.lead + 1, len(self._groups)):
            low = max(part.start - self.width, self._groups.lead)
            late = self.residual(low, part.stop + self.width)
            at = np.arange(part.start, part.stop) - low
            at = at[late[at] - late[at - 1] > self._wanted]
            total = np.concatenate(([0.0], np.cumsum(late)))
            begin, end = np.maximum(at - self.width, 0), np.minimum(at + self.width, len(late))
            shift = (total[end] - total[at]) / (end - at) - (total[at] - total[begin]) / (at - begin)
            at = at[shift > 0.5 * max(self._least, _SURE * self.noise)]
            found += zip((at + low).tolist(), (late[at] - late[at - 1]).tolist(), strict=True)
        return sorted(found, key=lambda one: -one[1])

    def _around(self, group: int, behind: int) -> tuple[Floats, Floats]:
        """Residuals of the groups before and behind `group`, gaps that were found among them taken out."""
        low = max(group - self.width, self._groups.lead)
        late = self.residual(low, group + behind)
        first = bisect.bisect_right(self._found, (low, math.inf))
        for index, shift in self._found[first:]:
            if index >= low + len(late):
                break
            late[index - low :] -= shift
        return late[: group - low], late[group - low :]

    def offset_s(self) -> float:
        """When row 0 was sampled, in seconds after the first time."""
        late = self.residual(0, self._groups.lead + self.width)
        level = float(np.median(late)) if self.noise > _EXACT else float(late[0])
        at_s = self._start_s + (level - self._start_row) * self._period_s
        return at_s - float(self._groups.times_s[0])

    def check_steady(self, limits: Limits, thing: str) -> float:
        """How far times scatter around the grid, in samples. Raises InputError where the level of the residual moves
        between gaps: no one grid holds the rows.
        """
        per_group = max(1.0, self._groups.usual)
        size = max(self.width, 3, round(_BLOCK_S * limits.rate_hz / per_group))
        levels, at, scatter = [], [], []
        lifted = 0.0
        found = iter([*self._found, (len(self._groups) + 1, 0.0)])
        group, shift = next(found)
        for start in range(self._groups.lead, len(self._groups) - size + 1, size):
            late = self.residual(start, start + size).copy()
            late -= lifted
            while group < start + size:
                late[max(0, group - start) :] -= shift
                lifted += shift
                group, shift = next(found)
            levels.append(float(np.median(late)))
            at.append(start)
            scatter.append(float(np.percentile(np.abs(late - levels[-1]), 99)))
        if len(levels) < 2:
            return 0.0
        moved = np.diff(levels)
        rows = size * per_group
        allowed = 0.75 + 0.5 * limits.rate_tolerance * rows + min(_SURE * self.noise, 0.75 * per_group)
        worst = int(np.argmax(np.abs(moved)))
        if abs(moved[worst]) > allowed:
            raise self._unsteady(moved[worst], int(self._groups.starts[at[worst + 1]]), limits, thing)
        return float(np.median(scatter)) if per_group < 1.5 else 0.0

    def _unsteady(self, moved: float, row: int, limits: Limits, thing: str) -> InputError:
        way = "too few" if moved > 0 else "too many"
        return InputError(
            thing,
            value=f"irregular: about {abs(moved):.0f} rows {way} for their times within {_BLOCK_S:g} s before row "
            f"{row + 1}, {steps_of(self._groups.times_s)}",
            expected=f"rows at a steady {1 / self._period_s:.6g} per second with whole samples missing",
            fix="set resample = true with the rate_hz to resample to, or remove repeated rows",
        )


def _noise_of_levels(late: Floats, width: int) -> float:
    """How much the median of `width` residuals differs from the next ones', in samples (one standard deviation)."""
    whole = len(late) // width * width
    moved = np.diff(np.median(late[:whole].reshape(-1, width), axis=1))
    if len(moved) < 2:
        return 0.0
    return float(1.4826 * np.median(np.abs(moved - np.median(moved))))


def _settled(late: Floats, width: int) -> float:
    """Where residuals settle: rows that only came late are followed by rows that catch up."""
    if len(late) <= width:
        return float(np.median(late))
    windows = np.lib.stride_tricks.sliding_window_view(late, width)
    levels = np.median(windows[:: max(1, len(windows) // 256)], axis=1)
    # Not their least of all: the least of many levels is as low as their noise.
    low = float(np.sort(levels)[len(levels) // 10])
    return low if levels[0] - low > 0.5 else float(levels[0])


def _rows_against_steps(groups: _Groups, seen_s: float, period_s: float, thing: str) -> InputError:
    rows = groups.span_rows * (1 - period_s / seen_s)
    return InputError(
        thing,
        value=f"steps of {seen_s * 1e3:.6g} ms, and {abs(rows):.0f} rows too {'few' if rows < 0 else 'many'} for them",
        expected="a step for each row",
        fix="remove repeated rows, or set resample = true with the rate_hz to resample to",
    )


def _check_order(times_s: Floats, thing: str) -> None:
    for part in _chunks(0, len(times_s)):
        lead = max(0, part.start - 1)
        steps_s = np.diff(times_s[lead : part.stop])
        if len(bad := np.flatnonzero(~(steps_s >= 0))) or not np.isfinite(times_s[lead]):
            at = lead + int(bad[0]) + 1 if len(bad) else lead
            back_s = times_s[at - 1] - times_s[at] if at else math.nan
            by = f"step back by {back_s:.6g} s" if math.isfinite(back_s) else "not a time"
            raise InputError(
                thing,
                value=f"{by} at row {at + 1}",
                expected="times that increase",
                fix="put the rows in order (packets may have been swapped), or split the file where the clock was set",
            )


def _check_longest(groups: _Groups, limits: Limits, thing: str) -> None:
    steps_s = np.diff(groups.times_s)
    longest = int(np.argmax(steps_s))
    if steps_s[longest] > limits.longest_gap_s:
        raise InputError(
            thing,
            value=f"a gap of {steps_s[longest]:.0f} s before row {groups.starts[longest + 1] + 1}",
            expected=f"at most {limits.longest_gap_s:g} s",
            fix="split the file there, or raise time.longest_gap_s",
        )


def _check_unit(groups: _Groups, rate_hz: float, limits: Limits, thing: str) -> None:
    """Raises InputError where the rows have the declared rate in another unit of time."""
    for unit_s, name in _UNITS.items():
        if unit_s != limits.unit_s and abs(rate_hz * limits.unit_s / unit_s / limits.rate_hz - 1) < 0.05:
            raise _wrong_rate(
                groups, rate_hz, limits, thing, f"the times are in {name}: set time.format = {name!r} in the mapping"
            )


def _check_rate(groups: _Groups, rate_hz: float, limits: Limits, thing: str) -> None:
    rounding = 1 / max(1, groups.span_rows)
    if abs(rate_hz / limits.rate_hz - 1) > limits.rate_tolerance + rounding:
        fix = f"correct rate_hz ({rate_hz:.5g} measured) or time.format in the mapping file"
        raise _wrong_rate(groups, rate_hz, limits, thing, fix)


def _wrong_rate(groups: _Groups, rate_hz: float, limits: Limits, thing: str, fix: str) -> InputError:
    value = f"{rate_hz:.6g} samples per second over {groups.span_s:.6g} s"
    return InputError(thing, value=value, expected=f"{limits.rate_hz:g} as declared", fix=fix)


def _changes(times_s: Floats, part: slice) -> Ints:
    return np.flatnonzero(times_s[part] != times_s[part.start - 1 : part.stop - 1]) + part.start


def _chunks(start: int, stop: int) -> Iterator[slice]:
    for at in range(start, stop, _CHUNK):
        yield slice(at, min(at + _CHUNK, stop))
