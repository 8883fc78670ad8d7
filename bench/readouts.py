"""What readouts cost: windows that one encoder embeds in a second of CPU time, for each readout, in turns.

    python bench/readouts.py
    python bench/readouts.py --presets paper --threads 2 --turns 50

`mean_std` is the readout of bundles that name none, so the last column says what another one costs beside it. The
tokens alone are the encoder without any readout. The encoder is not trained: that changes no time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmae_dist.model import presets, readout
from xmae_dist.model.xmae import XMAE, XMAEConfig

_TOKENS = "tokens alone"


def main() -> int:
    args = _arguments()
    torch.set_num_threads(args.threads)
    rows = [row for name in args.presets for row in in_turns(name, args.batch, args.turns)]
    print(f"{'preset':<8} {'readout':<13} {'numbers':>8} {'windows/CPU s':>14} {'of mean_std':>12}")
    for row in rows:
        print(
            f"{row['preset']:<8} {row['readout']:<13} {row['numbers']:>8} {row['windows_per_cpu_s']:>14.1f} "
            f"{row['of_mean_std']:>12.3f}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


def in_turns(preset: str, batch: int, turns: int) -> list[dict[str, str | int | float]]:
    """A batch by each readout, again and again; rates are batch / median CPU time, ratios medians over turns."""
    config = presets.config(preset)
    assert isinstance(config, XMAEConfig), f"{preset}: its encoder has no choice of readout"
    torch.manual_seed(0)
    model = XMAE(config).eval()
    ppg_BL = torch.randn(batch, config.length)
    ways: dict[str, Callable[[Tensor], Tensor]] = {_TOKENS: model.tokens}
    ways |= {name: _reading(model, read) for name, read in readout.READOUTS.items() if read.parts}
    spent_s: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        numbers = {name: way(ppg_BL)[0].numel() for name, way in ways.items()}  # warms up, too
        for _ in range(turns):
            for name, way in ways.items():
                began_s = time.process_time()
                way(ppg_BL)
                spent_s[name].append(time.process_time() - began_s)
    usual_s = np.array(spent_s["mean_std"])
    return [
        {
            "preset": preset,
            "readout": name,
            "numbers": numbers[name],
            "windows_per_cpu_s": batch / float(np.median(spent)),
            "of_mean_std": float(np.median(usual_s / np.array(spent))),
        }
        for name, spent in spent_s.items()
    ]


def _reading(model: XMAE, read: readout.Readout) -> Callable[[Tensor], Tensor]:
    return lambda ppg_BL: read(model.tokens(ppg_BL))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["tiny", "paper"], help="whose encoders read PPG")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here as well")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
