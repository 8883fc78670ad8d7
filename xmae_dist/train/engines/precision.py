"""In which types a model computes: what is asked for, what a device is good at, and where bfloat16 begins.

Parameters, gradients and moments are float32 always. bfloat16 is an autocast of the forward pass, opened inside the
module that an engine calls and not around the engine (docs/adr/0019-autocast-inside-the-module.md).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

Precision = Literal["auto", "fp32", "bf16"]


def computes_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether a model on this device computes in bfloat16."""
    return precision == "bf16" or (precision == "auto" and bf16_is_fast(device))


def bf16_is_fast(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 in hardware; where it does not, it is many times slower than float32.

    PyTorch emulates it on older GPUs and calls it supported unless told not to count that.
    """
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def set_float32_products(*, bf16: bool) -> None:
    """How float32 matrix products and convolutions are made on GPUs: beside bfloat16 by TF32, else in full."""
    # Not `fp32_precision` of `torch.backends`: PyTorch's compiler still asks for these, and refuses a mixture.
    torch.set_float32_matmul_precision("high" if bf16 else "highest")
    torch.backends.cudnn.allow_tf32 = bf16


def autocast(device: torch.device, *, bf16: bool) -> torch.autocast:
    """The context in which a module computes, in training and in validation."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def be_deterministic() -> None:
    """Asks PyTorch for the same bits from the same numbers on a GPU, at a cost in speed, and for an error from any
    operation that cannot give them. Of the whole process; its environment must have
    that of `EngineConfig`.
    """
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


class Autocast(nn.Module):
    """A module whose forward pass opens its autocast itself, whatever surrounds the call."""

    def __init__(self, module: nn.Module, device: torch.device, *, bf16: bool) -> None:
        super().__init__()
        self.module, self._device, self._bf16 = module, device, bf16

    def forward(self, *inputs: Any) -> Any:
        with autocast(self._device, bf16=self._bf16):
            return self.module(*inputs)
