"""A table of every preset: parameters, FLOPs per window, memory for weights and optimizer at each ZeRO stage.

    python bench/model_sizes.py --ranks 8 [--json FILE]

Counted on the meta device, so even `huge` needs no memory. FLOPs are those of the matrix products and convolutions of
one forward and backward pass (a multiplication and an addition are two). Memory is for float32 weights (4 bytes a
parameter), gradients (4) and AdamW's moments (8), per rank; at stages 1 to 3 DeepSpeed keeps a second copy of a rank's
share of the weights for its optimizer (4), in float32 too. Activations and gathered layers come on top. bench/zero3.py
holds the figures of stage 3 to a measurement.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Literal

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmae_dist.model import presets
from xmae_dist.train.config import EngineConfig
from xmae_dist.train.sizing.flops import flops_per_window
from xmae_dist.train.sizing.memory import state_need


def memory_bytes(parameters: int, stage: Literal[0, 1, 2, 3], ranks: int) -> float:
    """Weights, gradients, moments and the optimizer's copy of weights of one rank under ZeRO ``stage``."""
    return state_need(parameters, EngineConfig(zero_stage=stage), ranks).state


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here as well")
    args = parser.parse_args()
    ranks = args.ranks
    rows = []
    print(f"| preset | parameters | GFLOP per window | ZeRO 0 | ZeRO 1 | ZeRO 2 | ZeRO 3 | ({ranks} ranks)")
    print("|---|---|---|---|---|---|---|")
    for name in presets.NAMES:
        with torch.device("meta"):
            count = sum(weight.numel() for weight in presets.build(name).parameters())
        state = [memory_bytes(count, stage, ranks) for stage in (0, 1, 2, 3)]
        gflop = flops_per_window(presets.config(name)) / 1e9
        sizes = " | ".join(f"{size / 2**20:,.0f} MiB" for size in state)
        print(f"| {name} | {count:,} | {gflop:.3f} | {sizes} |")
        rows.append(
            {"preset": name, "parameters": count, "gflop_per_window": gflop, "ranks": ranks, "bytes_by_stage": state}
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
