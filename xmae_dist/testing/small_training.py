"""A small model with everything an engine must cope with, and engines for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from xmae_dist.train.engines.deepspeed import DeepSpeedEngine, ZeroConfig, divided
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.protocol import Engine, Saved, Slice
from xmae_dist.train.engines.torch import TorchEngine

GLOBAL_BATCH = 12
OPTIMIZER = OptimizerConfig(weight_decay=0.1, clip_norm=0.5)


class Toy(nn.Module):
    """Odd sizes (nothing divides evenly), a one-element vector, a frozen parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 13)
        self.norm = nn.LayerNorm(13)
        self.second = nn.Linear(13, 5)
        self.gain = nn.Parameter(torch.tensor([1.5]))
        self.position = nn.Parameter(torch.linspace(0, 1, 13), requires_grad=False)
        self.register_buffer("offset", torch.full((5,), 0.25))

    def forward(self, x_BF: torch.Tensor, y_BK: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.norm(self.first(x_BF)) + self.position)
        return ((self.gain * self.second(hidden) + self.offset - y_BK) ** 2).mean()


def toy(seed: int = 3) -> Toy:
    torch.manual_seed(seed)
    return Toy()


_ZERO = {
    "zero0": ZeroConfig(stage=0),
    "zero1": ZeroConfig(stage=1),
    "zero2": ZeroConfig(stage=2),
    "zero3": ZeroConfig(stage=3),
    "zero1 offloaded": ZeroConfig(stage=1, offload_optimizer=True),
    "zero2 offloaded": ZeroConfig(stage=2, offload_optimizer=True),
    "zero3 offloaded": ZeroConfig(stage=3, offload_optimizer=True, offload_parameters=True),
}
KINDS = ("torch", *_ZERO)
"""Engines, as `build` names them."""


def build(kind: str, rank: int, world: int, *, micro: int = 2, saved: Saved | None = None, **model: Any) -> Engine:
    """`kind` is one of `KINDS`."""
    accumulation = GLOBAL_BATCH // (world * micro)
    if kind == "torch":
        return TorchEngine(
            toy(**model), optimizer=OPTIMIZER, accumulation=accumulation, rank=rank, world=world, saved=saved
        )
    zero = _ZERO[kind]
    return DeepSpeedEngine(
        divided(lambda: toy(**model), zero) if zero.stage == 3 else toy(**model),
        zero=zero,
        optimizer=OPTIMIZER,
        micro_batch=micro,
        accumulation=accumulation,
        saved=saved,
    )


def train(
    engine: Engine, rank: int, world: int, first: int, last: int, *, micro: int = 2, poison: int | None = None
) -> list[float]:
    """Global losses of steps first … last−1; at step `poison` the last rank sees a NaN."""
    losses = []
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(GLOBAL_BATCH, 7, generator=generator)
        y = torch.sin(x[:, :5] * 2)
        share = slice(GLOBAL_BATCH * rank // world, GLOBAL_BATCH * (rank + 1) // world)
        if step == poison and rank == world - 1:
            x[share] = torch.nan
        parts = [
            engine.forward_backward(xs, ys) for xs, ys in zip(x[share].split(micro), y[share].split(micro), strict=True)
        ]
        engine.step(lr=0.01 / (1 + step / 20))
        total = torch.stack(parts).mean()
        if world > 1:
            torch.distributed.all_reduce(total)
        losses.append(float(total) / world)
    return losses


class Gathered:
    """`Saved` from the pieces of all ranks, held in memory."""

    def __init__(self, pieces: list[tuple[str, str, int, torch.Tensor]], sizes: dict[str, int], steps: int) -> None:
        self.optimizer_steps = steps
        self._full: dict[tuple[str, str], torch.Tensor] = {}
        self.covered: dict[tuple[str, str], int] = {}
        for kind, name, start, data in pieces:
            full = self._full.setdefault((kind, name), torch.full((sizes[name],), torch.nan))
            full[start : start + data.numel()] = data
            self.covered[kind, name] = self.covered.get((kind, name), 0) + data.numel()

    def parts(self, wanted: Sequence[Slice]) -> Iterator[torch.Tensor]:
        return (self.full(one.kind, one.name)[one.start : one.stop] for one in wanted)

    def full(self, kind: str, name: str) -> torch.Tensor:
        return self._full[kind, name]

    def items(self) -> dict[tuple[str, str], torch.Tensor]:
        return self._full


def gather(engine: Engine, world: int) -> Gathered:
    """The whole state of all ranks, on every rank."""
    mine = [(p.kind, p.name, p.start, p.data.clone()) for p in engine.pieces()]
    everyone: list[Any] = [mine]
    if world > 1:
        everyone = [None] * world
        torch.distributed.all_gather_object(everyone, mine)
    sizes = {name: int(torch.tensor(shape).prod()) for name, shape in engine.shapes().items()}
    return Gathered([p for part in everyone for p in part], sizes, engine.optimizer_steps)
