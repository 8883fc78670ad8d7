"""Training loss by signal and cohort: each rank's sums ride on the loop's one all-reduce.

Shapes: B windows, S signals, C cohorts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from xmae_dist.data.order.chunks import SegmentLike
from xmae_dist.model.loss import Errors

SIGNALS = ("ecg", "ppg")


@dataclass(frozen=True, kw_only=True)
class Cohorts:
    """Which cohort a window is of, by its id."""

    names: tuple[str, ...]
    first_ids: NDArray[np.int64]
    """First id of each run of windows of one cohort, ascending."""
    index: NDArray[np.int64]
    """The cohort of each run, as a place in `names`."""

    @staticmethod
    def of(segments: Iterable[SegmentLike]) -> Cohorts:
        """From a store's segments."""
        ordered = sorted(segments, key=lambda segment: segment.first_id)
        names = tuple(sorted({segment.cohort for segment in ordered}))
        place_of = {name: place for place, name in enumerate(names)}
        return Cohorts(
            names=names,
            first_ids=np.array([segment.first_id for segment in ordered], np.int64),
            index=np.array([place_of[segment.cohort] for segment in ordered], np.int64),
        )

    def of_windows(self, ids_B: torch.Tensor) -> torch.Tensor:
        """Places in `names`, (B,)."""
        return torch.from_numpy(self.index[np.searchsorted(self.first_ids, ids_B.numpy(), side="right") - 1])


class LossTable:
    """Sums of squared errors and the numbers of samples they are over, (S, C, 2), of one step on one rank."""

    def __init__(self, cohorts: Cohorts, device: torch.device) -> None:
        self._names = cohorts.names
        self._table = torch.zeros(len(SIGNALS), len(cohorts.names), 2, device=device)

    def add(self, errors: Mapping[str, Errors], cohort_B: torch.Tensor) -> None:
        """One micro-batch: `errors` by signal; all on the device, which is not waited for."""
        for place, signal in enumerate(SIGNALS):
            if signal in errors:
                pair_B2 = torch.stack([column_B.to(self._table.dtype) for column_B in errors[signal]], dim=1)
                self._table[place].index_add_(0, cohort_B, pair_B2)

    def take(self) -> torch.Tensor:
        """The sums, flat, on the device; and a fresh start."""
        sums = self._table.flatten()
        self._table = torch.zeros_like(self._table)
        return sums

    def means(self, sums: list[float]) -> dict[str, dict[str, float]]:
        """Mean loss by signal and cohort of what `take` gave, summed over ranks; without those that had no target."""
        table = np.array(sums).reshape(self._table.shape)
        return {
            signal: {name: float(total / n) for name, (total, n) in zip(self._names, rows, strict=True) if n}
            for signal, rows in zip(SIGNALS, table, strict=True)
            if rows[:, 1].any()
        }
