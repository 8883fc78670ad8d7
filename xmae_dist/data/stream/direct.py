"""Batches in the plan's order by plain reads in this process: the reference that the Ray stream must equal.

A block of steps is read at once, because its steps draw on the same chunks, then handed out step by step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import IntegrityError, StorageError
from xmae_dist.data.order.plan import Plan
from xmae_dist.data.windows.spec import WindowSpec


class WindowReader(Protocol):
    """What the stream needs of a window store."""

    spec: WindowSpec

    def read(self, ids_B: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]: ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's share of one step. B windows of L samples; `ecg_BL` is None in a store of the source alone."""

    step: int
    epoch_B: NDArray[np.int64]
    """The epoch of each window: a step may end one and begin the next."""
    ids_B: NDArray[np.int64]
    repeat_B: NDArray[np.int64]
    """How often each window has come before in its epoch; 0 unless the mixture repeats windows."""
    ecg_BL: NDArray[np.float32] | None
    ppg_BL: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """What to do when a read fails for a reason that may pass."""

    attempts: int = 5
    first_wait_s: float = 0.25
    """Doubled after each attempt."""


def step_batches(
    store: WindowReader,
    plan: Plan,
    *,
    start_step: int = 0,
    stop_step: int,
    world: int = 1,
    rank: int = 0,
    retry: RetryConfig = RetryConfig(),
) -> Iterator[Batch]:
    """`rank`'s batches of steps [start_step, stop_step), in order.

    Raises StorageError when reads keep failing, IntegrityError when stored bytes are damaged.
    """
    for steps in plan.blocks(start_step, stop_step):
        yield from read_block(store, plan, steps, (world, rank), retry).batches()


@dataclass(frozen=True, kw_only=True)
class Block:
    """A rank's share of K steps that draw on the same chunks: N = K·B windows, as stored."""

    start_step: int
    epoch_KB: NDArray[np.int64]
    ids_KB: NDArray[np.int64]
    repeat_KB: NDArray[np.int64]
    ecg_NL: NDArray[np.float16] | None
    ppg_NL: NDArray[np.float16]

    def batches(self) -> Iterator[Batch]:
        """Its steps, in float32."""
        width = self.ids_KB.shape[1]
        for row, (epoch_B, ids_B, repeat_B) in enumerate(zip(self.epoch_KB, self.ids_KB, self.repeat_KB, strict=True)):
            here = slice(row * width, (row + 1) * width)
            yield Batch(
                step=self.start_step + row,
                epoch_B=epoch_B,
                ids_B=ids_B,
                repeat_B=repeat_B,
                ecg_BL=None if self.ecg_NL is None else self.ecg_NL[here].astype(np.float32),
                ppg_BL=self.ppg_NL[here].astype(np.float32),
            )


def read_block(
    store: WindowReader, plan: Plan, steps: tuple[int, int], share: tuple[int, int], retry: RetryConfig
) -> Block:
    """The share (world, rank) of steps [start, stop), which are a block of the plan; raises as `read_with_retries`."""
    ids_KB = plan.ids_of_steps(*steps, *share)
    ecg_NL, ppg_NL = read_with_retries(store, ids_KB.ravel(), retry)
    return Block(
        start_step=steps[0],
        epoch_KB=plan.epochs_of_steps(*steps, *share),
        ids_KB=ids_KB,
        repeat_KB=plan.repeats_of_steps(*steps, *share),
        ecg_NL=ecg_NL,
        ppg_NL=ppg_NL,
    )


def read_with_retries(
    store: WindowReader, ids_N: np.ndarray, retry: RetryConfig
) -> tuple[np.ndarray | None, np.ndarray]:
    """Windows by id, trying again with growing waits.

    Damage is read a second time, since a cut-off answer looks like damage too; damage seen twice is stored, and
    raised: it is never trained on.
    """
    damaged = False
    for attempt in range(retry.attempts):
        try:
            return store.read(ids_N)
        except IntegrityError:
            if damaged:
                raise
            damaged = True
        except StorageError:
            if attempt == retry.attempts - 1:
                raise
        time.sleep(retry.first_wait_s * 2**attempt)
    return store.read(ids_N)
