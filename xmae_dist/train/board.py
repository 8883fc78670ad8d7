"""The board: a small actor between the driver and rank 0.

The driver may be anywhere in the cluster, and objects in a store cannot be watched cheaply, so what a run says
while it works goes over the board, and so does the wish that it stop. Nothing that matters later is only there.
`train.launch` makes an actor of it.
"""

from __future__ import annotations

import uuid

from xmae_dist.core.errors import XmaeError
from xmae_dist.train.metrics import Row


class Board:
    """Rows from the workers, a wish to stop from the driver, and the error that no restart would cure."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._stop = False
        self._error: XmaeError | None = None

    def begin(self) -> tuple[str, bool]:
        """(a fresh attempt name, whether the run has failed for good): asked by each worker as it starts."""
        return uuid.uuid4().hex[:8], self._error is not None

    def post(self, rows: list[Row]) -> bool:
        """Takes rows; answers whether the driver wants the run to stop."""
        self._rows += rows
        return self._stop

    def fail(self, error: XmaeError) -> None:
        """Notes the first error that a restart would only repeat."""
        self._error = self._error or error

    def take(self) -> list[Row]:
        """The rows since the last call."""
        taken, self._rows = self._rows, []
        return taken

    def ask_stop(self) -> None:
        self._stop = True

    def error(self) -> XmaeError | None:
        return self._error
