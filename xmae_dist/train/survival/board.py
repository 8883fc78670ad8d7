"""The board: a small actor between the driver, the controller and the workers.

The driver may be anywhere in the cluster, and objects in a store cannot be watched cheaply, so what a run says
while it works goes over the board, and so does the wish that it stop. Nothing that matters later is only there.
`train.launch` makes an actor of it.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from xmae_dist.core.errors import XmaeError
from xmae_dist.train.observe.metrics import Row
from xmae_dist.train.survival.pulse import Beat


class Board:
    """Rows and beats from the workers, a wish that they stop, and the error that no restart would cure."""

    def __init__(self, shared: list[Any] | None = None) -> None:
        """`shared`: references to what lies in the object store for all workers."""
        self._shared = shared or []
        self._rows: list[Row] = []
        self._stop: str | None = None
        self._error: XmaeError | None = None
        self._beats: dict[int, tuple[float, Beat]] = {}
        self._times: dict[str, float] = {}
        self._works = False

    def new_group(self) -> None:
        """Forgets what was heard of, and wished from, an earlier group of workers; not that the user wants a stop."""
        self._beats = {}
        if self._stop != "asked":
            self._stop = None

    def begin(self) -> tuple[str, bool, dict[str, float]]:
        """(a fresh attempt name, whether the run has failed for good, when what happened): asked by each worker
        as it starts. Times are Unix times of "lost" (the group before this one) and "starting" (this one).
        """
        self._works = True
        return uuid.uuid4().hex[:8], self._error is not None, self._times

    def shared(self) -> list[Any]:
        """What the driver put into the object store for all workers."""
        return self._shared

    def note_time(self, what: str) -> None:
        """Notes that a group is "lost" or "starting" now."""
        self._times[what] = time.time()
        self._works = False

    def waits(self) -> bool:
        """Whether no worker has begun since the last group was lost, or since the run began."""
        return not self._works

    def post(self, rows: list[Row]) -> str | None:
        """Takes rows; answers why the run should stop, if it should (a value of `train.loop.Stop`)."""
        self._rows += rows
        return self._stop

    def fail(self, error: XmaeError) -> None:
        """Notes the first error that a restart would only repeat."""
        self._error = self._error or error

    def take(self) -> list[Row]:
        """The rows since the last call."""
        taken, self._rows = self._rows, []
        return taken

    def ask_stop(self, why: str) -> None:
        if self._stop != "asked":
            self._stop = why

    def beat(self, rank: int, beat: Beat | None) -> None:
        """Notes where a rank is; None: it has left."""
        if beat is None:
            self._beats.pop(rank, None)
        else:
            self._beats[rank] = (time.monotonic(), beat)

    def beats(self) -> list[tuple[float, Beat]]:
        """(seconds since it was heard, beat) of every rank that has not left."""
        return [(time.monotonic() - heard_s, beat) for heard_s, beat in self._beats.values()]

    def error(self) -> XmaeError | None:
        return self._error
