"""Errors over masked samples: the training loss and the figure that evaluation reports.

Shapes: B batch, L samples, N patches. Masks are boolean, True where a patch is masked.
"""

from __future__ import annotations

from torch import Tensor

from xmae_dist.model.patch import expand_mask


def masked_mse(predicted_BL: Tensor, target_BL: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean squared error over all masked samples of the batch, a scalar in the signal's squared unit."""
    weight_BL = expand_mask(mask_BN, target_BL.shape[-1] // mask_BN.shape[1]).to(predicted_BL.dtype)
    return ((predicted_BL - target_BL).square() * weight_BL).sum() / weight_BL.sum()


def masked_error(predicted_BL: Tensor, target_BL: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean squared error over the masked samples of each window, (B,): rows may be averaged over batches."""
    weight_BL = expand_mask(mask_BN, target_BL.shape[-1] // mask_BN.shape[1]).to(predicted_BL.dtype)
    return ((predicted_BL - target_BL).square() * weight_BL).sum(dim=1) / weight_BL.sum(dim=1)
