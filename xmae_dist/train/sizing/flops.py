"""FLOPs of a training step and of the device that does it. A multiplication and an addition are two."""

from __future__ import annotations

import time

import torch

from xmae_dist.model import kinds, presets
from xmae_dist.model.mask import masked_count
from xmae_dist.train.sizing import known

_SIDE = {"cpu": 512, "cuda": 8192}


def flops_per_window(config: presets.Config) -> int:
    """Matrix products and convolutions of one forward and backward pass."""
    kept = known.sizes_of(config)
    return count(config) if kept is None else kept.flops


def count(config: presets.Config) -> int:
    """The same, counted without memory. Two windows, halved, as a contrastive loss needs two."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = kinds.from_config(config)
        signal_BL = torch.zeros(2, config.length)
        mask_BN = torch.zeros(2, config.n_patches, dtype=torch.bool)
        visible = config.n_patches - masked_count(config.n_patches, config.mask_ratio)
        visible_BV = torch.arange(visible).expand(2, -1)
    silence_BL = torch.zeros(2, config.length)
    measured_BK = model.measured(silence_BL, silence_BL)
    measured_BK = None if measured_BK is None else measured_BK.to("meta")
    with FlopCounterMode(display=False) as counter:
        model(signal_BL, signal_BL, mask_BN, visible_BV, None, measured_BK).backward()
    return counter.get_total_flops() // 2


def measured_peak_flops(device: torch.device, *, bf16: bool, seconds: float = 0.1) -> float:
    """FLOPs a second of the best of several large square matrix products, in the precision of training.

    What a chip's data sheet promises is more; give that as `--resources.peak-tflops` to be compared with it.
    """
    side = _SIDE["cuda" if device.type == "cuda" else "cpu"]
    left = torch.ones(side, side, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    torch.mm(left, left)
    took_s: list[float] = []
    until = time.perf_counter() + seconds
    while not took_s or time.perf_counter() < until:  # once at least, however busy the machine is
        _wait(device)
        started = time.perf_counter()
        torch.mm(left, left)
        _wait(device)
        took_s.append(time.perf_counter() - started)
    return 2 * side**3 / min(took_s)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
