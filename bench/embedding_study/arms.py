"""What is compared: trained arms of one size, some of them in a larger one, arms that need no training, and two put
together.

An arm with heads is told more than one without (`xmae_dist.model.beat_heads`), so each objective has both.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from xmae_dist.model import presets
from xmae_dist.model.xmae import XMAEConfig

_TINY = {"width": 64, "heads": 4, "ppg_depth": 1, "ecg_depth": 1, "decoder_depth": 2}


@dataclass(frozen=True)
class Arm:
    """A trained arm: its model, and whose learning rate it takes."""

    config: XMAEConfig
    family: str
    about: str
    latent: bool = False
    """Whether targets are an averaged teacher's tokens (`latent_targets`)."""


def _preset(name: str, **size: int) -> XMAEConfig:
    config = presets.config(name, **size)
    assert isinstance(config, XMAEConfig)
    return config


TRAINED: dict[str, Arm] = {
    "cross": Arm(_preset("tiny", **_TINY), "cross", "masked ECG from PPG"),
    "cross_beats": Arm(_preset("tiny_beats", **_TINY), "cross", "masked ECG from PPG, with auxiliary heads"),
    "ppg_autoencoder": Arm(_preset("ppg_mae_75", **_TINY), "ppg_autoencoder", "masked PPG from PPG, 75 %"),
    "contrastive": Arm(_preset("clip", **_TINY), "contrastive", "PPG against ECG"),
    "contrastive_beats": Arm(_preset("clip_beats", **_TINY), "contrastive", "PPG against ECG, with auxiliary heads"),
    "cross_agreement": Arm(
        dataclasses.replace(_preset("tiny", **_TINY), agreement_weight=0.03),
        "cross",
        "cross, with variance-invariance-covariance",
    ),
    "cross_bottleneck": Arm(
        dataclasses.replace(_preset("tiny", **_TINY), local_drop=0.3),
        "cross",
        "cross, three of ten windows read by a summary alone",
    ),
    "cross_latent": Arm(
        _preset("tiny", **_TINY),
        "cross",
        "tokens of an averaged teacher from PPG, raw ECG at a tenth of the weight",
        latent=True,
    ),
}
"""In the order in which they are trained."""
PAPER_SIZE = {f"{name}, paper size": name for name in ("cross_beats", "cross", "contrastive_beats")}
"""Arms again with the width and depth of `paper`; after all seeds of the small ones."""
_PAPER_FAMILIES = {"cross": "cross, paper size", "contrastive": "contrastive_beats, paper size"}
TRAINED |= {
    sized: Arm(
        _preset({"cross": "paper", "cross_beats": "paper_beats", "contrastive_beats": "clip_beats"}[name]),
        _PAPER_FAMILIES[TRAINED[name].family],
        f"{TRAINED[name].about}, in the size of `paper`",
    )
    for sized, name in PAPER_SIZE.items()
}
RATES: dict[str, tuple[float, ...]] = {
    "cross": (1e-3, 2e-3, 4e-3, 8e-3, 16e-3),
    "ppg_autoencoder": (1e-3, 2e-3, 4e-3, 8e-3, 16e-3),
    "contrastive": (3e-4, 1e-3, 3e-3, 1e-2),
    "cross, paper size": (1e-3, 2e-3, 4e-3),
    "contrastive_beats, paper size": (1e-3, 2e-3, 4e-3),
}
"""To choose from, in rising order. The arm of a family's own name is trained for it.

Where the largest was the best, a larger one was added.
"""
FIRST_RATE = {
    "cross": 2e-3,
    "ppg_autoencoder": 2e-3,
    "contrastive": 1e-3,
    **dict.fromkeys(_PAPER_FAMILIES.values(), 1e-3),
}
"""What arms are trained at before any is chosen. In the size of `paper` the better of two on real recordings
(docs/model.md).
"""
RANDOM_PAPER_SIZE = "random, paper size"
RANDOM = {
    "random": Arm(_preset("tiny", **_TINY), "", "never trained, same readout"),
    RANDOM_PAPER_SIZE: Arm(_preset("paper"), "", "never trained, in the size of `paper`"),
}
UNTRAINED = {
    **{name: arm.about for name, arm in RANDOM.items()},
    "features": "rate + morphology of the pulse",
    "constant": "no input at all: the column chance",
    "latent": "a ceiling, the simulator's own state",
    "noiseless": "a ceiling, features and a random encoder of the pulse before any device",
}
CEILINGS = ("latent", "noiseless")
LARGER = (*PAPER_SIZE, RANDOM_PAPER_SIZE)
SEEDLESS = ("features", "constant", *CEILINGS)
"""What no seed changes."""
TOGETHER = {"features + cross_beats": "cross_beats", "features + cross": "cross", "features + random": "random"}
"""Features beside an embedding."""
ATTENTIVE = {f"{name}, attentive": name for name in ("cross_beats", "cross", "contrastive_beats", "random")}
"""An encoder whose readout is learned in the probe (`attentive`), on tasks of rhythm and timing alone; first seed."""
NAMES = (*UNTRAINED, *TRAINED, *TOGETHER, *ATTENTIVE)


def fitted(arm: Arm, length: int, rate_hz: float) -> XMAEConfig:
    """The arm's configuration for windows of this form."""
    return dataclasses.replace(arm.config, length=length, rate_hz=rate_hz)
