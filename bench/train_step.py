"""Windows per second of a training step and of embedding, for each preset, beside the published model.

Needs PyTorch and NumPy alone (no Ray), so it runs on a bare machine:

    python bench/train_step.py --device cuda --dtype bf16 --compile --peak-tflops 989
    python bench/train_step.py --presets published paper tiny --threads 2 --json FILE
    python bench/train_step.py --turns 20 --presets paper tiny --threads 1   # CPU: a step each, in turns, one process

The reference is always the `published` preset, eager, in float32: the straightforward path. FLOPs are counted by
PyTorch's own counter over one eager step (a multiplication and an addition are two).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmae_dist.model import presets
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.mask import masks


def main() -> int:
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.device == "cuda":
        if not torch.cuda.is_available():
            print("not run: no CUDA device here")
            return 0
        torch.set_float32_matmul_precision("high")
    if args.turns:
        print(json.dumps(in_turns(args)), flush=True)
        return 0
    reference = measure("published", args, eager_float32=True)
    rows = [_compared(reference, reference, args)]
    print(_line(rows[0]), flush=True)
    for name in args.presets:
        rows.append(_compared(measure(name, args), reference, args))
        print(_line(rows[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


def measure(name: str, args: argparse.Namespace, *, eager_float32: bool = False) -> dict[str, Any]:
    """Time `args.steps` training steps and as many embedding passes of a preset, after `args.warmup`."""
    torch.manual_seed(0)
    model = presets.build(name).to(args.device).train()
    batch = _batch(model, args)
    with FlopCounterMode(display=False) as counter:
        model(*batch).backward()
    model.zero_grad(set_to_none=True)
    fast = torch.compile(model) if args.compile and not eager_float32 else model
    cast: Callable[[], Any] = contextlib.nullcontext
    if args.dtype == "bf16" and not eager_float32:
        cast = lambda: torch.autocast(args.device, torch.bfloat16)  # noqa: E731
    # The reference takes what PyTorch gives when nothing is said; ours, as its engine, one kernel for all tensors.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=None if eager_float32 else True)

    def step() -> None:
        with cast():
            loss = fast(*batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def embed() -> None:
        with torch.inference_mode(), cast():
            model.embed(batch[0])

    train, train_cpu = _rate(step, args)
    model.eval()
    embedding, _ = _rate(embed, args)
    return {
        "preset": name,
        "form": "eager float32" if eager_float32 else f"{'compiled' if args.compile else 'eager'} {args.dtype}",
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "gflop_per_window": counter.get_total_flops() / args.batch / 1e9,
        "train_windows_per_s": train,
        "train_windows_per_cpu_s": train_cpu,
        "embed_windows_per_s": embedding,
    }


def in_turns(args: argparse.Namespace) -> dict[str, Any]:
    """Windows per CPU second of a training step of `published` and of each preset, a step each in turns; medians.

    Processes differ in speed, and a busy machine changes while one runs: in turns both do to all alike.
    """
    steps = {name: _training_step(name, args) for name in ("published", *args.presets)}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(args.turns + 1):
        for name, step in steps.items():
            began = _cpu_s()
            step()
            if turn:  # the first warms up
                found[name].append(args.batch / (_cpu_s() - began))
    rates = {name: float(np.median(of)) for name, of in found.items()}
    ratios = {name: round(rate / rates["published"], 3) for name, rate in rates.items()}
    return {"windows_per_cpu_s": {name: round(rate, 1) for name, rate in rates.items()}, "of_published": ratios}


def _training_step(name: str, args: argparse.Namespace) -> Callable[[], None]:
    torch.manual_seed(0)
    model = presets.build(name).to(args.device).train()
    batch = _batch(model, args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=None if name == "published" else True)

    def step() -> None:
        model(*batch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _batch(model: PretrainModel, args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    config = model.config
    generator = torch.Generator().manual_seed(0)
    ppg_BL, ecg_BL = torch.randn(2, args.batch, config.length, generator=generator).to(args.device)
    mask_BN = masks(0, 0, np.arange(args.batch), config.n_patches, config.mask_ratio, config.mask_mode)
    return ppg_BL, ecg_BL, torch.as_tensor(mask_BN, device=args.device)


def _rate(work: Callable[[], None], args: argparse.Namespace) -> tuple[float, float]:
    """Windows per second of wall time, and per second of this process's CPU time (fair on a busy machine)."""
    for _ in range(args.warmup):
        work()
    _wait(args.device)
    wall, cpu = time.perf_counter(), _cpu_s()
    for _ in range(args.steps):
        work()
    _wait(args.device)
    windows = args.steps * args.batch
    return windows / (time.perf_counter() - wall), windows / (_cpu_s() - cpu)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _compared(found: dict[str, Any], reference: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    clock = "train_windows_per_s" if args.device == "cuda" else "train_windows_per_cpu_s"
    ratio = found[clock] / reference[clock]
    share = found["gflop_per_window"] * found["train_windows_per_s"] / 1e3 / args.peak_tflops if args.peak_tflops else 0
    return found | {"ratio_to_published": ratio, "share_of_peak": share}


def _line(found: dict[str, Any]) -> str:
    peak = f"  {found['share_of_peak']:6.1%} of peak" if found["share_of_peak"] else ""
    return (
        f"{found['preset']:11s} {found['form']:15s} {found['parameters'] / 1e6:8.2f} M"
        f"  {found['gflop_per_window']:7.3f} GFLOP/window  train {found['train_windows_per_s']:9.1f}/s"
        f"  ({found['train_windows_per_cpu_s']:7.1f} per CPU s)  embed {found['embed_windows_per_s']:9.1f}/s"
        f"  {found['ratio_to_published']:5.2f} x published{peak}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["paper", "tiny"], choices=presets.NAMES)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--turns", type=int, default=0, help="steps of each preset in turns with published, no more")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="the chip's peak in this precision")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here as well")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
