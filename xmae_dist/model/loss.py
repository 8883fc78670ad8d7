"""Errors over masked samples: the training loss and the figure that evaluation reports.

Shapes: B batch, L samples (with C channels before them, where a signal has several), N patches. Masks are boolean, True
where a patch is masked. Target samples that are NaN are missing, and count nowhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_dist.model.patch import expand_mask

Errors = tuple[Tensor, Tensor]
"""Of each window, (B,) each: sum of squared errors over the samples that count, without a gradient; their number."""


def masked_mse(
    predicted_BL: Tensor, target_BL: Tensor, mask_BN: Tensor, over: Tensor | None = None
) -> tuple[Tensor, Errors]:
    """(mean squared error over all masked samples of the batch, a scalar in the signal's squared unit; what each window
    has to do with it).

    `over` is what the sum of squares is divided by, in place of the number of samples that count in this batch.
    """
    square_B, counted_B = _squares(predicted_BL, target_BL, mask_BN)
    over = counted_B.sum().clamp(min=1) if over is None else over
    return square_B.sum() / over, (square_B.detach(), counted_B)


def counted_samples(target_BL: Tensor, mask_BN: Tensor) -> Tensor:
    """How many samples of the batch `masked_mse` is a mean over, 0-dim."""
    return _counted(target_BL, mask_BN).sum()


def masked_error(predicted_BL: Tensor, target_BL: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean squared error over the masked samples of each window, (B,): rows may be averaged over batches.

    NaN where a window has no sample to compare with: it is no window without an error.
    """
    square_B, counted_B = _squares(predicted_BL, target_BL, mask_BN)
    return square_B / counted_B


def _squares(predicted_BL: Tensor, target_BL: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of squared differences over the samples of each window that count, and their number, (B,) each."""
    counted_BL = _counted(target_BL, mask_BN)
    square_BL = torch.where(counted_BL, predicted_BL - target_BL, 0.0).square()
    return square_BL.flatten(1).sum(dim=1), counted_BL.flatten(1).sum(dim=1)


def _counted(target_BL: Tensor, mask_BN: Tensor) -> Tensor:
    """True at masked samples that are there, shaped as the target."""
    masked_BL = expand_mask(mask_BN, target_BL.shape[-1] // mask_BN.shape[1])
    if target_BL.ndim == 3:
        masked_BL = masked_BL[:, None]
    return masked_BL & target_BL.isfinite()
