"""What training, evaluation and embedding ask of any model, whichever preset it is.

Shapes: B batch, L samples, N patches, V visible patches, E embedding width, S terms of the loss, K numbers measured on
a pair. Masks are boolean, True where a patch is masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from xmae_dist.core.errors import ConfigError
from xmae_dist.model.loss import Errors
from xmae_dist.model.readout import HEAD, MEAN_STD, Readout


class ModelConfig(Protocol):
    """Fields that every model configuration, a frozen dataclass, has."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def length(self) -> int:
        """Samples per window."""

    @property
    def n_patches(self) -> int:
        """Patches per window: the width of a mask."""

    @property
    def width(self) -> int:
        """Features of a token."""

    @property
    def mask_ratio(self) -> float:
        """Share of patches that pretraining masks, unless a schedule says otherwise."""

    @property
    def mask_mode(self) -> str:
        """See `xmae_dist.model.mask`."""


class PretrainModel(nn.Module):
    """A model that can be pretrained on pairs and then embeds one of the two signals."""

    config: ModelConfig
    errors: Mapping[str, Errors] = MappingProxyType({})
    """What each window had to do with the loss of the last `forward`, by signal; none where it has no such parts."""
    readout: Readout = MEAN_STD
    """From tokens over time to an embedding; see `read_by`."""

    @property
    def reconstructs(self) -> str | None:
        """The signal that `reconstruct` gives, ``ecg`` or ``ppg``; None where the model reconstructs nothing."""
        return "ecg"

    @property
    def embeds(self) -> str:
        """The signal that `embed` takes, ``ppg`` or ``ecg``."""
        return "ppg"

    def forward(
        self,
        ppg_BL: Tensor,
        ecg_BL: Tensor,
        mask_BN: Tensor,
        visible_BV: Tensor | None = None,
        over_S: Tensor | None = None,
        measured_BK: Tensor | None = None,
    ) -> Tensor:
        """The scalar loss: a weighted sum of its S terms, each a sum over the batch divided by how much it is over.

        ``visible_BV`` (see `xmae_dist.model.patch.visible_indices`) spares an accelerator the wait in which the
        visible patches are read off the mask, and keeps a compiled graph whole; it changes no result. ``over_S`` is
        what the sums are divided by in place of `counts` of this batch: where a batch is one of K micro-batches, a
        Kth of what all of them count, so that the mean of their losses does not depend on how windows are cut.
        ``measured_BK`` is what `measured` gave for these windows; it is worked out here where it is not given.
        """
        raise NotImplementedError

    def measured(self, ppg_BL: Tensor, ecg_BL: Tensor) -> Tensor | None:
        """What the model learns to predict of a pair beside the signals themselves, (B, K), NaN where it is not known.

        Worked out on the host, before a device has the windows. None where the model learns no such thing.
        """
        return None

    def counts(self, ppg_BL: Tensor, ecg_BL: Tensor, mask_BN: Tensor, measured_BK: Tensor | None = None) -> Tensor:
        """How much each term of the loss is a sum over in this batch, (S,): here, windows."""
        return torch.tensor([len(mask_BN)])

    def reconstruct(self, ppg_BL: Tensor, ecg_BL: Tensor, mask_BN: Tensor, visible_BV: Tensor | None = None) -> Tensor:
        """The whole of the `reconstructs` signal, (B, L)."""
        raise NotImplementedError

    def tokens(self, signal_BL: Tensor) -> Tensor:
        """What the kept encoder makes of the whole `embeds` signal: tokens over time, (B, N, D)."""
        raise NotImplementedError

    def embed(self, ppg_BL: Tensor) -> Tensor:
        """Embeddings, (B, E), of the `embeds` signal: its tokens by `readout`."""
        return self.readout(self.tokens(ppg_BL))

    def read_by(self, readout: Readout) -> Self:
        """This model, which from now on embeds by `readout`. Raises ConfigError for a head that it does not have."""
        if readout is HEAD and type(self).readout is not HEAD:
            raise ConfigError("readout", value="head", expected="a model with an embedding head of its own")
        self.readout = readout
        return self

    @property
    def embedding_width(self) -> int:
        """Numbers per embedding, E."""
        return self.readout(torch.zeros(1, self.config.n_patches, self.config.width)).shape[1]
