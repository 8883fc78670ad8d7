"""Evaluation beside a run: each new complete checkpoint is exported, evaluated, and added to the results.

A process of its own, so training never waits for it, and it holds no state but the results: killed and started again
it goes on with what is missing. A checkpoint that retention removes while it is read is passed over.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from xmae_dist.core.errors import XmaeError
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.storage import uri
from xmae_dist.train.checkpoints.checkpoint import list_checkpoints
from xmae_dist.train.checkpoints.export import export


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is watched, how often, and when to stop."""

    run: str
    bundles: str
    """URL of the folder for the exported bundles."""
    poll_s: float = 20.0
    last_step: int | None = None
    """Stop after this step."""
    patience_s: float = 3600.0
    """Stop when no new checkpoint came for so long."""


def checkpoints(watch: Watch, sleep: Callable[[float], None] = time.sleep) -> Iterator[EncoderSpec]:
    """Each complete checkpoint of the run as an encoder, the oldest first, as they appear."""
    done: set[int] = set()
    waited_s = 0.0
    while True:
        fresh = sorted(one.step for one in list_checkpoints(watch.run) if one.complete and one.step not in done)
        for step in fresh:
            done.add(step)
            found = exported(watch, step)
            if found:
                yield found
        if watch.last_step is not None and done and max(done) >= watch.last_step:
            return
        waited_s = 0.0 if fresh else waited_s + watch.poll_s
        if waited_s >= watch.patience_s:
            return
        sleep(watch.poll_s)


def exported(watch: Watch, step: int) -> EncoderSpec | None:
    """The bundle of one checkpoint, made unless it is there; None where the checkpoint has gone or is damaged."""
    url = uri.join(watch.bundles, f"step-{step:08d}")
    try:
        if not uri.exists(uri.join(url, "weights.safetensors")):  # what a bundle writes last
            export(watch.run, url, step=step)
    except XmaeError as error:
        print(f"step {step} passed over: {error}", file=sys.stderr)
        return None
    return EncoderSpec(name=f"step {step:06d}", kind="bundle", url=url, role="checkpoint")
