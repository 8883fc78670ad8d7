"""What the optimizer is; apart from the engines so that a command line can be read without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, as MAE uses it; the learning rate itself comes from the schedule, step by step."""

    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.05
    """Decoupled weight decay; matrices only, never biases, norms or single vectors."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
