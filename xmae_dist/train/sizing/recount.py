"""Counts the presets anew: `python -m xmae_dist.train.sizing.recount` writes `known.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from xmae_dist.model import presets
from xmae_dist.train.sizing import flops, known, memory


def count_presets(names: Iterable[str] = presets.NAMES) -> dict[str, dict[str, int]]:
    """The content of `known.json`."""
    found = {}
    for config in (presets.config(name) for name in names):
        held = memory.count(config, fused=False)
        found[known.key(config)] = asdict(known.Sizes(flops=flops.count(config), **asdict(held)))
    return found


if __name__ == "__main__":
    known.FILE.write_text(json.dumps(count_presets(), indent=1) + "\n")
