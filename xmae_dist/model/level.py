"""Level and scale of the visible part of a masked signal.

A window scaled to [-1, 1] has its baseline wherever its tallest wave leaves it, so most of the error of an untrained
model is one unknown number per window. The visible samples tell it: they are standardised before encoding and the
reconstruction is put back on their level and scale, as reversible instance normalisation does (Kim et al., "RevIN",
2022). Only visible samples are used, so nothing leaks.

Shapes: B batch, C channels, L samples. ``seen_BCL`` is True where a sample is visible.
"""

from __future__ import annotations

from torch import Tensor

FLAT = 1e-2
"""Added to the variance, in squared units of a signal that spans [-1, 1]: a flat anchor has no scale to give."""


def visible_level(signal_BCL: Tensor, seen_BCL: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the visible samples of each channel, both (B, C, 1)."""
    weight_BCL = seen_BCL.to(signal_BCL.dtype)
    count_BC1 = weight_BCL.sum(dim=-1, keepdim=True).clamp(min=1)
    mean_BC1 = (signal_BCL * weight_BCL).sum(dim=-1, keepdim=True) / count_BC1
    variance_BC1 = ((signal_BCL - mean_BC1).square() * weight_BCL).sum(dim=-1, keepdim=True) / count_BC1
    return mean_BC1, (variance_BC1 + FLAT).sqrt()
