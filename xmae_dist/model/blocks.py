"""Transformer parts shared by every model: attention with or without rotary positions, blocks, feed-forward.

Shapes: B batch, Q queries, K keys, N tokens, D width, H heads, E = D / H.

Attention calls ``scaled_dot_product_attention``, which picks a flash kernel where there is one. Its weights are
stacked and named as in ``torch.nn.MultiheadAttention`` (``in_proj_weight`` holds query, key and value, one
below the other), so that released weights load without renaming.

Rotary positions (Su et al., "RoFormer", 2021) turn each pair of query and key features by an angle that grows
with time, so that a product depends on the time between two tokens and on no absolute position.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmae_dist.core.errors import ConfigError

Rotation = tuple[Tensor, Tensor]
"""Cosine and signed sine of every token's angles, each (N, E) or (B, 1, N, E); see `rotation_table`."""


class UnbiasedAtFirst(nn.Linear):
    """A linear layer that begins with a bias of zero.

    Set here and not by the module that holds it, which under ZeRO-3 is too late: a layer is divided once it is made.
    """

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.bias)


class Attention(nn.Module):
    """Multi-head attention: ``forward(query_BQD, memory_BKD) -> (B, Q, D)``; to itself where memory is None."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError("model width", value=width, expected=f"a multiple of the {heads} heads")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = UnbiasedAtFirst(width, width)
        self.dropout = nn.Dropout(dropout)  # holds the rate; the kernel applies it
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self,
        query_BQD: Tensor,
        memory_BKD: Tensor | None = None,
        *,
        rotation: Rotation | None = None,
        memory_rotation: Rotation | None = None,
        allowed_QK: Tensor | None = None,
    ) -> Tensor:
        """Attend; ``rotation`` places the tokens in time, ``allowed_QK`` (True = may attend) limits the reach."""
        query, key, value = self._project(query_BQD, memory_BKD)
        if rotation is not None:
            tables = _typed(rotation, query.dtype)
            query = rotate(query, tables)
            key = rotate(key, tables if memory_rotation is None else _typed(memory_rotation, key.dtype))
        rate = self.dropout.p if self.training else 0.0
        mixed_BHQE = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed_QK, dropout_p=rate)
        return self.out_proj(mixed_BHQE.transpose(1, 2).flatten(2))

    def _project(self, query_BQD: Tensor, memory_BKD: Tensor | None) -> list[Tensor]:
        weight, bias, width = self.in_proj_weight, self.in_proj_bias, query_BQD.shape[-1]
        if memory_BKD is None:
            parts = F.linear(query_BQD, weight, bias).chunk(3, dim=-1)
        else:
            query = F.linear(query_BQD, weight[:width], bias[:width])
            parts = (query, *F.linear(memory_BKD, weight[width:], bias[width:]).chunk(2, dim=-1))
        return [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]


class Block(nn.Module):
    """Pre-norm self-attention over tokens placed in time, then feed-forward: ``(B, N, D) -> (B, N, D)``."""

    def __init__(self, width: int, heads: int, *, expansion: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = feed_forward(width, expansion * width, dropout)

    def forward(self, tokens_BND: Tensor, rotation: Rotation) -> Tensor:
        tokens_BND = tokens_BND + self.attention(self.norm_attention(tokens_BND), rotation=rotation)
        return tokens_BND + self.mlp(self.norm_mlp(tokens_BND))


def feed_forward(width: int, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear, exact GELU, Linear, dropout: ``(..., width) -> (..., width)``."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(dropout))


def rotation_table(time_N: Tensor, features: int, longest: float = 1000.0) -> Rotation:
    """Cosine and signed sine, each (N, features), for tokens at ``time_N`` (in patches).

    Wavelengths run geometrically from 2 pi to 2 pi * ``longest`` patches. Feature i of the first half is paired with
    feature i of the second; the sine is negative for the first, so that `rotate` is two products and a sum.
    """
    rate_F = longest ** (-torch.arange(0, features, 2, dtype=torch.float64) / features)
    angle_NF = time_N.to(torch.float64)[:, None] * rate_F
    sin_NF = angle_NF.sin()
    return angle_NF.cos().repeat(1, 2).float(), torch.cat([-sin_NF, sin_NF], dim=1).float()


def rotate(x_BHNE: Tensor, rotation: Rotation) -> Tensor:
    """Turn the feature pairs (first half, second half) of queries or keys by their tokens' angles."""
    cos, sin = rotation
    return (x_BHNE * cos).addcmul_(x_BHNE.roll(x_BHNE.shape[-1] // 2, dims=-1), sin)


def _typed(rotation: Rotation, dtype: torch.dtype) -> Rotation:
    cos, sin = rotation
    return cos.to(dtype), sin.to(dtype)
