"""Agreement of the two signals' pooled tokens, by variance, invariance and covariance (VICReg, Bardes et al. 2022).

PPG and whole ECG are pooled (mean and standard deviation), projected, and drawn together; each projected number is kept
varying over the batch and apart from the others, so that the two cannot agree by saying nothing. No window is pushed
away from another, as a contrastive loss does. Variance and covariance are those of the rank's micro-batch.

Shapes: B batch, N tokens, D width, P projected numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xmae_dist.model.readout import MEAN_STD

_PROJECTED = 128
_COVARIANCE = 0.04
"""Against variance and invariance, which weigh alike: the proportions of the paper."""


class Agreement(nn.Module):
    """``forward(ppg_BND, ecg_BND, there_B) -> scalar``; windows where `there_B` is False count nowhere."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ppg = nn.Linear(2 * width, _PROJECTED, bias=False)
        self.ecg = nn.Linear(2 * width, _PROJECTED, bias=False)

    def forward(self, ppg_BND: Tensor, ecg_BND: Tensor, there_B: Tensor) -> Tensor:
        """Invariance, plus the mean over both signals of variance and covariance; 0 for fewer than two windows."""
        ppg_BP = self.ppg(MEAN_STD(ppg_BND)).float()
        ecg_BP = self.ecg(MEAN_STD(ecg_BND)).float()
        weight_B1 = there_B[:, None].to(ppg_BP.dtype)
        count = weight_B1.sum().clamp(min=2)
        invariance = ((ppg_BP - ecg_BP).square() * weight_B1).sum() / (count * _PROJECTED)
        varied = (_varied(ppg_BP, weight_B1, count) + _varied(ecg_BP, weight_B1, count)) / 2
        return (invariance + varied) * (weight_B1.sum() >= 2)


def _varied(x_BP: Tensor, weight_B1: Tensor, count: Tensor) -> Tensor:
    """How far standard deviations are below 1, and covariances from 0."""
    mean_P = (x_BP * weight_B1).sum(dim=0) / count
    deviation_BP = (x_BP - mean_P) * weight_B1
    covariance_PP = deviation_BP.T @ deviation_BP / (count - 1)
    variance_P = covariance_PP.diagonal()
    apart = (covariance_PP.square().sum() - variance_P.square().sum()) / len(variance_P)
    return torch.relu(1 - (variance_P + 1e-4).sqrt()).mean() + _COVARIANCE * apart
