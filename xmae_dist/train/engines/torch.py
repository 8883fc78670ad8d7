"""The reference engine: plain PyTorch, gradients averaged by one flat all-reduce.

Not `DistributedDataParallel`: DDP rebuilds its buckets after the first backward pass, which moves elements
between reduction chunks, so with three or more ranks a resumed run would sum in another order than the run it
continues. One flat buffer with a fixed layout costs the overlap of communication with the backward pass and
gives the same bits every time, which is what a reference is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from xmae_dist.train.engines.compiled import Compile, begin_micro_batch, compile_in_place
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.precision import Autocast, autocast, set_float32_products
from xmae_dist.train.engines.protocol import (
    MOMENTS,
    WEIGHT,
    Piece,
    Saved,
    StepOutcome,
    adamw,
    applied_steps,
    constant_tensors,
    load_replicated,
    skip_unless_finite,
    weights_of,
)
from xmae_dist.train.step.clock import Clock


class TorchEngine:
    """Data-parallel training of `module` on `world` ranks (1 needs no process group). See `engines.protocol.Engine`."""

    def __init__(
        self,
        module: nn.Module,
        *,
        optimizer: OptimizerConfig,
        accumulation: int,
        bf16: bool = False,
        compile: Compile = "no",
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        saved: Saved | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._device = torch.device(device)
        self._clock = clock or Clock(self._device)
        self._rank, self._world, self._accumulation, self._bf16 = rank, world, accumulation, bf16
        self._compile = compile
        set_float32_products(bf16=bf16)
        self._clip_norm = optimizer.clip_norm
        self._module = module.to(self._device)
        if saved is not None:
            load_replicated(weights_of(self._module), saved, rank=rank, world=world)
        compile_in_place(self._module, compile)
        self._computing = Autocast(self._module, self._device, bf16=bf16)
        self._named = [(n, p) for n, p in self._module.named_parameters() if p.requires_grad]
        self._flat_grad = self._own_gradients()
        self._optimizer = adamw(self._module, optimizer, self._device)
        if saved is not None:
            self._load_moments(saved)

    @property
    def optimizer_steps(self) -> int:
        return applied_steps(self._optimizer)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def module(self) -> nn.Module:
        return self._module

    def autocast(self) -> torch.autocast:
        return autocast(self._device, bf16=self._bf16)

    def forward_backward(self, *inputs: Any) -> torch.Tensor:
        begin_micro_batch(self._compile)
        loss = self._computing(*inputs)
        self._clock.mark("forward")
        (loss * (1.0 / self._accumulation)).backward()
        self._clock.mark("backward")
        return loss.detach()

    def step(self, lr: float) -> StepOutcome:
        if self._world > 1:
            dist.all_reduce(self._flat_grad)
            self._flat_grad /= self._world
        # The buffer is the same on all ranks by now, so all ranks decide alike without asking.
        norm = torch.linalg.vector_norm(self._flat_grad)
        if self._clip_norm:
            # In double precision, as plain Python would; 1 where nothing is to be clipped.
            scale = self._clip_norm / (norm.double() + 1e-6)
            self._flat_grad.mul_(torch.where(norm > self._clip_norm, scale, 1.0).float())
        skip_unless_finite(self._optimizer, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._flat_grad.zero_()
        return StepOutcome(torch.isfinite(norm), norm)

    def pieces(self) -> Iterator[Piece]:
        """Trained state in equal spans of the concatenation of all parameters, one span a rank."""
        total = sum(p.numel() for _, p in self._named)
        first, last = total * self._rank // self._world, total * (self._rank + 1) // self._world
        offset = 0
        for name, p in self._named:
            start, stop = max(first - offset, 0), min(last - offset, p.numel())
            offset += p.numel()
            if start < stop:
                state = self._optimizer.state[p]
                flats = {WEIGHT: p.detach(), **{kind: state[kind] for kind in MOMENTS if kind in state}}
                for kind, tensor in flats.items():
                    yield Piece(kind, name, start, tensor.reshape(-1)[start:stop])
        if self._rank == 0:
            for name, tensor in constant_tensors(self._module).items():
                yield Piece(WEIGHT, name, 0, tensor.detach().reshape(-1))

    def shapes(self) -> dict[str, list[int]]:
        return {name: list(t.shape) for name, t in self._module.state_dict().items()}

    def _own_gradients(self) -> torch.Tensor:
        total = sum(p.numel() for _, p in self._named)
        flat = torch.zeros(total, dtype=torch.float32, device=self._device)
        offset = 0
        for _, p in self._named:
            p.grad = flat[offset : offset + p.numel()].view_as(p)
            offset += p.numel()
        return flat

    def _load_moments(self, saved: Saved) -> None:
        if not saved.optimizer_steps:
            return
        for _, p in self._named:
            moments = {kind: torch.empty_like(p, requires_grad=False) for kind in MOMENTS}
            step = torch.tensor(float(saved.optimizer_steps), device=self._device)
            self._optimizer.state[p] = {"step": step, **moments}
        targets = [(kind, name, self._optimizer.state[p][kind]) for kind in MOMENTS for name, p in self._named]
        load_replicated(targets, saved, rank=self._rank, world=self._world)
