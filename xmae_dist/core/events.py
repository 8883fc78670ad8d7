"""What a run says while it works: a JSONL log for programs, and progress for people."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO


class EventLog:
    """Appends one JSON object a line to `path`; with no path it drops what it is told.

    Each line is flushed, so that a killed process loses nothing it has said.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._file: TextIO | None = None
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed by close())

    def emit(self, kind: str, **fields: Any) -> None:
        """Writes `{"time_s": …, "kind": kind, **fields}`."""
        if self._file is None:
            return
        self._file.write(json.dumps({"time_s": round(time.time(), 3), "kind": kind, **fields}) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Progress:
    """Counts work done towards a total, and tells it: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str, total: float | None, unit: str, *, every_s: float = 5.0) -> None:
        self.what, self.total, self.unit, self._every_s = what, total, unit, every_s
        self.done = 0.0
        self._started = self._said = time.monotonic()
        self._bar = _bar(what, total, unit) if sys.stderr.isatty() else None

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Adds `amount` of `unit`; `note` is shown beside the count."""
        self.done += amount
        if self._bar is not None:
            display, task = self._bar
            display.update(task, completed=self.done, note=note)
        elif time.monotonic() - self._said >= self._every_s:
            self._said = time.monotonic()
            print(self._line(note), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None
        elif self.done:
            print(self._line("done"), file=sys.stderr, flush=True)

    def _line(self, note: str) -> str:
        took_s = max(time.monotonic() - self._started, 1e-9)
        rate = self.done / took_s
        of = f"/{self.total:g}" if self.total else ""
        left = (
            f", {(self.total - self.done) / rate:.0f} s left"
            if self.total and rate > 0 and self.done < self.total
            else ""
        )
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
