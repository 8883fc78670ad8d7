"""One signal's encoder: stem, patches, transformer blocks with rotary positions, final norm.

Shapes: B batch, C channels, L samples, N patches, V visible patches, D width. Masks: True where masked.

A patch is placed at its own time, wherever the mask put it. Masked samples are set to zero *before* the stem,
whose kernels reach over patch borders, so nothing masked leaks into a visible token, and samples that are not
neighbours in time never become neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xmae_dist.model.blocks import Block, Rotation, rotation_table
from xmae_dist.model.patch import View, expand_mask
from xmae_dist.model.stem import build_stem


class SignalEncoder(nn.Module):
    """``forward(signal_BCL) -> (B, N, D)``; with a view, tokens of the visible patches alone, (B, V, D)."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        *,
        stem: str,
        channels: int,
        n_patches: int,
        patch_length: int,
        width: int,
        heads: int,
        depth: int,
        expansion: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.patch_length = patch_length
        self.stem = build_stem(stem, channels, width, patch_length)
        self.blocks = nn.ModuleList(Block(width, heads, expansion=expansion, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        cos, sin = rotation_table(torch.arange(n_patches), width // heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, signal_BCL: Tensor, view: View | None = None) -> Tensor:
        """Encode the whole signal, or the patches that ``view`` leaves visible."""
        if view is None:
            tokens, rotation = self.stem(signal_BCL), (self.cos, self.sin)
        else:
            seen_B1L = ~expand_mask(view.mask_BN, self.patch_length)[:, None]
            tokens = self.stem(signal_BCL * seen_B1L, view.visible_BV)
            rotation = self._rotation_at(view.visible_BV)
        for block in self.blocks:
            tokens = block(tokens, rotation)
        return self.norm(tokens)

    def _rotation_at(self, index_BV: Tensor) -> Rotation:
        return self.cos[index_BV][:, None], self.sin[index_BV][:, None]


def channelled(signal: Tensor) -> Tensor:
    """(B, L) as (B, 1, L); (B, C, L) as it is."""
    return signal[:, None] if signal.ndim == 2 else signal


def filled(signal_BCL: Tensor) -> Tensor:
    """Missing samples (NaN) as zero."""
    return signal_BCL.nan_to_num(nan=0.0)
