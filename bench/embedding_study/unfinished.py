"""An arm in training, kept as a checkpoint of the package: a study that is ended at any time loses minutes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.engines.protocol import Engine, Saved


class Ended(Exception):  # noqa: N818  (nothing went wrong)
    """The study was asked to end; what the arm in hand has done is kept."""


class Ending:
    """True once so many minutes are over, or once the process was asked to end (SIGTERM, SIGINT)."""

    def __init__(self, minutes: float) -> None:
        self._at_s = time.monotonic() + 60.0 * minutes
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def __call__(self) -> bool:
        return self._asked or time.monotonic() >= self._at_s

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        print("   asked to end: after this step", flush=True)


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """Where one job's checkpoints are, below `folder`; never more than two."""

    folder: Path
    ending: Callable[[], bool] = lambda: False

    def newest(self) -> tuple[Saved | None, dict[str, Any]]:
        """Weights and moments, and what was kept of the work beside them: nothing of either where nothing is there."""
        found = checkpoint.newest_complete(self._url, lambda url, why: print(f"   {url}: {why}", flush=True))
        if found is None:
            return None, {}
        url, manifest = found
        return checkpoint.open_saved(url, manifest, self.folder / "fetched"), manifest["work"]

    def save(self, engine: Engine, step: int, work: dict[str, Any]) -> None:
        """Complete, or not there; older ones go. A step that is there already is left alone."""
        older = checkpoint.list_checkpoints(self._url)
        if any(one.step == step and one.complete for one in older):
            return
        url = checkpoint.step_url(self._url, step)
        shard = checkpoint.write_shard(url, checkpoint.copy_pieces(engine.pieces()), attempt="study", rank=0, world=1)
        state = {"step": step, "optimizer_steps": engine.optimizer_steps}
        checkpoint.commit(url, [shard], {"state": state, "shapes": engine.shapes(), "work": work})
        for one in older:
            checkpoint.delete(one.url)

    def clear(self) -> None:
        """The arm is finished."""
        for one in checkpoint.list_checkpoints(self._url):
            checkpoint.delete(one.url)

    @property
    def _url(self) -> str:
        return f"file://{self.folder.absolute()}"
