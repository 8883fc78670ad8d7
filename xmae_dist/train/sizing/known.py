"""What the presets cost, counted once and kept in `known.json`.

Counting is quick, but makes PyTorch import its compiler and SymPy, 800 modules: 2.5 s of CPU at the start of every run.
Any other model is counted when it is needed. `python -m xmae_dist.train.sizing.recount` counts the presets anew, and a
test compares.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmae_dist.core.fingerprint import digest_json
from xmae_dist.model import kinds, presets

FILE = Path(__file__).with_name("known.json")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a model, a window at a time."""

    flops: int
    """Of a forward and a backward pass."""
    parameters: int
    activation_bytes: int
    """Kept for the backward pass, in float32."""
    bf16_activation_bytes: int


def sizes_of(config: presets.Config) -> Sizes | None:
    """None for a model that is not kept."""
    found = _kept().get(key(config))
    return None if found is None else Sizes(**found)


@functools.cache
def _kept() -> dict[str, dict[str, Any]]:
    kept: dict[str, dict[str, Any]] = json.loads(FILE.read_text())
    return kept


def key(config: presets.Config) -> str:
    """Of a model in `known.json`."""
    return digest_json(kinds.to_dict(config))
