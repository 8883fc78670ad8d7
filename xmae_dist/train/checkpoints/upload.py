"""Saving beside training: copy, upload in a thread, agree, commit.

The copy to the host is all that training waits for. Whether every rank's upload has ended is learned from the
one small all-reduce that each step makes anyway (see `train.loop`), so all ranks gather the digests at the same
step and no rank ever waits for another's network. Only then does rank 0 write manifest and marker, in its thread.
One save is under way at a time; a save that falls due meanwhile is missed, and said so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from xmae_dist.core.errors import XmaeError
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.checkpoints.checkpoint import ShardFile
from xmae_dist.train.checkpoints.retention import RetentionConfig, to_delete
from xmae_dist.train.engines.protocol import Engine
from xmae_dist.train.step.collective import Ranks


@dataclass
class _Pending:
    step: int
    url: str
    about: Mapping[str, Any]
    upload: Future[ShardFile]


class Saver:
    """One rank's side of saving checkpoints of a run. `tell(kind, **fields)` hears what becomes of them.

    `before_commit()` runs on rank 0 before a checkpoint becomes visible: what a run that goes on from it will not do
    again, and has not stored yet (metrics), is stored then. `also_kept()` are steps whose checkpoints retention spares.
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
        self._commit: Future[None] | None = None
        self.committed_step: int | None = None

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
        tensors = checkpoint.copy_pieces(engine.pieces())
        url = checkpoint.step_url(self._run_url, step)
        upload = self._threads.submit(
            checkpoint.write_shard, url, tensors, attempt=self._attempt, rank=self._ranks.rank, world=self._ranks.world
        )
        self._pending = _Pending(step, url, {**about, "shapes": engine.shapes()}, upload)

    def settle(self, *, busy: bool, failed: bool) -> None:
        """Ends the pending save unless any rank is still `busy`; the arguments are the same on all ranks."""
        if self._pending is None or busy:
            return
        pending, self._pending = self._pending, None
        if failed:
            error = pending.upload.exception()
            self._tell("checkpoint_missed", step=pending.step, why=str(error or "another rank's upload failed"))
            return
        files = self._ranks.gather(vars(pending.upload.result()))
        if self._ranks.rank == 0:
            if self._commit is not None:
                self._commit.result()  # ended before this upload began; what it raised must not be lost
            listed = [ShardFile(**file) for file in files]
            self._commit = self._threads.submit(self._finish, pending, listed)

    def finish(self) -> None:
        """Waits until whatever is pending is committed or has failed. Collective."""
        if self._pending is not None:
            self._pending.upload.exception()  # waits
            failed = any(self._ranks.gather(self.status[1]))
            self.settle(busy=False, failed=failed)
        if self._commit is not None:
            self._commit.result()
        self._ranks.barrier()

    def _finish(self, pending: _Pending, files: list[ShardFile]) -> None:
        self._before_commit()
        try:
            checkpoint.commit(pending.url, files, pending.about)
        except XmaeError as error:
            self._tell("checkpoint_missed", step=pending.step, why=str(error))
            return
        self.committed_step = pending.step
        self._tell("checkpoint", step=pending.step, url=pending.url, bytes=sum(file.size for file in files))
        self._retire(pending.step)

    def _retire(self, committed: int) -> None:
        try:
            found, also = checkpoint.list_checkpoints(self._run_url), self._also_kept()
            for old in to_delete(found, self._retention, committed=committed, also_kept=also):
                checkpoint.delete(old.url)
        except XmaeError as error:
            self._tell("retention_failed", step=committed, why=str(error))
