"""Metrics of a run: JSON lines under the run's URL, TensorBoard events, and whoever else listens.

Objects cannot be appended to, so the lines are kept in segments `metrics/from-<step>.jsonl`, one for the span
between two checkpoints, rewritten while it grows. A resumed run begins the segment of the checkpoint it starts
from anew, so every step is there once, whatever was lost.

All writing happens in a thread of its own; a store that is down delays metrics and never training. At the end of a run
what is left is tried again for as long as the store's patience allows, and what is lost is told.
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from xmae_dist.core.errors import XmaeError
from xmae_dist.storage import uri

Row = dict[str, Any]
_SEGMENT = re.compile(r"from-[0-9]+\.jsonl")
_NOT_CURVES = ("kind", "step", "time_s", "applied", "windows_seen")


def segment_url(run_url: str, step: int) -> str:
    """Where the rows after checkpoint `step` are."""
    return uri.join(run_url, "metrics", f"from-{step:08d}.jsonl")


def read_metrics(run_url: str) -> list[Row]:
    """All rows of a run in order of step; where a step is there twice (a redone span), the later segment counts."""
    by_key: dict[tuple[int, str], Row] = {}
    for url in uri.list_urls(uri.join(run_url, "metrics")):
        if not _SEGMENT.fullmatch(url.rsplit("/", 1)[-1]):
            continue  # not ours
        for line in uri.read_bytes(url).decode().splitlines():
            row = json.loads(line)
            by_key[row["step"], row["kind"]] = row
    return [by_key[key] for key in sorted(by_key)]


def numbers(row: Row) -> dict[str, float]:
    """What of a row can be drawn as curves, by a flat name: of values by rank the largest, of groups each one's.

    Names of steps stand alone; those of events begin with the kind (`validation/own`).
    """
    prefix = "" if row["kind"] == "step" else f"{row['kind']}/"
    found: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= numbers({"kind": prefix + name, **value})
        elif name not in _NOT_CURVES and isinstance(value, int | float):
            found[prefix + name] = value
        elif isinstance(value, list):
            found[f"{prefix}largest_{name}"] = max(value)
    return found


class MetricsWriter:
    """Rank 0's writer. `listen(rows)` is called with every bunch of new rows, in the writing thread.

    Use as a context manager; leaving it writes what is left.
    """

    def __init__(
        self,
        run_url: str,
        start_step: int,
        *,
        every_s: float = 1.0,
        listen: Callable[[list[Row]], None] = lambda rows: None,
    ) -> None:
        self._run_url, self._every_s, self._listen = run_url, every_s, listen
        self._segment, self._lines = start_step, list[str]()
        self._start_step = start_step
        self._waiting = deque[Row]()
        self._incoming: queue.SimpleQueue[Row | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._failure: BaseException | None = None
        self._refused: str | None = None
        """Why the newest rows are not stored."""
        self._patience_s = 0.0
        self._curves: Any = None
        self._curves_folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> MetricsWriter:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._patience_s = uri.patience_s() if kind is None else 0.0  # a group that failed is in nobody's way for long
        self._incoming.put(None)
        self._thread.join()
        if kind is None:
            self._check()

    def add(self, kind: str, row: Row) -> None:
        """Queues one row; `row` has a "step". A "checkpoint" row also begins the next segment.

        Raises what ended the writing thread, if something did: who listens there must not be lost in silence.
        """
        self._check()
        self._incoming.put({"kind": kind, "time_s": round(time.time(), 3), **row})

    def flush(self, patience_s: float = 30.0) -> None:
        """Waits until what has been added is written, or the store has refused it; not for long where it stalls."""
        written = threading.Event()
        self._incoming.put(written)
        written.wait(patience_s)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            open_for_more = True
            while open_for_more:
                open_for_more = self._turn()
            self._write_rest()
            self._close_curves()
        except BaseException as error:  # noqa: BLE001  (raised again in the training thread)
            self._failure = error

    def _turn(self) -> bool:
        """Tells and writes one bunch of rows; whether more may come."""
        rows, flushed, open_for_more = self._collect()
        self._listen(rows)
        if rows or self._refused:
            self._try_to_write(rows)
        with contextlib.suppress(OSError):  # curves are drawn on a local disk, which may be full: not worth a run
            self._draw_curves(rows)
        if flushed is not None:
            flushed.set()
        return open_for_more

    def _try_to_write(self, rows: list[Row]) -> None:
        """What is refused is kept, and written with the next."""
        try:
            self._write(rows)
            self._refused = None
        except XmaeError as error:
            self._refused = str(error)

    def _write_rest(self) -> None:
        deadline = time.monotonic() + self._patience_s
        while self._refused and time.monotonic() < deadline:
            time.sleep(self._every_s)
            self._try_to_write([])
        if self._refused:
            self._tell_lost(f"rows after step {self._segment}", self._refused)

    def _tell_lost(self, what: str, why: str) -> None:
        row: Row = {"kind": "metrics_lost", "step": self._segment, "what": what, "why": why}
        self._listen([{"time_s": round(time.time(), 3), **row}])

    def _collect(self) -> tuple[list[Row], threading.Event | None, bool]:
        """The rows of the next `every_s` seconds or up to a flush, that flush, and whether more may come."""
        rows: list[Row] = []
        deadline = time.monotonic() + self._every_s
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                row = self._incoming.get(timeout=left_s)
            except queue.Empty:
                break
            if row is None:
                return rows, None, False
            if isinstance(row, threading.Event):
                return rows, row, True
            rows.append(row)
        return rows, None, True

    def _write(self, rows: list[Row]) -> None:
        """Raises StorageError with every row kept, in its order, for the next time."""
        self._waiting += rows
        while self._waiting:
            row = self._waiting[0]
            self._lines.append(json.dumps(row))
            if row["kind"] == "checkpoint":
                try:
                    self._store()
                except XmaeError:
                    self._lines.pop()
                    raise
                # Rows of steps after the checkpoint may have come before the news of it; they move on.
                later = [line for line in self._lines if json.loads(line)["step"] > row["step"]]
                self._segment, self._lines = row["step"], later
            self._waiting.popleft()
        self._store()

    def _store(self) -> None:
        if self._lines:
            uri.write_bytes(segment_url(self._run_url, self._segment), ("\n".join(self._lines) + "\n").encode())

    def _draw_curves(self, rows: list[Row]) -> None:
        if not rows:
            return
        if self._curves is None:
            # A second of imports, in this thread rather than at the start of training.
            from torch.utils.tensorboard import SummaryWriter

            self._curves = SummaryWriter(self._curves_place(), purge_step=self._start_step + 1, flush_secs=10)
        for row in rows:
            for name, value in numbers(row).items():
                self._curves.add_scalar(name, value, row["step"], row["time_s"])

    def _curves_place(self) -> str:
        url = uri.join(self._run_url, "tensorboard")
        if uri.is_local(url):
            return str(uri.local_path(url))
        self._curves_folder = tempfile.TemporaryDirectory(prefix="xmae-tensorboard-")
        return self._curves_folder.name

    def _close_curves(self) -> None:
        if self._curves is not None:
            with contextlib.suppress(OSError):
                self._curves.close()
        if self._curves_folder is not None:
            try:
                uri.upload_tree(self._curves_folder.name, uri.join(self._run_url, "tensorboard"))
            except XmaeError as error:
                self._tell_lost("TensorBoard curves", str(error))
            self._curves_folder.cleanup()
