"""Cutting signals into patches, and gathering and scattering the visible ones. No parameters here.

Shapes: B batch, N patches, V visible patches, P samples per patch, D width, L = N * P samples.
Masks are boolean, True where a patch is masked, with the same number of masked patches in every row.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor


class View(NamedTuple):
    """A mask together with the indices of the patches it leaves visible."""

    mask_BN: Tensor
    visible_BV: Tensor

    @classmethod
    def of(cls, mask_BN: Tensor, visible_BV: Tensor | None = None) -> Self:
        """A view of a mask; the indices are read off it unless they are given."""
        return cls(mask_BN, visible_indices(mask_BN) if visible_BV is None else visible_BV)

    def reversed(self) -> View:
        """The same mask with time turned round."""
        return View(self.mask_BN.flip(1), self.mask_BN.shape[1] - 1 - self.visible_BV.flip(1))


def visible_indices(mask_BN: Tensor) -> Tensor:
    """Indices of the visible patches of each row in time order, (B, V) int64.

    A stable sort puts visible before masked and keeps time order among them; no loop over the batch. V is that of
    the first row: rows must agree, which ``model.mask`` guarantees. Reading V waits for an accelerator, so call this
    on the CPU, before the mask is sent there, where that matters.
    """
    n_visible = int((~mask_BN[0]).sum())
    return mask_BN.to(torch.uint8).argsort(dim=1, stable=True)[:, :n_visible]


def gather_visible(tokens_BND: Tensor, index_BV: Tensor) -> Tensor:
    """Rows of ``tokens_BND`` at ``index_BV``: (B, V, D)."""
    return tokens_BND.gather(1, index_BV[:, :, None].expand(-1, -1, tokens_BND.shape[2]))


def scatter_visible(base_BND: Tensor, tokens_BVD: Tensor, index_BV: Tensor) -> Tensor:
    """``base_BND`` with ``tokens_BVD``, in its type, written at ``index_BV``; a new tensor (B, N, D)."""
    return base_BND.scatter(1, index_BV[:, :, None].expand_as(tokens_BVD), tokens_BVD.to(base_BND.dtype))


def expand_mask(mask_BN: Tensor, patch_length: int) -> Tensor:
    """A patch mask as a sample mask, (B, N * P)."""
    return mask_BN.repeat_interleave(patch_length, dim=1)
