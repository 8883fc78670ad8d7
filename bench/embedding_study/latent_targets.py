"""A trial: the masked ECG rebuilt as an averaged teacher's tokens, the raw samples beside it at a small weight.

The teacher is a copy of the ECG encoder that sees the whole ECG; after each step its weights move a little towards the
student's (Tarvainen & Valpola 2017; as targets of masked patches, Baevski et al., "data2vec", 2022). Its tokens are
standardised over features, so that no scale can be learned instead of content. What is kept is the student alone, which
is a model of `cross` like any other.

Shapes: B batch, N patches, D width. Masks are boolean, True where a patch is masked.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmae_dist.model.encoder import channelled
from xmae_dist.model.level import visible_level
from xmae_dist.model.xmae import XMAE

RAW_WEIGHT = 0.1
_MOMENTUM = 0.996


class LatentTargets(nn.Module):
    """``forward(ppg_BL, ecg_BL, mask_BN, …) -> loss`` of windows that miss no sample; `follow` after each step."""

    def __init__(self, model: XMAE) -> None:
        super().__init__()
        self.model = model
        self.teacher = copy.deepcopy(model.encoders["ecg"]).requires_grad_(False)
        self.predict = nn.Linear(model.config.width, model.config.width)
        self._tokens_BND = torch.empty(0)
        model.decoders["ecg"].norm.register_forward_hook(self._seen)

    def forward(self, ppg_BL: Tensor, ecg_BL: Tensor, mask_BN: Tensor, *rest: Tensor | None) -> Tensor:
        """Smooth L1 of standardised tokens at masked patches, plus the weighted loss of the model itself."""
        raw = self.model(ppg_BL, ecg_BL, mask_BN, *rest)
        with torch.no_grad():
            target_BND = F.layer_norm(self.teacher(_levelled(ecg_BL)), (self.model.config.width,))
        found_BND = self.predict(self._tokens_BND)
        return F.smooth_l1_loss(found_BND[mask_BN], target_BND[mask_BN]) + RAW_WEIGHT * raw

    @torch.no_grad()
    def follow(self) -> None:
        """The teacher, a little nearer to the student."""
        for mine, student in zip(self.teacher.parameters(), self.model.encoders["ecg"].parameters(), strict=True):
            mine.lerp_(student, 1.0 - _MOMENTUM)

    def _seen(self, _module: nn.Module, _inputs: tuple[Tensor, ...], tokens_BND: Tensor) -> None:
        self._tokens_BND = tokens_BND


def _levelled(ecg_BL: Tensor) -> Tensor:
    """The whole ECG as its encoder knows the visible part of it: standardised, (B, C, L)."""
    ecg_BCL = channelled(ecg_BL)
    mean_BC1, spread_BC1 = visible_level(ecg_BCL, torch.ones_like(ecg_BCL, dtype=torch.bool))
    return (ecg_BCL - mean_BC1) / spread_BC1
