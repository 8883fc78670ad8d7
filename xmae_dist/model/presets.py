"""Named models: the published one, the corrected one, sizes, and the controls that keep claims honest.

``build("paper", width=384)`` takes a preset and overrides of its fields. A configuration alone rebuilds its model
(`kinds.from_config`), which is what a bundle stores.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from xmae_dist.core.errors import ConfigError
from xmae_dist.model import kinds
from xmae_dist.model.baselines import ContrastiveConfig
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.published import PublishedConfig
from xmae_dist.model.xmae import XMAEConfig

Config = PublishedConfig | XMAEConfig

PAPER = XMAEConfig()
TINY = XMAEConfig(width=64, heads=4, ppg_depth=1, ecg_depth=1, decoder_depth=2)
BASE = XMAEConfig(width=512, heads=8, expansion=4, ppg_depth=8, ecg_depth=4, decoder_depth=4)
LARGE = XMAEConfig(width=1024, heads=16, expansion=4, ppg_depth=16, ecg_depth=4, decoder_depth=6)
HUGE = XMAEConfig(width=2048, heads=16, expansion=4, ppg_depth=10, ecg_depth=4, decoder_depth=6)

BEAT_WEIGHT = 0.03
"""Of the auxiliary heads in the presets that have them. At 0.1 arrival times were known worse (docs/model.md)."""

PRESETS: dict[str, Config] = {
    "published": PublishedConfig(),
    "paper": PAPER,
    "tiny": TINY,
    "base": BASE,
    "large": LARGE,
    "huge": HUGE,
    "ppg_mae_50": dataclasses.replace(PAPER, objective="ppg_mae", mask_ratio=0.5, mask_mode="scatter"),
    "ppg_mae_75": dataclasses.replace(PAPER, objective="ppg_mae", mask_ratio=0.75, mask_mode="scatter"),
    "ecg_mae_80": dataclasses.replace(PAPER, objective="ecg_mae", mask_ratio=0.8, mask_mode="scatter"),
    "joint": dataclasses.replace(PAPER, objective="joint", mirrored_lags=True),
    "reversed": dataclasses.replace(PAPER, objective="reversed", mirrored_lags=True),
    "symmetric": dataclasses.replace(PAPER, objective="symmetric", mirrored_lags=True),
    "clip": ContrastiveConfig(),
    "random": PAPER,
    "tiny_beats": dataclasses.replace(TINY, beat_weight=BEAT_WEIGHT),
    "paper_beats": dataclasses.replace(PAPER, beat_weight=BEAT_WEIGHT),
    "clip_beats": ContrastiveConfig(beat_weight=BEAT_WEIGHT),
}
NAMES = tuple(PRESETS)

PEAK_LR: dict[str, float] = {
    **dict.fromkeys(PRESETS, 1e-3),
    "published": 3e-4,
    **dict.fromkeys(("tiny", "tiny_beats"), 2e-3),
    "base": 6e-4,
    "large": 3e-4,
    "huge": 1.5e-4,
}
"""Learning rate to begin with. That of `tiny` and `paper` was measured (docs/model.md): 2e-3 is too high for `paper`.
That of `published` is its authors'; those of the larger sizes follow the width and were not measured."""


def config(name: str, **overrides: Any) -> Config:
    """The configuration of a preset with some fields replaced; ConfigError for an unknown name or field."""
    if name not in PRESETS:
        raise ConfigError("model preset", value=name, expected=" | ".join(NAMES))
    fields = {field.name for field in dataclasses.fields(PRESETS[name])}
    unknown = sorted(set(overrides) - fields)
    if unknown:
        raise ConfigError(f"option of preset {name}", value=", ".join(unknown), expected=" | ".join(sorted(fields)))
    return dataclasses.replace(PRESETS[name], **overrides)


def build(name: str, **overrides: Any) -> PretrainModel:
    """A freshly initialised model of a preset, with some fields of its configuration replaced."""
    return kinds.from_config(config(name, **overrides))
