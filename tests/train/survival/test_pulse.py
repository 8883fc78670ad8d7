"""Who holds a run up is named, and nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from xmae_dist.testing.ranks import run_ranks
from xmae_dist.train.step.clock import Clock
from xmae_dist.train.step.collective import Ranks, timed_collectives
from xmae_dist.train.survival.pulse import Beat, Pulse, hung


def beat(rank: int, place: str = "train.loop.Loop._agree", collective: str | None = "all_reduce", since_s: float = 1.0):  # type: ignore[no-untyped-def]
    return Beat(rank=rank, step=7, place=place, collective=collective, since_s=since_s)


def judged(*heard: tuple[float, Beat]) -> tuple[tuple[int, ...], str]:
    found = hung(heard, silence_s=8, wait_s=60)
    return (found.ranks, found.why) if found else ((), "")


def test_nobody_is_named_while_all_goes_well() -> None:
    assert judged() == ((), "")
    assert judged((0.5, beat(0, since_s=50)), (7.9, beat(1, "data.direct.step_batches", None, 50))) == ((), "")
    alone = beat(0, "train.engine_torch.TorchEngine.forward_backward", None, since_s=5000)
    assert judged((0.5, alone)) == ((), ""), "a long first step is not a hang"


def test_a_silent_rank_is_named_with_where_it_was_and_what_the_others_wait_for() -> None:
    ranks, why = judged((0.5, beat(0)), (9.0, beat(1, "train.engine_torch.TorchEngine.step", None)), (0.4, beat(2)))
    assert ranks == (1,)
    assert "not heard of for 9 s: rank 1 in train.engine_torch.TorchEngine.step after step 7" in why
    assert "meanwhile rank 0 in all_reduce of train.loop.Loop._agree" in why and "rank 2" in why


def test_the_rank_that_others_wait_for_is_named() -> None:
    ranks, why = judged((0.5, beat(0, since_s=61)), (0.5, beat(1, "data.stream.step_batches", None, 61)))
    assert ranks == (1,) and why.startswith("behind: rank 1 in data.stream.step_batches")
    assert judged((0.5, beat(0, since_s=61)), (0.5, beat(1, since_s=10)))[0] == (0, 1), "different collectives"


def _waits(rank: int, world: int, seen: str) -> list[str]:
    """Rank 1 comes to a collective only when rank 0 has been seen in it; returns where this rank was seen."""
    beats: list[Beat] = []

    def note(_: int, one: Beat | None) -> None:
        if one is not None:
            beats.append(one)
        if rank == 0 and sum(beat.collective is not None for beat in beats) > 2:
            Path(seen).touch()

    with Pulse(rank, note, every_s=0.05) as pulse:
        pulse.step = 3
        while rank == 1 and not Path(seen).exists():
            time.sleep(0.01)
        Ranks(rank=rank, world=world).sum(torch.ones(1))
    return [f"{one.collective} after {one.step}" for one in beats]


@pytest.mark.timeout(120)
def test_a_rank_that_waits_says_in_what(tmp_path: Path) -> None:
    waiting, _ = run_ranks(2, _waits, tmp_path, str(tmp_path / "seen"))
    assert "all_reduce after 3" in waiting


class DeviceClock(Clock):
    """Answers as on a GPU: whether the device has come through what it was given, not whether the call has returned."""

    def __init__(self) -> None:
        super().__init__()
        self.queued: list[Any] = []

    def reached(self) -> Callable[[], bool]:
        queued = tuple(self.queued)
        return lambda: all(work.is_completed() for work in queued)


def _waits_in_a_read(rank: int, world: int, seen: str) -> dict[str, list[str]]:
    """As `_waits`, but the collective returns at once, as NCCL's do, and the wait is in the read of its result."""
    clock, all_reduce, beats = DeviceClock(), dist.all_reduce, list[Beat]()

    def queued(tensor: torch.Tensor) -> None:
        clock.queued.append(all_reduce(tensor, async_op=True))

    queued.__name__ = "all_reduce"

    def note(_: int, one: Beat | None) -> None:
        if one is not None:
            beats.append(one)
        if rank == 0 and sum(beat.collective is not None for beat in beats) > 2:
            Path(seen).touch()

    dist.all_reduce = queued
    try:
        with Pulse(rank, note, every_s=0.05) as pulse, timed_collectives(clock) as pulse.waiting:
            deadline = time.monotonic() + 20
            while rank == 1 and not Path(seen).exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            dist.all_reduce(torch.ones(1))
            for work in clock.queued:
                work.wait()  # in no frame of torch.distributed's own, nor of ours
    finally:
        dist.all_reduce = all_reduce
    return {"in": sorted({str(one.collective) for one in beats}), "seen": [str(Path(seen).exists())]}


@pytest.mark.timeout(120)
def test_a_rank_whose_collective_has_returned_but_not_ended_waits_for_the_others(tmp_path: Path) -> None:
    waiting, behind = run_ranks(2, _waits_in_a_read, tmp_path, str(tmp_path / "seen"))
    assert waiting == {"in": ["None", "all_reduce"], "seen": ["True"]} or waiting["in"] == ["all_reduce"]
    assert behind["seen"] == ["True"], "rank 0 was seen to wait before rank 1 came"
    assert judged(
        (0.5, beat(0, place="train.loop.Loop._agree", since_s=61)),
        (0.5, beat(1, place="data.stream.direct.step_batches", collective=None, since_s=61)),
    )[0] == (1,)


@pytest.mark.timeout(120)
def test_a_rank_that_leaves_says_so() -> None:
    heard: list[Beat | None] = []
    with Pulse(2, lambda rank, one: heard.append(one), every_s=0.01):
        while len(heard) < 2:
            time.sleep(0.01)
    assert heard[-1] is None and heard.count(None) == 1
