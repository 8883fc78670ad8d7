"""Saving beside training: copy, upload in a thread, agree, commit.

The copy to the host is all that training waits for. Whether every rank's upload has ended is learned from the
one small all-reduce that each step makes anyway (see `train.loop`), so all ranks gather the digests at the same
step and no rank ever waits for another's network. Only then does rank 0 write manifest and marker, in its thread.
One save is under way at a time; a save that falls due meanwhile is missed, and said so.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from xmae_dist.core.errors import RunError, StorageError, XmaeError
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.checkpoints.checkpoint import ShardFile
from xmae_dist.train.checkpoints.retention import RetentionConfig, to_delete
from xmae_dist.train.engines.protocol import Engine
from xmae_dist.train.step.collective import Ranks

_PAUSE_S = 1.0
"""Between two tries of a save that the store refused."""


@dataclass
class _Pending:
    step: int
    url: str
    about: Mapping[str, Any]
    write: Callable[[], ShardFile] | None
    """Holds the copied state; None once this rank's file is stored."""
    upload: Future[ShardFile]


class Saver:
    """One rank's side of saving checkpoints of a run. `tell(kind, **fields)` hears what becomes of them.

    `before_commit()` runs on rank 0 before a checkpoint becomes visible: what a run that goes on from it will not do
    again, and has not stored yet (metrics), is stored then, and whether the run is still its driver's is asked.
    `also_kept()` are steps whose checkpoints retention spares.
    """

    def __init__(
        self,
        run_url: str,
        ranks: Ranks,
        retention: RetentionConfig,
        tell: Callable[..., None],
        attempt: str,
        before_commit: Callable[[], None] = lambda: None,
        also_kept: Callable[[], set[int]] = set,
    ) -> None:
        self._run_url, self._ranks, self._retention, self._tell = run_url, ranks, retention, tell
        self._attempt, self._before_commit, self._also_kept = attempt, before_commit, also_kept
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: _Pending | None = None
        self._last: _Pending | None = None
        """The newest save that is pending no more."""
        self._why: str | None = None
        """Why it is not stored, where that is known."""
        self._missed_step: int | None = None
        self._commit: Future[str | None] | None = None

    @property
    def pending(self) -> bool:
        """Whether a save is under way; the same on all ranks."""
        return self._pending is not None

    @property
    def status(self) -> tuple[bool, bool]:
        """(this rank is still uploading, its upload has failed): what it tells the others each step."""
        if self._pending is None:
            return False, False
        done = self._pending.upload.done()
        return not done, done and self._pending.upload.exception() is not None

    def start(self, engine: Engine, step: int, about: Mapping[str, Any]) -> None:
        """Copies this rank's state and begins to upload it. All ranks call it at the same step, none while pending."""
        self._last, self._why = None, None  # what a refused save holds goes before there is another copy
        tensors = checkpoint.copy_pieces(engine.pieces())
        url = checkpoint.step_url(self._run_url, step)
        write = functools.partial(
            checkpoint.write_shard, url, tensors, attempt=self._attempt, rank=self._ranks.rank, world=self._ranks.world
        )
        self._pending = _Pending(step, url, {**about, "shapes": engine.shapes()}, write, self._threads.submit(write))

    def settle(self, *, busy: bool, failed: bool) -> None:
        """Ends the pending save unless any rank is still `busy`; the arguments are the same on all ranks."""
        if self._pending is None or busy:
            return
        pending, self._pending = self._pending, None
        self._last = pending
        error = pending.upload.exception()
        if error is None:
            pending.write = None
        if self._commit is not None:
            self._commit.result()  # ended before this upload began; what it raised must not be lost
            self._commit = None
        if failed:
            said = self._ranks.gather(f"{error}" or repr(error) if error else None)
            self._why = self._miss(pending.step, next(why for why in said if why))
            return
        files = self._ranks.gather(vars(pending.upload.result()))
        if self._ranks.rank == 0:
            listed = [ShardFile(**file) for file in files]
            self._commit = self._threads.submit(self._finish, pending, listed)

    def finish(self, patience_s: float = 0.0) -> str | None:
        """Waits until whatever is pending is committed, or has been refused for `patience_s`. Collective.

        Returns why the newest save is not stored, on every rank; None where it is, or where there was none.
        """
        deadline = time.monotonic() + patience_s
        why = self._outcome()
        if why and patience_s and self._last is not None:
            self._tell("checkpoint_again", step=self._last.step, patience_s=patience_s)
        while why and self._ranks.from_first(time.monotonic() < deadline):
            time.sleep(_PAUSE_S)
            self._again()
            why = self._outcome()
        return why

    def _outcome(self) -> str | None:
        """Ends the pending save and its commit; returns why it is not stored, on every rank."""
        if self._pending is not None:
            self._pending.upload.exception()  # waits
            failed = any(self._ranks.gather(self.status[1]))
            self.settle(busy=False, failed=failed)
        if self._commit is not None:
            self._why, self._commit = self._commit.result(), None
        why: str | None = self._ranks.from_first(self._why)
        return why

    def _again(self) -> None:
        """Tries the save that was refused once more; what this rank has uploaded stays."""
        assert self._last is not None
        self._pending, self._last, self._why = self._last, None, None
        if self._pending.write is not None:
            self._pending.upload = self._threads.submit(self._pending.write)

    def _miss(self, step: int, why: str) -> str:
        if step != self._missed_step:  # of many tries the first is told
            self._missed_step = step
            self._tell("checkpoint_missed", step=step, why=why)
        return why

    def _finish(self, pending: _Pending, files: list[ShardFile]) -> str | None:
        """Makes the checkpoint visible and retires old ones; returns why it could not."""
        try:
            self._before_commit()
            checkpoint.commit(pending.url, files, pending.about)
        except StorageError as error:
            return self._miss(pending.step, str(error))
        self._tell("checkpoint", step=pending.step, url=pending.url, bytes=sum(file.size for file in files))
        self._retire(pending.step)
        return None

    def lost(self, step: int, steps: int, why: str) -> RunError:
        """What ends a run that trained to `step` of `steps` and cannot store it, on all ranks. Collective."""
        stored, again = self._ranks.from_first(self._stored() if self._ranks.rank == 0 else None)
        return RunError(
            f"run {self._run_url}",
            value=f"trained to step {step} of {steps}, which is not stored ({why}); {stored}",
            expected="a store that takes the last checkpoint",
            fix=f"free space or repair the store, then run the same command again: it continues from {again}",
        )

    def _stored(self) -> tuple[str, str]:
        """What is stored of the run, and from where it would go on."""
        try:
            steps = [one.step for one in checkpoint.list_checkpoints(self._run_url) if one.complete]
        except XmaeError:
            return "what is stored cannot be seen now", "the newest checkpoint"
        if not steps:
            return "it has no checkpoint", "the beginning"
        return f"its newest checkpoint is of step {max(steps)}", f"step {max(steps)}"

    def _retire(self, committed: int) -> None:
        try:
            found, also = checkpoint.list_checkpoints(self._run_url), self._also_kept()
            for old in to_delete(found, self._retention, committed=committed, also_kept=also):
                checkpoint.delete(old.url)
        except XmaeError as error:
            self._tell("retention_failed", step=committed, why=str(error))
