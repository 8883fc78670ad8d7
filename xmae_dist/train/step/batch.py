"""What a step trains on: its windows cut into micro-batches, with the mask of each.

Shapes: B windows of this rank's share, M of one micro-batch, L samples, N patches, V visible patches, S terms of the
loss, K numbers measured on a pair. Masks are boolean, True where a patch is masked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from xmae_dist.core.seeds import hash_u64
from xmae_dist.data.stream.collate import TensorBatch
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.mask import masks
from xmae_dist.model.patch import visible_indices


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How masks are drawn, beside (epoch, window id, how often it came before in that epoch, ratio)."""

    seed: int
    n_patches: int
    mode: str

    def draw(self, batch: TensorBatch, ratio: float) -> torch.Tensor:
        """Boolean (B, N)."""
        epoch_B, ids_B, repeat_B = batch.epoch_B.numpy(), batch.ids_B.numpy(), batch.repeat_B.numpy()
        return torch.from_numpy(masks(self.seed, epoch_B, ids_B, self.n_patches, ratio, self.mode, repeat_B))


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a model is given of one micro-batch, as its `forward` takes it, and the cohort of each window."""

    ppg_ML: torch.Tensor
    ecg_ML: torch.Tensor
    mask_MN: torch.Tensor
    visible_MV: torch.Tensor
    measured_MK: torch.Tensor | None
    cohort_M: torch.Tensor

    @property
    def forward(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The first of its arguments; what the loss is over comes between these and `measured_MK`."""
        return self.ppg_ML, self.ecg_ML, self.mask_MN, self.visible_MV


@dataclass(frozen=True, kw_only=True)
class Share:
    """This rank's windows of a step, on the host, where all that a device would have to be asked for is known."""

    ppg_BL: torch.Tensor
    ecg_BL: torch.Tensor
    mask_BN: torch.Tensor
    visible_BV: torch.Tensor
    measured_BK: torch.Tensor | None
    cohort_B: torch.Tensor

    @classmethod
    def of(cls, batch: TensorBatch, mask_BN: torch.Tensor, cohort_B: torch.Tensor, model: PretrainModel) -> Share:
        """In a store of the source alone the source stands in for the target, which the model then ignores."""
        ecg_BL = torch.full_like(batch.ppg_BL, torch.nan) if batch.ecg_BL is None else batch.ecg_BL
        return cls(
            ppg_BL=batch.ppg_BL,
            ecg_BL=batch.ppg_BL if batch.ecg_BL is None else batch.ecg_BL,
            mask_BN=mask_BN,
            visible_BV=visible_indices(mask_BN),
            measured_BK=model.measured(batch.ppg_BL, ecg_BL),
            cohort_B=cohort_B,
        )

    def counts(self, model: PretrainModel) -> list[float]:
        """How much each term of the loss is a sum over in these windows, (S,)."""
        found: list[float] = model.counts(self.ppg_BL, self.ecg_BL, self.mask_BN, self.measured_BK).tolist()
        return found

    def micro_batches(self, count: int, device: torch.device) -> Iterator[Inputs]:
        """In `count` parts, equal in size to within a window, in order; on a GPU by copies that nothing waits for."""
        bounds = [len(self.mask_BN) * part // count for part in range(count + 1)]
        whole: tuple[torch.Tensor, ...] = (self.ppg_BL, self.ecg_BL, self.mask_BN, self.visible_BV, self.cohort_B)
        if self.measured_BK is not None:
            whole = (*whole, self.measured_BK)
        if device.type == "cuda":  # signals are pinned already
            whole = tuple(tensor if tensor.is_pinned() else tensor.pin_memory() for tensor in whole)
        for start, stop in itertools.pairwise(bounds):
            ppg, ecg, mask, visible, cohort, *rest = (t[start:stop].to(device, non_blocking=True) for t in whole)
            measured = rest[0] if rest else None
            yield Inputs(
                ppg_ML=ppg, ecg_ML=ecg, mask_MN=mask, visible_MV=visible, measured_MK=measured, cohort_M=cohort
            )


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Makes this step's dropout a function of (seed, step, rank), whatever was drawn before."""
    torch.manual_seed(int(hash_u64("dropout", seed, step, rank)) >> 1)
