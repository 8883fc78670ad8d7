"""How often a step makes the host wait for the device: counted where a tensor's value is asked for.

On a CPU nothing is waited for, but the calls are the same: every value that the host wants of a tensor goes through one
of these methods.
"""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import test_loop
import torch
from test_loop import alone, run

from xmae_dist.testing.ranks import run_ranks
from xmae_dist.train.loop import Loop
from xmae_dist.train.step.collective import Ranks, Summed

READS = ("item", "cpu", "tolist", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__")
ON_THE_HOST = {
    ("batch.py", "counts"),  # how many samples are masked and there, counted before they are sent
    ("batch.py", "of"),  # which patches are visible, likewise
    ("batch.py", "draw"),
    ("losses.py", "of_windows"),
}
"""Callers whose tensors never were on a device."""
STEPS = 24


class Watched:
    """The places at which values of tensors are read, and in what order a step's parts are begun."""

    def __init__(self) -> None:
        self.reads: Counter[tuple[str, str]] = Counter()
        self.order: list[str] = []
        self._inside = False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in READS:
            patch.setattr(torch.Tensor, name, self._counted(getattr(torch.Tensor, name)))
        for owner, name in ((Ranks, "sum_later"), (Summed, "read"), (Loop, "_forward_backward"), (Loop, "_tell_last")):
            patch.setattr(owner, name, self._noted(getattr(owner, name), name))

    def _counted(self, read: Any) -> Any:
        def reading(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
            place = self._place()
            if not self._inside and place is not None and place not in ON_THE_HOST:
                self.reads[place] += 1
            outermost, self._inside = not self._inside, True
            try:
                return read(tensor, *args, **options)
            finally:
                self._inside = self._inside and not outermost

        return reading

    def _noted(self, function: Any, name: str) -> Any:
        def noted(*args: Any, **options: Any) -> Any:
            self.order.append(name)
            return function(*args, **options)

        return noted

    @staticmethod
    def _place() -> tuple[str, str] | None:
        """(file, function) that reads, where the loop's step is on the stack: not what saves, validates or builds."""
        stack = traceback.extract_stack()[:-2]
        names = {frame.name for frame in stack}
        if not names & {"_step", "_tell_last"} or names & {"settle", "start"}:
            return None
        asking = next(frame for frame in reversed(stack) if frame.name != "visible_indices")
        return Path(asking.filename).name, asking.name


def test_a_step_of_the_plain_engine_reads_once_and_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()
    watched.install(monkeypatch)
    found = alone(tmp_path)
    assert len(found["rows"]) == STEPS
    assert watched.reads == {("collective.py", "read"): STEPS}
    # Queued before the step's own work and read after it: a device has a whole step to do when it is waited for.
    one = ["sum_later", "_forward_backward", "read", "_tell_last"]
    assert watched.order == one * STEPS + ["sum_later", "read", "_tell_last"]


def _zero(rank: int, world: int, folder: str, kind: str) -> dict[str, int]:
    watched = Watched()
    with pytest.MonkeyPatch.context() as patch:
        watched.install(patch)
        run(rank, world, f"file://{folder}", kind, STEPS)
    return {" ".join(place): number for place, number in watched.reads.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["zero0", "zero1", "zero2"])
def test_a_step_of_deepspeed_waits_once_more_at_most_to_decide_on_a_skip(kind: str, tmp_path: Path) -> None:
    (reads,) = run_ranks(1, _zero, tmp_path, str(tmp_path / "run"), kind)
    assert reads.pop("collective.py read") == STEPS
    # ZeRO's own: whether the norm of the gradient is finite, before the step, and again for each of two groups; the
    # first of these waits for the device, which then has nothing to do. DeepSpeed 0.19.0 does not ask.
    assert reads in ({}, {"utils.py is_invalid_grad_norm": 3 * STEPS}) and (kind != "zero0" or not reads)


def test_the_model_reads_nothing_where_it_is_told_what_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    built = test_loop.model()
    signal_BL, mask_BN = torch.randn(2, test_loop.LENGTH), (torch.arange(test_loop.N_PATCHES) > 3).expand(2, -1)
    visible_BV = torch.arange(4).expand(2, -1)
    asked: list[str] = []
    for name in READS:
        read = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *a, read=read, name=name: (asked.append(name), read(*a))[1])
    built(signal_BL, signal_BL, mask_BN, visible_BV).backward()
    assert asked == []
    built(signal_BL, signal_BL, mask_BN).backward()
    assert asked, "the count of visible patches is read off the mask"
