"""Which checkpoints may go: a pure decision, apart from its execution."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from xmae_dist.core.errors import ConfigError
from xmae_dist.train.checkpoints.checkpoint import Found


@dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """What is kept for ever, and what only for a while."""

    keep_recent: int = 3
    """Newest complete checkpoints that are kept."""
    keep_every: int = 0
    """Keep for ever the checkpoints whose step is a multiple of this; 0: none."""

    def __post_init__(self) -> None:
        if self.keep_recent < 1:
            raise ConfigError("checkpoint.retention.keep_recent", value=self.keep_recent, expected="1 or more")


def to_delete(
    found: list[Found], config: RetentionConfig, *, committed: int, also_kept: Collection[int] = ()
) -> list[Found]:
    """The checkpoints to delete after `committed` became complete, the oldest first.

    Never the newest complete one, never one newer than `committed` (it may be in the making), never the steps
    `also_kept` (the best).
    Incomplete ones older than `committed` are leftovers of killed runs and go.
    """
    complete = sorted((one.step for one in found if one.complete and one.step <= committed), reverse=True)
    if not complete:
        return []
    kept = set(complete[: config.keep_recent]) | {committed, complete[0]} | set(also_kept)
    if config.keep_every:
        kept |= {step for step in complete if step % config.keep_every == 0}
    return sorted((one for one in found if one.step < committed and one.step not in kept), key=lambda one: one.step)
