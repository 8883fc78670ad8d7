"""Errors over masked samples: the training loss and the figure that evaluation reports.

Shapes: B batch, L samples (with C channels before them, where a signal has several), N patches. Masks are boolean, True
where a patch is masked. Target samples that are NaN are missing, and count nowhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_dist.model.patch import expand_mask


def masked_mse(predicted_BL: Tensor, target_BL: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
    """(mean squared error over all masked samples of the batch, a scalar in the signal's squared unit; that of each
    window, (B,), without a gradient)."""
    square_B, counted_B = _squares(predicted_BL, target_BL, mask_BN)
    return square_B.sum() / counted_B.sum().clamp(min=1), square_B.detach() / counted_B.clamp(min=1)


def masked_error(predicted_BL: Tensor, target_BL: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean squared error over the masked samples of each window, (B,): rows may be averaged over batches."""
    square_B, counted_B = _squares(predicted_BL, target_BL, mask_BN)
    return square_B / counted_B.clamp(min=1)


def _squares(predicted_BL: Tensor, target_BL: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of squared differences over the samples of each window that count, and their number, (B,) each."""
    masked_BL = expand_mask(mask_BN, target_BL.shape[-1] // mask_BN.shape[1])
    if target_BL.ndim == 3:
        masked_BL = masked_BL[:, None]
    counted_BL = masked_BL & target_BL.isfinite()
    square_BL = torch.where(counted_BL, predicted_BL - target_BL, 0.0).square()
    return square_BL.flatten(1).sum(dim=1), counted_BL.flatten(1).sum(dim=1)
