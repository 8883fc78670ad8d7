"""What a training engine is: the one protocol that plain torch and DeepSpeed both answer to.

The loop knows nothing of ZeRO. An engine takes a global step apart into micro-batches, applies one optimizer
step that is skipped on every rank if any rank's gradient is not finite, and describes its own share of the
training state as `Piece`s: flat slices of named tensors. Slices, not partitions, are what a checkpoint holds,
so that any engine at any stage and world size can read what any other wrote.

Shapes: no batch shapes appear here; `inputs` are whatever the module's `forward` takes, and it returns a loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import nn

from xmae_dist.train.engines import uncompiled
from xmae_dist.train.engines.optimizer import OptimizerConfig

WEIGHT = "weight"
EXP_AVG = "exp_avg"
EXP_AVG_SQ = "exp_avg_sq"
MOMENTS = (EXP_AVG, EXP_AVG_SQ)


@dataclass(frozen=True)
class StepOutcome:
    """What one optimizer step did, 0-dim and the same on every rank.

    Tensors on the device, so that the step need not be waited for to be told.
    """

    applied: torch.Tensor
    """1 where the step was made, 0 where it was skipped for a gradient that is not finite."""
    grad_norm: torch.Tensor


@dataclass(frozen=True)
class Piece:
    """Elements `start … start + data.numel()` of the flattened tensor `name`, of one `kind`; `data` is 1-D."""

    kind: str
    name: str
    start: int
    data: torch.Tensor


class Slice(NamedTuple):
    """Elements `start … stop` of the flattened tensor `name`, of one `kind`."""

    kind: str
    name: str
    start: int
    stop: int


class Saved(Protocol):
    """A saved state that an engine loads from (a checkpoint, or another engine in a test).

    Where ranks load together `parts` is collective: each of them calls it, with what it wants itself, and takes all
    parts (until there is none) before any other collective.
    """

    @property
    def optimizer_steps(self) -> int: ...

    def parts(self, wanted: Sequence[Slice]) -> Iterator[torch.Tensor]:
        """Each of these slices, 1-D on the CPU, in this order: all at once, so that they can be fetched together."""
        ...


class Engine(Protocol):
    """A model under training. Calls are collective: every rank makes the same ones in the same order."""

    @property
    def optimizer_steps(self) -> int:
        """How many optimizer steps were applied (skipped ones do not count). Waits for the device."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def module(self) -> nn.Module:
        """The module to call without gradients (validation); under ZeRO-3 calling it is collective."""
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of training, for calls of `module` that are not this engine's (validation)."""
        ...

    def forward_backward(self, *inputs: Any) -> torch.Tensor:
        """One micro-batch: returns its loss (detached, 0-dim) and accumulates its gradient.

        All ranks run equally many micro-batches a step, and each counts the same.
        """
        ...

    def step(self, lr: float) -> StepOutcome:
        """Averages gradients over micro-batches and ranks, checks, clips, and steps; then clears them.

        Queues work on a device without waiting for it, but for what DeepSpeed's ZeRO stages read to decide on a skip.
        """
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


def skip_unless_finite(optimizer: torch.optim.Optimizer, norm: torch.Tensor) -> None:
    """Makes the next step of a fused AdamW none, on its device, where the gradients' norm is not finite."""
    # What `torch.amp.GradScaler` tells a fused optimizer: the kernel then touches neither weights, moments nor steps.
    optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]


def applied_steps(optimizer: torch.optim.Optimizer) -> int:
    """How many steps an AdamW has made, skipped ones not counted. Waits for the device."""
    return next((int(state["step"]) for state in optimizer.state.values()), 0)


Target = tuple[str, str, torch.Tensor]
"""Kind, name and tensor of a state that is to be filled."""


def weights_of(module: nn.Module) -> list[Target]:
    """Parameters and persistent buffers."""
    return [(WEIGHT, name, tensor) for name, tensor in module.state_dict(keep_vars=True).items()]


def load_replicated(targets: Sequence[Target], saved: Saved, *, rank: int = 0, world: int = 1) -> None:
    """Fills tensors that every rank holds whole: each rank reads its share of all elements, and tells it the others.

    Collective with more ranks than one; the tensors are then where the process group can send them from.
    """
    owned = _owned([(kind, name, tensor.numel()) for kind, name, tensor in targets], world)
    shares = [(owner, targets[place][2].view(-1)[one.start : one.stop]) for owner, place, one in owned]
    mine = [share for owner, share in shares if owner == rank]
    with torch.no_grad():
        for share, part in zip(mine, saved.parts([one for owner, _, one in owned if owner == rank]), strict=True):
            share.copy_(part)
        if world > 1:
            for owner, share in shares:
                dist.broadcast(share, owner)


def _owned(sizes: Sequence[tuple[str, str, int]], world: int) -> list[tuple[int, int, Slice]]:
    """(rank, place in `sizes`, slice) of equal spans of the concatenation of all, one span a rank."""
    total, offset, owned = sum(size for _, _, size in sizes), 0, []
    for place, (kind, name, size) in enumerate(sizes):
        for owner in range(offset * world // max(total, 1), world):
            first, last = total * owner // world - offset, total * (owner + 1) // world - offset
            if first >= size:
                break
            start, stop = max(first, 0), min(last, size)
            if start < stop:
                owned.append((owner, place, Slice(kind, name, start, stop)))
        offset += size
    return owned


def constant_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """What `state_dict` holds beside trained parameters: buffers and frozen parameters (rank 0 saves them)."""
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    return {name: t for name, t in module.state_dict(keep_vars=True).items() if name not in trained}
