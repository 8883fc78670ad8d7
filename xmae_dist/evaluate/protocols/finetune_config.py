"""Settings of fine-tuning, apart from it: a plan needs them and not torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How long and how fast the encoder moves."""

    epochs: int = 3
    batch: int = 64
    lr: float = 1e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.05
    max_windows: int = 20
    """Windows of a person (or of a recording, where that is the unit), evenly spaced."""
