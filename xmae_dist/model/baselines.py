"""The contrastive control: PPG and ECG of one window are pulled together, those of different windows apart.

A CLIP-like objective (Radford et al., 2021) over the same encoders as `XMAE`, for equal-budget comparison. The
other controls are objectives of `XMAE` itself.

Shapes: B batch, L samples, N patches, D width. The negatives of a window are the other windows of the rank's batch.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmae_dist.model import beat_heads
from xmae_dist.model.beat_heads import BeatHeads
from xmae_dist.model.encoder import channelled, filled
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.kinds import kind
from xmae_dist.model.readout import MEAN_STD
from xmae_dist.model.xmae import XMAEConfig, check_weight, signal_encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(XMAEConfig):
    """As `XMAEConfig`; decoder, bridge and mask settings are not used."""

    objective: str = "clip"
    projection_width: int = 128
    """Width of the space in which the two signals are compared."""
    temperature: float = 0.07
    """Initial temperature; it is learned."""


@kind("contrastive", ContrastiveConfig)
class ContrastivePair(PretrainModel):
    """``forward(ppg_BL, ecg_BL, mask_BN)`` gives the symmetric InfoNCE loss; the mask is not used."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config: ContrastiveConfig = config
        self.encoders = nn.ModuleDict({name: signal_encoder(config, name) for name in ("ppg", "ecg")})
        self.projections = nn.ModuleDict(
            {name: nn.Linear(2 * config.width, config.projection_width, bias=False) for name in ("ppg", "ecg")}
        )
        # One element, not none: DeepSpeed broadcasts parameters by their first dimension.
        self.log_scale = nn.Parameter(torch.tensor([math.log(1.0 / config.temperature)]))
        check_weight("beat_weight", config.beat_weight, allowed=True)
        for name in ("agreement_weight", "local_drop"):
            check_weight(name, getattr(config, name), allowed=False)
        self.beats = BeatHeads(config.width) if config.beat_weight else None

    def forward(
        self,
        ppg_BL: Tensor,
        ecg_BL: Tensor,
        mask_BN: Tensor,
        visible_BV: Tensor | None = None,
        over_S: Tensor | None = None,
        measured_BK: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy of picking each window's partner among the batch, both ways, a scalar; and the heads'."""
        ppg_BND = self.tokens(ppg_BL)
        ppg_BX = self._projected("ppg", ppg_BND)
        ecg_BX = self._projected("ecg", self.encoders["ecg"](filled(channelled(ecg_BL))))
        score_BB = self.log_scale.exp().clamp(max=100.0) * ppg_BX @ ecg_BX.T
        own_B = torch.arange(len(score_BB), device=score_BB.device)
        loss = (F.cross_entropy(score_BB, own_B) + F.cross_entropy(score_BB.T, own_B)) / 2
        loss = loss if over_S is None else loss * (len(own_B) / over_S[0])
        if self.beats is None:
            return loss
        if measured_BK is None:
            measured_BK = beat_heads.measured(ppg_BL, ecg_BL, self.config.rate_hz)
        over_K = None if over_S is None else over_S[1:]
        return loss + self.config.beat_weight * self.beats(ppg_BND, measured_BK, over_K).mean()

    def measured(self, ppg_BL: Tensor, ecg_BL: Tensor) -> Tensor | None:
        """The targets of the auxiliary heads, where there are any."""
        return None if self.beats is None else beat_heads.measured(ppg_BL, ecg_BL, self.config.rate_hz)

    def counts(self, ppg_BL: Tensor, ecg_BL: Tensor, mask_BN: Tensor, measured_BK: Tensor | None = None) -> Tensor:
        """Windows; then those that each head learns from."""
        windows_1 = super().counts(ppg_BL, ecg_BL, mask_BN)
        measured_BK = self.measured(ppg_BL, ecg_BL) if measured_BK is None else measured_BK
        return windows_1 if measured_BK is None else torch.cat([windows_1, beat_heads.counted(measured_BK)])

    @property
    def reconstructs(self) -> None:
        """Nothing."""
        return None

    def tokens(self, signal_BL: Tensor) -> Tensor:
        """The PPG encoder's output tokens, (B, N, D)."""
        return self.encoders["ppg"](filled(channelled(signal_BL)))

    def _projected(self, name: str, tokens_BND: Tensor) -> Tensor:
        return F.normalize(self.projections[name](MEAN_STD(tokens_BND)), dim=-1)
