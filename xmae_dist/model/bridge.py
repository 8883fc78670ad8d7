"""The bridge: how the masked target reads the source, on one time axis for both.

Shapes: B batch, N patches, D width, K lags. Lags are counted in patches: source token t + lag is read by target
token t, so a positive lag means that the source comes later (the pulse after the heart beat).

Two forms, both local in time and equivariant to shifts of both signals together:

- ``conv``: one weight matrix per lag (a 1-D convolution over source tokens). What the source did at each lag reaches
  the target at once, so it learns in few windows.
- ``attention``: queries attend to the source tokens inside the lag window, with rotary positions. It chooses the lag
  by content, so that a person's own delay can be followed, and its weights can be looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmae_dist.core.errors import ConfigError
from xmae_dist.model.blocks import Attention, Rotation


class LagConvolution(nn.Module):
    """A weight matrix per lag: ``forward(query_BND, source_BND, rotation) -> (B, N, D)``."""

    def __init__(self, width: int, heads: int, lags: tuple[int, int], n_patches: int) -> None:
        super().__init__()
        self.lags = lags
        self.taps = nn.Conv1d(width, width, lags[1] - lags[0] + 1)

    def forward(self, query_BND: Tensor, source_BND: Tensor, rotation: Rotation) -> Tensor:
        earliest, latest = self.lags
        padded_BDM = F.pad(source_BND.transpose(1, 2), (-earliest, latest))
        return query_BND + self.taps(padded_BDM).transpose(1, 2)


class LagAttention(nn.Module):
    """Cross-attention inside the lag window: ``forward(query_BND, source_BND, rotation) -> (B, N, D)``."""

    allowed: Tensor

    def __init__(self, width: int, heads: int, lags: tuple[int, int], n_patches: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        index_N = torch.arange(n_patches)
        lag_NN = index_N[None, :] - index_N[:, None]
        self.register_buffer("allowed", (lag_NN >= lags[0]) & (lag_NN <= lags[1]), persistent=False)

    def forward(self, query_BND: Tensor, source_BND: Tensor, rotation: Rotation) -> Tensor:
        read_BND = self.attention(self.norm(query_BND), source_BND, rotation=rotation, allowed_QK=self.allowed)
        return query_BND + read_BND


BRIDGES = {"conv": LagConvolution, "attention": LagAttention}


def build_bridge(name: str, width: int, heads: int, lags: tuple[int, int], n_patches: int) -> nn.Module:
    """A bridge by name; ConfigError for an unknown one or an empty lag window."""
    if name not in BRIDGES:
        raise ConfigError("bridge", value=name, expected=" | ".join(BRIDGES))
    if not lags[0] <= 0 <= lags[1]:
        raise ConfigError("lag window in patches", value=lags, expected="a span that contains 0")
    return BRIDGES[name](width, heads, lags, n_patches)
