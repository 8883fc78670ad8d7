"""Where the time of a step goes: data, forward, backward, optimizer, communication, validation, checkpoint, other.

On a GPU the marks are events of the current stream, read once the step has been waited for anyway, so measuring
neither waits for the device nor mistakes the launch of a kernel for its run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Seconds of the current step by what they were spent on; for the training thread alone."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._cuda = torch.device(device).type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []
        self._open: list[tuple[Any, Any]] = []
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

    def spent(self, what: str) -> float:
        """Seconds booked on `what` in this step. On a GPU, to be asked after a wait for the device."""
        return sum(self._seconds(start, stop) for name, start, stop in self._spans if name == what)

    def take(self) -> dict[str, float]:
        """The step's seconds up to the last mark, and a fresh start from there."""
        if self._cuda:
            self._last.synchronize()
        seconds: dict[str, float] = {}
        for what, start, stop in self._spans:
            seconds[what] = seconds.get(what, 0.0) + self._seconds(start, stop)
        self._spans = []
        return seconds

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, start: Any, stop: Any) -> float:
        return start.elapsed_time(stop) / 1e3 if self._cuda else stop - start
