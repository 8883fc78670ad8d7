"""An xMAE encoder for the transformers library. This file leaves with the weights.

Shapes: B batch, C channels, L samples, N tokens, D width, E embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from xmae_dist.model.blocks import rotation_table
from xmae_dist.model.encoder import SignalEncoder, channelled, filled
from xmae_dist.model.hub.configuration_xmae import XMAEEncoderConfig
from xmae_dist.model.readout import named


class XMAEEncoderModel(PreTrainedModel):
    """``model(signal)`` gives `last_hidden_state` (B, N, D) and `pooler_output` (B, E).

    `signal` is float32 (B, L), or (B, C, L) where it has several channels, prepared as `config.about["window_spec"]`
    says; missing samples are NaN.
    """

    config_class = XMAEEncoderConfig
    base_model_prefix = "xmae"
    main_input_name = "signal"

    def __init__(self, config: XMAEEncoderConfig) -> None:
        super().__init__(config)
        self.encoder = SignalEncoder(**config.encoder)
        self.readout = named(config.readout)
        self.post_init()

    def forward(self, signal: Tensor) -> BaseModelOutputWithPooling:
        tokens_BND = self.encoder(filled(channelled(signal)))
        return BaseModelOutputWithPooling(last_hidden_state=tokens_BND, pooler_output=self.readout(tokens_BND))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Weights come from the file; what no file holds, tables of rotations, is worked out again."""
        if isinstance(module, SignalEncoder):
            sizes = self.config.encoder
            tables = rotation_table(torch.arange(sizes["n_patches"]), sizes["width"] // sizes["heads"])
            for buffer, table in zip((module.cos, module.sin), tables, strict=True):
                buffer.copy_(table)
