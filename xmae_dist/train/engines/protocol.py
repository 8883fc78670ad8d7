"""What a training engine is: the one protocol that plain torch and DeepSpeed both answer to.

The loop knows nothing of ZeRO. An engine takes a global step apart into micro-batches, applies one optimizer
step that is skipped on every rank if any rank's gradient is not finite, and describes its own share of the
training state as `Piece`s: flat slices of named tensors. Slices, not partitions, are what a checkpoint holds,
so that any engine at any stage and world size can read what any other wrote.

Shapes: no batch shapes appear here; `inputs` are whatever the module's `forward` takes, and it returns a loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from xmae_dist.train.engines import uncompiled
from xmae_dist.train.engines.optimizer import OptimizerConfig

WEIGHT = "weight"
EXP_AVG = "exp_avg"
EXP_AVG_SQ = "exp_avg_sq"
MOMENTS = (EXP_AVG, EXP_AVG_SQ)


@dataclass(frozen=True)
class StepOutcome:
    """What one optimizer step did: the same on every rank."""

    applied: bool
    grad_norm: float


@dataclass(frozen=True)
class Piece:
    """Elements `start … start + data.numel()` of the flattened tensor `name`, of one `kind`; `data` is 1-D."""

    kind: str
    name: str
    start: int
    data: torch.Tensor


class Saved(Protocol):
    """A saved state that an engine loads from (a checkpoint, or another engine in a test)."""

    @property
    def optimizer_steps(self) -> int: ...

    def full(self, kind: str, name: str) -> torch.Tensor:
        """The whole flattened tensor `name` of `kind`, float32 on the CPU."""
        ...


class Engine(Protocol):
    """A model under training. Calls are collective: every rank makes the same ones in the same order."""

    @property
    def optimizer_steps(self) -> int:
        """How many optimizer steps were applied (skipped ones do not count)."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def module(self) -> nn.Module:
        """The module to call without gradients (validation); under ZeRO-3 calling it is collective."""
        ...

    def forward_backward(self, *inputs: Any, weight: float = 1.0) -> torch.Tensor:
        """One micro-batch: returns its loss (detached, 0-dim) and accumulates `weight` times its gradient.

        All ranks run equally many micro-batches a step; `weight` evens out those of unequal size.
        """
        ...

    def step(self, lr: float) -> StepOutcome:
        """Averages gradients over micro-batches and ranks, checks, clips, and steps; then clears them."""
        ...

    def pieces(self) -> Iterator[Piece]:
        """This rank's share of the state; over all ranks every element of every kind occurs exactly once."""
        ...

    def shapes(self) -> dict[str, list[int]]:
        """Shape of every tensor that `pieces` names, the same on every rank."""
        ...


def parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Two AdamW groups: matrices decay, vectors and scalars (biases, norms, tokens) do not."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    # DeepSpeed flattens a parameter that it divides, and notes its shape.
    matrix = {id(p): len(getattr(p, "ds_shape", p.shape)) >= 2 for p in trainable}
    groups = [
        {"params": [p for p in trainable if matrix[id(p)]], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if not matrix[id(p)]], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(module: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.AdamW:
    """The optimizer both engines use; its learning rate is set before each step."""
    kind = uncompiled.AdamW if device.type == "cpu" else torch.optim.AdamW
    return kind(
        parameter_groups(module, config),
        lr=0.0,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        # One kernel for all tensors; on the CPU it is also several times faster than the Python loop.
        fused=device.type in ("cpu", "cuda"),
    )


def load_weights(module: nn.Module, saved: Saved) -> None:
    """Fills parameters and persistent buffers of `module` from `saved`, before an engine wraps it."""
    with torch.no_grad():
        for name, tensor in module.state_dict(keep_vars=True).items():
            tensor.copy_(saved.full(WEIGHT, name).view(tensor.shape))


def constant_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """What `state_dict` holds beside trained parameters: buffers and frozen parameters (rank 0 saves them)."""
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    return {name: t for name, t in module.state_dict(keep_vars=True).items() if name not in trained}


def bf16_is_fast(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 in hardware; CPUs without AMX are hundreds of times slower."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported()
