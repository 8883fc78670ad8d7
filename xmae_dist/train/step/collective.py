"""The few collectives the loop needs, the same with one rank and no process group; and how long all of them take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist

from xmae_dist.train.step.clock import Clock

_TIMED = (
    "all_gather",
    "all_gather_into_tensor",
    "all_reduce",
    "barrier",
    "broadcast",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place among the ranks of a run."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum over ranks of a small vector; every rank gets it, on the CPU."""
        if self.world == 1:
            return values
        shared = values.to(self.device)
        dist.all_reduce(shared)
        return shared.cpu()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value` (plain Python), in order of rank, on every rank."""
        if self.world == 1:
            return [value]
        everyone: list[Any] = [None] * self.world
        dist.all_gather_object(everyone, value)
        return everyone

    def from_first(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        return self.gather(value if self.rank == 0 else None)[0]

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


@contextmanager
def timed_collectives(clock: Clock) -> Iterator[None]:
    """Books what `torch.distributed` waits for, whoever calls it, on "communication".

    DeepSpeed talks from within its forward, backward and step, and has no hook that times a collective without making
    the device wait; it takes the functions from the module, some of them once, so this goes around its initialisation.
    """
    originals = {name: getattr(dist, name) for name in _TIMED}
    for name, original in originals.items():
        setattr(dist, name, _timed(original, clock))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def _timed(collective: Callable[..., Any], clock: Clock) -> Callable[..., Any]:
    @wraps(collective)
    def timed(*args: Any, **options: Any) -> Any:
        with clock.within("communication"):
            work = collective(*args, **options)
        return work if work is None else _TimedWork(work, clock)

    return timed


class _TimedWork:
    """A collective under way; waiting for it counts."""

    def __init__(self, work: Any, clock: Clock) -> None:
        self._work, self._clock = work, clock

    def wait(self, *args: Any) -> Any:
        with self._clock.within("communication"):
            return self._work.wait(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
