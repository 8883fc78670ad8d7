"""Configuration of an xMAE encoder for the transformers library. This file leaves with the weights."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class XMAEEncoderConfig(PretrainedConfig):
    """`encoder`: sizes of the encoder; `readout`: how tokens become `pooler_output`; `about`: windows and origin."""

    model_type = "xmae-encoder"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        readout: str = "mean_std",
        about: dict[str, Any] | None = None,
        **rest: Any,
    ) -> None:
        self.encoder = dict(encoder or {})
        self.readout = readout
        self.about = dict(about or {})
        self.hidden_size = self.encoder.get("width")
        super().__init__(**rest)
