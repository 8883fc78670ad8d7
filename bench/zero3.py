"""Memory of each rank in a ZeRO-3 training step on 2 CPU workers, against the table of bench/model_sizes.py.

    python bench/zero3.py --preset large [--json FILE]
    python bench/zero3.py --preset huge --optimizer sgd --steps 1      # without moments, where 22 GB cannot be had

Each layer is divided among the ranks as soon as it is made, so no rank ever holds the whole model. What is reported is
the growth of a rank's own memory (anonymous pages) from after the imports to after the last step, when optimizer state
exists, and its peak. The C allocator is told to give back freed blocks of 1 MB and more at once
(MALLOC_MMAP_THRESHOLD_); left alone it keeps gathered layers of up to 32 MB for itself. A tiny batch (one window a
rank) keeps activations small; they are not in the prediction.
The run is refused where the machine has less memory than predicted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.model_sizes import memory_bytes
from xmae_dist.model import presets
from xmae_dist.model.mask import masks
from xmae_dist.testing.ranks import run_ranks
from xmae_dist.train.engines.deepspeed import DeepSpeedEngine, ZeroConfig, divided
from xmae_dist.train.engines.optimizer import OptimizerConfig

RANKS = 2
ZERO = ZeroConfig(stage=3, bucket_elements=20_000_000, live_elements=20_000_000)


def main() -> int:
    args = _arguments()
    overrides = dict(pair.split("=") for pair in args.override)
    overrides = {name: int(value) for name, value in overrides.items()}
    with torch.device("meta"):
        count = sum(weight.numel() for weight in presets.build(args.preset, **overrides).parameters())
    # Without moments, eight bytes a parameter less.
    predicted = memory_bytes(count, 3, RANKS) - (8 * count / RANKS if args.optimizer == "sgd" else 0)
    available = _kib("/proc/meminfo", "MemAvailable") * 1024
    if RANKS * predicted * 1.15 + 2**30 > available:
        why = f"not run: needs {RANKS * predicted * 1.15 / 2**30 + 1:.1f} GiB, {available / 2**30:.1f} GiB available"
        print(why)
        _write(args.json, [{"preset": args.preset, "not_run": why}])
        return 0
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"  # read when a rank's process starts
    with tempfile.TemporaryDirectory() as folder:
        ranks = run_ranks(RANKS, _steps, Path(folder), args.preset, overrides, args.optimizer, args.steps)
    rows = []
    for number, found in enumerate(ranks):
        row = {
            "preset": args.preset,
            **overrides,
            "optimizer": args.optimizer,
            "parameters": count,
            "rank": number,
            "predicted_gib": predicted / 2**30,
            "measured_gib": found["bytes"] / 2**30,
            "peak_gib": found["peak_bytes"] / 2**30,
            "ratio": found["bytes"] / predicted,
            "loss": found["loss"],
            "step_s": found["step_s"],
        }
        rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
        print(json.dumps(rows[-1]), flush=True)
    _write(args.json, rows)
    return 0


def _write(file: Path | None, rows: list[dict[str, Any]]) -> None:
    if file:
        file.write_text(json.dumps(rows, indent=1))


def _steps(rank: int, world: int, preset: str, overrides: dict[str, int], optimizer: str, steps: int) -> dict[str, Any]:
    """Some steps on this rank; its memory after them."""
    import xmae_dist.train.engines.uncompiled

    xmae_dist.train.engines.uncompiled.import_deepspeed(uncompiled=True)
    before, peak_before = _kib("/proc/self/status", "RssAnon"), _kib("/proc/self/status", "VmHWM")
    module = divided(lambda: presets.build(preset, **overrides), ZERO)
    if optimizer == "sgd":
        _without_moments()
    engine = DeepSpeedEngine(module, zero=ZERO, optimizer=OptimizerConfig(), micro_batch=1, accumulation=1)
    generator = torch.Generator().manual_seed(rank)
    config = module.config
    ppg_BL, ecg_BL = torch.randn(2, 1, config.length, generator=generator)
    mask_BN = torch.from_numpy(masks(0, 0, [rank], config.n_patches, config.mask_ratio, config.mask_mode))
    for _ in range(steps):
        started = time.monotonic()
        loss = engine.forward_backward(ppg_BL, ecg_BL, mask_BN)
        outcome = engine.step(lr=1e-5)
        took_s = time.monotonic() - started
    if not outcome.applied:
        raise RuntimeError(f"step not applied: gradient norm {outcome.grad_norm}")
    after, peak = _kib("/proc/self/status", "RssAnon"), _kib("/proc/self/status", "VmHWM")
    return {
        "bytes": (after - before) * 1024,
        "peak_bytes": (peak - peak_before) * 1024,
        "loss": float(loss),
        "step_s": took_s,
    }


def _without_moments() -> None:
    """The engine's optimizer becomes plain gradient descent: what fits where AdamW's moments do not."""
    from xmae_dist.train.engines import deepspeed as engine_deepspeed
    from xmae_dist.train.engines.protocol import parameter_groups

    engine_deepspeed.adamw = lambda module, config, device: torch.optim.SGD(  # type: ignore[assignment,return-value]
        [{"params": group["params"]} for group in parameter_groups(module, config)], lr=0.0
    )


def _kib(path: str, name: str) -> int:
    return next(int(line.split()[1]) for line in Path(path).read_text().splitlines() if line.startswith(name + ":"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base", choices=presets.NAMES)
    parser.add_argument("--optimizer", default="adamw", choices=["adamw", "sgd"])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--override", nargs="*", default=[], metavar="FIELD=N", help="e.g. ppg_depth=10")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here as well")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
