"""Progress of long work, told to people: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

# A first line soon, so that people see that work goes on; then one now and then.
_FIRST_LINE_S = 1.0
# From which share of the work on the time left is told.
_TELLING_SHARE = 0.01


class Progress:
    """Counts work done towards a total, and tells it: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str, total: float | None, unit: str, *, every_s: float = 5.0) -> None:
        self.what, self.total, self.unit, self._every_s = what, total, unit, every_s
        self.done = 0.0
        self._started = time.monotonic()
        self._first = (self._started, 0.0)
        self._said = self._started - every_s + min(every_s, _FIRST_LINE_S)
        self._bar = _bar(what, total, unit) if sys.stderr.isatty() else None

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Adds `amount` of `unit`; `note` is shown beside the count."""
        if not self.done:
            self._first = (time.monotonic(), amount)
        self.done += amount
        if self._bar is not None:
            display, task = self._bar
            display.update(task, completed=self.done, note=note)
        elif time.monotonic() - self._said >= self._every_s:
            self._said = time.monotonic()
            print(self._line(note), file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Prints a line above a live bar, which stays whole."""
        if self._bar is not None:
            self._bar[0].console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None
        elif self.done:
            print(self._line("done"), file=sys.stderr, flush=True)

    def _rate(self) -> float:
        """Done in a second, from the first on: until then it is starting up, which is not done again."""
        first_s, first = self._first
        now_s = time.monotonic()
        if self.done > first and now_s > first_s:
            return (self.done - first) / (now_s - first_s)
        return self.done / max(now_s - self._started, 1e-9)

    def _line(self, note: str) -> str:
        rate = self._rate()
        of = f"/{self.total:g}" if self.total else ""
        left = ""
        # The first of many things says little of how long all take: it waits for what is starting up.
        if self.total and self.total > self.done >= self.total * _TELLING_SHARE and self.done > self._first[1]:
            left = f", {(self.total - self.done) / rate:.0f} s left"
        return (
            f"{self.what}: {self.done:g}{of} {self.unit}, {rate:.3g} {self.unit}/s{left}{' — ' + note if note else ''}"
        )


def _bar(what: str, total: float | None, unit: str) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    display = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
    )
    display.start()
    return display, display.add_task(what, total=total, note="")


@contextlib.contextmanager
def progress(what: str, total: float | None, unit: str) -> Iterator[Progress]:
    """`with progress("ingest", 126, "records") as shown: ... shown.advance()`; closed whatever happens."""
    shown = Progress(what, total, unit)
    try:
        yield shown
    finally:
        shown.close()
