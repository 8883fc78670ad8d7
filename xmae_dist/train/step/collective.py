"""The few collectives the loop needs, the same with one rank and no process group; and how long all of them take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    "all_to_all_single",
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

    def sum_later(self, known: Sequence[float], on_device: torch.Tensor) -> Summed:
        """Begins the element-wise sum over ranks of one vector: what the host knows, then what is on the device (1-D).

        Neither the sum nor what follows on it makes the host wait for the device; reading it does.
        """
        known_K = torch.tensor(known, dtype=torch.float64)
        if self.device.type == "cuda":
            known_K = known_K.pin_memory()
        vector = torch.cat([known_K.to(self.device, non_blocking=True), on_device.double()])
        if self.world > 1:
            dist.all_reduce(vector)
        return Summed(vector)

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

    def raise_first(self, error: Exception | None) -> None:
        """Raises, on every rank, the error of the first rank that has one."""
        for one in self.gather(error):
            if one is not None:
                raise one

    def exchange(self, sent: Sequence[bytes]) -> list[bytes]:
        """Sends `sent[r]` to each rank r; returns what each rank sent here, in order of rank."""
        if self.world == 1:
            return list(sent)
        to = [len(one) for one in sent]
        came = torch.empty(self.world, dtype=torch.int64, device=self.device)
        dist.all_to_all_single(came, torch.tensor(to, dtype=torch.int64, device=self.device))
        sizes: list[int] = came.tolist()
        received = torch.empty(sum(sizes), dtype=torch.uint8, device=self.device)
        dist.all_to_all_single(received, _bytes(sent).to(self.device), sizes, to)
        return [part.numpy().tobytes() for part in received.cpu().split(sizes)]

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


def _bytes(pieces: Sequence[bytes]) -> torch.Tensor:
    """All of them, one after another; uint8 (n,)."""
    joined = bytearray().join(pieces)
    return torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8)


class Summed:
    """A sum over ranks that is under way."""

    def __init__(self, vector: torch.Tensor) -> None:
        self.on_device = vector
        """For what is queued on the device behind it."""
        self._host, self._made = vector, None
        if vector.is_cuda:
            self._host = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
            self._host.copy_(vector, non_blocking=True)
            self._made = torch.cuda.Event()
            self._made.record()

    def read(self) -> list[float]:
        """The sums; waits for them alone, not for what was queued on the device since."""
        if self._made is not None:
            self._made.synchronize()
        numbers: list[float] = self._host.tolist()
        return numbers


class Waiting:
    """Which collective this rank has begun and not got the result of, if any; called from any thread.

    On a GPU the call returns at once and the wait is in whatever asks the device next, so the stack does not tell.
    Collectives end in the order in which they begin, so the last one is enough.
    """

    def __init__(self) -> None:
        self._last: tuple[str, Callable[[], bool]] | None = None

    def begun(self, name: str, done: Callable[[], bool]) -> None:
        self._last = name, done

    def __call__(self) -> str | None:
        last = self._last
        return None if last is None or last[1]() else last[0]


@contextmanager
def timed_collectives(clock: Clock) -> Iterator[Waiting]:
    """Books what `torch.distributed` waits for, whoever calls it, on "communication"; yields what tells what for.

    DeepSpeed talks from within its forward, backward and step, and has no hook that times a collective without making
    the device wait; it takes the functions from the module, some of them once, so this goes around its initialisation.
    """
    originals, waiting = {name: getattr(dist, name) for name in _TIMED}, Waiting()
    for name, original in originals.items():
        setattr(dist, name, _timed(original, clock, waiting))
    try:
        yield waiting
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def _timed(collective: Callable[..., Any], clock: Clock, waiting: Waiting) -> Callable[..., Any]:
    @wraps(collective)
    def timed(*args: Any, **options: Any) -> Any:
        with clock.within("communication"):
            work = collective(*args, **options)
        waiting.begun(collective.__name__, clock.reached() if work is None else work.is_completed)
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
