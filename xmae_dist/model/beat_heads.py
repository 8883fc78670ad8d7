"""Auxiliary heads: what the beats of the paired ECG say, predicted linearly from the pooled PPG.

A reconstruction may be good and yet leave the rhythm in no linear direction of the embedding. So three numbers of the
pair (`xmae_dist.signals.beat_statistics`: log mean RR, log RMSSD, median arrival time) are predicted from mean and
standard deviation of the PPG tokens, by mean squared error in units of a usual spread, at a small weight. This is
supervision by measurement: no label is used, but the ECG is read by a beat detector, so a model that has the heads is
not compared with a control that has not without saying so; the contrastive control takes them as well.

Shapes: B batch, L samples, N tokens, D width, K statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xmae_dist.model.readout import MEAN_STD
from xmae_dist.signals.beat_statistics import STATISTICS, beat_statistics

_USUAL = ((-0.16, 0.25), (-3.5, 0.9), (0.25, 0.05))
"""Centre and spread of each statistic: fixed, so that the loss of a window depends on no corpus."""


def measured(ppg_BL: Tensor, ecg_BL: Tensor, rate_hz: float) -> Tensor:
    """The heads' targets, (B, K) float32 on the CPU, in usual spreads about the usual; NaN where beats do not say.

    Of several channels the first is read. Waits for a device that the signals are on.
    """
    ecg, ppg = (_first_channel(signal).detach().cpu().numpy() for signal in (ecg_BL, ppg_BL))
    centre_K, spread_K = torch.tensor(_USUAL, dtype=torch.float64).T
    return ((torch.from_numpy(beat_statistics(ecg, ppg, rate_hz)) - centre_K) / spread_K).float()


def counted(measured_BK: Tensor) -> Tensor:
    """How many windows of the batch each head learns from, (K,)."""
    return measured_BK.isfinite().sum(dim=0)


class BeatHeads(nn.Module):
    """``forward(tokens_BND, measured_BK) -> (K,)``: the mean squared error of each head, in usual spreads squared."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, len(STATISTICS))

    def forward(self, tokens_BND: Tensor, measured_BK: Tensor, over_K: Tensor | None = None) -> Tensor:
        """`over_K` is what the sums of squares are divided by, in place of the windows of this batch that count."""
        there_BK = measured_BK.isfinite()
        error_BK = torch.where(there_BK, self.linear(MEAN_STD(tokens_BND)).float() - measured_BK, 0.0)
        over_K = there_BK.sum(dim=0).clamp(min=1) if over_K is None else over_K
        return error_BK.square().sum(dim=0) / over_K


def _first_channel(signal: Tensor) -> Tensor:
    return signal[:, 0] if signal.ndim == 3 else signal
