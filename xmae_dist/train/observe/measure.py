"""What is measured of a step beside its loss: memory of each rank, waits for data, speed, share of peak.

What other ranks know rides on the loop's one all-reduce: each rank has slots of its own in a vector that is summed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xmae_dist.train.observe.losses import Cohorts, LossTable
from xmae_dist.train.step.clock import Clock, Spent
from xmae_dist.train.step.collective import Ranks

_STATM = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SLOTS = 3


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """What a rank's speed is compared with."""

    flops_per_window: int = 0
    """Of a forward and backward pass; 0: not known."""
    peak_flops: float = 1.0
    """What one rank's device could do in a second."""


class Measures:
    """One rank's measurements; `losses` takes what the model found for each window. `clock` is also the engine's."""

    def __init__(
        self, cohorts: Cohorts, ranks: Ranks, device: torch.device, clock: Clock, yardstick: Yardstick
    ) -> None:
        self.cohorts, self.clock = cohorts, clock
        self._ranks, self._device, self._yardstick = ranks, device, yardstick
        self.losses = LossTable(cohorts, device)

    def take(self) -> list[float]:
        """This rank's part of the sum over ranks, `slots` numbers; once a step, without a wait for the device."""
        world, rank = self._ranks.world, self._ranks.rank
        slots = [0.0] * self.slots
        slots[rank], slots[world + rank], slots[2 * world + rank] = self.clock.host_s("data"), *self._memory_mb()
        return slots

    @property
    def slots(self) -> int:
        return _SLOTS * self._ranks.world

    def read(self, summed: list[float]) -> dict[str, Any]:
        """What the sum says of all ranks. `slowest_data_s` is for `finish`."""
        world = self._ranks.world
        data_s, rss_mb, cuda_mb = (summed[at * world : (at + 1) * world] for at in range(_SLOTS))
        told: dict[str, Any] = {
            "slowest_data_s": max(data_s),
            "rss_mb": [round(mb) for mb in rss_mb],
        }
        return told | ({"cuda_peak_mb": [round(mb) for mb in cuda_mb]} if self._device.type == "cuda" else {})

    def finish(self, row: dict[str, Any], spent: Spent, windows: int) -> dict[str, Any]:
        """The row of a step of `windows` windows with its time, now that all of it is known.

        `data_stall` is the share of the step for which some rank's host waited for data; the others then wait for that
        rank, which shows as communication.
        """
        seconds = spent.seconds()
        took_s = max(sum(seconds.values()), 1e-9)
        row["windows_per_s"] = round(windows / took_s, 3)
        row["data_stall"] = round(min(row.pop("slowest_data_s") / took_s, 1.0), 4)
        if self._yardstick.flops_per_window:
            possible = self._yardstick.peak_flops * self._ranks.world * took_s
            row["peak_share"] = round(self._yardstick.flops_per_window * windows / possible, 4)
        return row | {f"{what}_s": round(spent, 5) for what, spent in seconds.items()}

    def _memory_mb(self) -> tuple[float, float]:
        """(resident memory of this process, most that PyTorch has held on the GPU), in MB."""
        pages = int(_STATM.read_text().split()[1]) if _STATM.exists() else 0
        cuda = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0
        return pages * _PAGE_BYTES / 1e6, cuda / 1e6
