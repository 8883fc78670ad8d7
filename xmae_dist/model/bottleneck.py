"""A summary of the source that must do by itself, now and then.

One token, linear in mean and standard deviation of the source's tokens, is added to each of them before the bridge. In
training the local tokens of some windows are dropped, all of them: then the target is rebuilt from its visible patches
and the summary alone, so what holds for the whole window (rate, shape) must be in the pooled tokens.

Which windows is drawn from torch's generator, which training seeds by (seed, step, rank), as for dropout.
Shapes: B batch, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xmae_dist.core.errors import ConfigError
from xmae_dist.model.readout import MEAN_STD


class Bottleneck(nn.Module):
    """``forward(source_BND) -> (B, N, D)``. Raises ConfigError for a share that is not below 1."""

    def __init__(self, width: int, local_drop: float) -> None:
        super().__init__()
        if not 0 <= local_drop < 1:
            raise ConfigError("local_drop", value=local_drop, expected="0 or more, and below 1")
        self.local_drop = local_drop
        self.summary = nn.Linear(2 * width, width)

    def forward(self, source_BND: Tensor) -> Tensor:
        """All local tokens are kept in evaluation mode."""
        summary_B1D = self.summary(MEAN_STD(source_BND))[:, None]
        if not self.training:
            return source_BND + summary_B1D
        kept_B11 = torch.rand(len(source_BND), 1, 1, device=source_BND.device) >= self.local_drop
        return source_BND * kept_B11 + summary_B1D
