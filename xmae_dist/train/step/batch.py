"""What a step trains on: its windows cut into micro-batches, with the mask of each.

Shapes: B windows of this rank's share, L samples, N patches. Masks are boolean, True where a patch is masked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from xmae_dist.core.seeds import hash_u64
from xmae_dist.data.stream.collate import TensorBatch
from xmae_dist.model.mask import masks


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How masks are drawn, beside (epoch, window id, how often it came before in that epoch, ratio)."""

    seed: int
    n_patches: int
    mode: str

    def draw(self, batch: TensorBatch, ratio: float) -> torch.Tensor:
        """Boolean (B, N)."""
        ids_B, repeat_B = batch.ids_B.numpy(), batch.repeat_B.numpy()
        return torch.from_numpy(masks(self.seed, batch.epoch, ids_B, self.n_patches, ratio, self.mode, repeat_B))


def micro_batches(
    batch: TensorBatch, mask_BN: torch.Tensor, count: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(ppg, ecg, mask) of `count` micro-batches, equal in size to within a window, on the device, in order.

    In a store of the source alone the source stands in for the target, which the model then ignores.
    """
    ecg_BL = batch.ppg_BL if batch.ecg_BL is None else batch.ecg_BL
    bounds = [len(batch.ids_B) * part // count for part in range(count + 1)]
    for start, stop in itertools.pairwise(bounds):
        tensors = (t[start:stop] for t in (batch.ppg_BL, ecg_BL, mask_BN))
        ppg, ecg, mask = (t.to(device, non_blocking=True) for t in tensors)
        yield ppg, ecg, mask


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Makes this step's dropout a function of (seed, step, rank), whatever was drawn before."""
    torch.manual_seed(int(hash_u64("dropout", seed, step, rank)) >> 1)
