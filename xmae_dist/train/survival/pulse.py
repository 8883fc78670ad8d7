"""Where every rank of a run is, heard once a second, and who holds the others up.

A rank that is stopped or frozen falls silent; one that is alive but behind lets the others wait in a collective. A
timeout of the process group would say neither which rank nor where, and a stopped process cannot say anything, so
each rank samples its own training thread's stack from beside it. That costs the loop nothing and needs no marks in it.
On a GPU a collective is only queued, and the thread waits in whatever it asks of the device next; there a collective
that the device has not come through tells.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_TORCH_COLLECTIVES = "torch.distributed.distributed_c10d"
_OWN_COLLECTIVES = "xmae_dist.train.step.collective"


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What one rank says of itself."""

    rank: int
    step: int
    """The last step it finished."""
    place: str
    """The function of ours that its training thread is in."""
    collective: str | None
    """The collective it waits in, if it does."""
    since_s: float
    """For how long it has been in this place of this step."""

    def __str__(self) -> str:
        inside = f"{self.collective} of {self.place}" if self.collective else self.place
        return f"rank {self.rank} in {inside} after step {self.step} for {self.since_s:.0f} s"


@dataclass(frozen=True, kw_only=True)
class Hung:
    """Ranks that hold the others up."""

    ranks: tuple[int, ...]
    why: str


def hung(heard: Sequence[tuple[float, Beat]], *, silence_s: float, wait_s: float) -> Hung | None:
    """Who holds the run up, from (seconds since it was heard, beat) of every rank; None while nobody does.

    That is a rank not heard for `silence_s`, or, where a rank has waited in one collective for `wait_s`, the ranks
    that are not in a collective (all of them where all are: they wait for different ones, or the network is gone).
    """
    silent = [(age, beat) for age, beat in heard if age >= silence_s]
    others = [beat for age, beat in heard if age < silence_s]
    if silent:
        told = "; ".join(f"not heard of for {age:.0f} s: {beat}" for age, beat in silent)
        return Hung(ranks=tuple(beat.rank for _, beat in silent), why=told + _meanwhile(others))
    if not any(beat.collective and beat.since_s >= wait_s for beat in others):
        return None
    behind = [beat for beat in others if not beat.collective] or others
    waiting = [beat for beat in others if beat not in behind]
    told = "; ".join(f"behind: {beat}" for beat in behind)
    return Hung(ranks=tuple(beat.rank for beat in behind), why=told + _meanwhile(waiting))


def _meanwhile(beats: Sequence[Beat], most: int = 4) -> str:
    if not beats:
        return ""
    more = f", and {len(beats) - most} more" if len(beats) > most else ""
    return "; meanwhile " + ", ".join(str(beat) for beat in beats[:most]) + more


def place_of(thread: int) -> tuple[str, str | None]:
    """(our innermost function on the stack of this thread, the collective it is in)."""
    frame = sys._current_frames().get(thread)
    collective = None
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == _TORCH_COLLECTIVES:
            collective = frame.f_code.co_name
        elif module == _OWN_COLLECTIVES:
            collective = collective or frame.f_code.co_qualname
        elif module.startswith("xmae_dist."):
            return f"{module.removeprefix('xmae_dist.')}.{frame.f_code.co_qualname}", collective
        frame = frame.f_back
    return "?", collective


class Pulse:
    """Sends a `Beat` of the thread that made it every `every_s` seconds; a context manager.

    `send(rank, None)` says that the rank has left.
    """

    def __init__(self, rank: int, send: Callable[[int, Beat | None], object], every_s: float = 1.0) -> None:
        self._rank, self._send, self._every_s = rank, send, every_s
        self._watched = threading.get_ident()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._work, name="pulse", daemon=True)
        self.step = 0
        """The last step that was finished; told by the thread that is watched."""
        self.waiting: Callable[[], str | None] = lambda: None
        """Names the collective that was begun and has not ended (`train.step.collective.Waiting`)."""

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()
        self._send(self._rank, None)

    def _work(self) -> None:
        last: tuple[int, str, str | None] | None = None
        arrived_s = time.monotonic()
        while not self._left.wait(self._every_s):
            place, collective = place_of(self._watched)
            here = (self.step, place, collective or self.waiting())
            if here != last:
                last, arrived_s = here, time.monotonic()
            step, place, collective = here
            since_s = time.monotonic() - arrived_s
            self._send(
                self._rank, Beat(rank=self._rank, step=step, place=place, collective=collective, since_s=since_s)
            )
