"""Where the time of a step goes: data, forward, backward, optimizer, communication, validation, checkpoint, other.

On a GPU the marks are events of the current stream, and seconds are asked for when the step has been waited for anyway,
one step late, so measuring neither waits for the device nor mistakes the launch of a kernel for its run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class _Instant:
    """A moment of the host, and on a GPU the one at which the device has done what it was given before."""

    host_s: float
    event: Any = None

    def until(self, later: _Instant) -> float:
        """Seconds of the device where there is one, else of the host."""
        if self.event is None:
            return later.host_s - self.host_s
        seconds: float = self.event.elapsed_time(later.event) / 1e3
        return seconds


_Span = tuple[str, _Instant, _Instant]


class Spent:
    """What a step's time was spent on."""

    def __init__(self, spans: list[_Span], last: _Instant) -> None:
        self._spans, self._last = spans, last

    def seconds(self) -> dict[str, float]:
        """By what on, up to the last mark; on a GPU, waits until the device is there."""
        if self._last.event is not None:
            self._last.event.synchronize()
        seconds: dict[str, float] = {}
        for what, start, stop in self._spans:
            seconds[what] = seconds.get(what, 0.0) + start.until(stop)
        return seconds


class Clock:
    """Seconds of the current step by what they were spent on; for the training thread alone."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._cuda = torch.device(device).type == "cuda"
        self._spans: list[_Span] = []
        self._open: list[tuple[_Instant, _Instant]] = []
        self._inside = False
        self._last = self._now()

    def mark(self, what: str) -> None:
        """Books the time since the last mark on `what`, but for what was booked by `within`."""
        now = self._now()
        self._spans += [(what, start, stop) for start, stop in (*self._open, (self._last, now))]
        self._open, self._last = [], now

    @contextmanager
    def within(self, what: str) -> Iterator[None]:
        """Books the time in this block on `what`, whatever the marks around it say; the outermost block counts."""
        if self._inside:
            yield
            return
        self._inside, start = True, self._now()
        self._open.append((self._last, start))
        try:
            yield
        finally:
            self._inside, self._last = False, self._now()
            self._spans.append((what, start, self._last))

    def host_s(self, what: str) -> float:
        """Seconds of the host booked on `what` in this step so far; waits for nothing."""
        return sum(stop.host_s - start.host_s for name, start, stop in self._spans if name == what)

    def reached(self) -> Callable[[], bool]:
        """Tells, from any thread and without waiting, whether the device has come to where the host is now."""
        event = self._last.event
        return lambda: event is None or bool(event.query())

    def take(self) -> Spent:
        """The step up to the last mark, and a fresh start from there."""
        spans, self._spans = self._spans, []
        return Spent(spans, self._last)

    def _now(self) -> _Instant:
        if not self._cuda:
            return _Instant(time.perf_counter())
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return _Instant(time.perf_counter(), event)
