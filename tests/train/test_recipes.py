"""The arithmetic of the recipes: batches at every world size, memory below the card's, pages up to date."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest

from xmae_dist.recipes import recipe
from xmae_dist.train.config import EngineConfig, PretrainConfig, model_config
from xmae_dist.train.sizing.flops import flops_per_window
from xmae_dist.train.sizing.memory import Counted, count, state_need
from xmae_dist.train.sizing.traffic import sent_bytes

GPU_RECIPES = ("paper_h100x1", "base_h100x8", "large_h100x64_spot")
CARD_BYTES = 80 * 2**30
DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "scaling.md"


def worlds(config: PretrainConfig) -> range:
    return range(config.train.min_workers or config.train.workers, config.train.workers + 1)


@cache
def counted(name: str) -> Counted:
    return count(model_config(recipe(name)), fused=True)


@pytest.mark.parametrize("name", GPU_RECIPES)
def test_at_every_world_size_the_batch_is_whole_and_micro_batches_fit(name: str) -> None:
    config = recipe(name)
    batch, micro = config.train.global_batch, config.train.micro_batch
    for world in worlds(config):
        shares = [batch * (rank + 1) // world - batch * rank // world for rank in range(world)]
        assert sum(shares) == batch and max(shares) - min(shares) <= 1
        accumulation = config.accumulation(world)
        assert -(-max(shares) // accumulation) <= micro and min(shares) >= accumulation


@pytest.mark.parametrize("name", GPU_RECIPES)
def test_memory_predicted_at_the_fewest_workers_leaves_half_of_the_card(name: str) -> None:
    """Half for what is not predicted: buffers, the allocator's slack; and a copy of the weights to validate with."""
    config = recipe(name)
    need = counted(name).need(config).device + 4 * counted(name).parameters
    assert need < CARD_BYTES / 2


def test_traffic_follows_the_stages() -> None:
    def sent(stage: int, accumulation: int = 1) -> float:
        return sent_bytes(1000, EngineConfig(zero_stage=stage), 4, accumulation)  # type: ignore[arg-type]

    assert [sent(stage) for stage in range(4)] == [6000, 6000, 6000, 9000]
    assert [sent(stage, 8) for stage in range(4)] == [6000, 6000, 27_000, 72_000]
    assert sent_bytes(1000, EngineConfig(kind="torch", zero_stage=3), 4, 8) == 6000
    assert sent_bytes(1000, EngineConfig(), 1, 1) == 0


@pytest.mark.parametrize("name", GPU_RECIPES)
def test_the_tables_of_the_page_are_those_computed(name: str) -> None:
    page = PAGE.read_text()
    for row in rows(name):
        assert row in page, row


@pytest.mark.parametrize("name", GPU_RECIPES)
def test_the_batches_on_the_page_are_those_of_the_recipe(name: str) -> None:
    config, sizes = recipe(name), worlds(recipe(name))
    workers = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    train, stage = config.train, config.engine.zero_stage
    row = f"| `{name}` | {workers} | {train.global_batch:,} | {train.micro_batch} | {stage} |"
    assert row in (DOCS / "training.md").read_text(), row


def test_the_command_for_two_machines_on_the_page_has_whole_batches() -> None:
    assert "base_h100x8 --train.workers 16 --train.micro-batch 128" in (DOCS / "training.md").read_text()
    config = recipe("base_h100x8")
    train = dataclasses.replace(config.train, workers=16, micro_batch=128)
    assert dataclasses.replace(config, train=train).accumulation(16) == 1


def rows(name: str) -> list[str]:
    """The rows of docs/scaling.md for a recipe: what the model is, then one a world size."""
    config, found = recipe(name), counted(name)
    gflop = flops_per_window(model_config(config)) / 1e9
    model = (
        f"| `{name}` | {config.model.preset} | {found.parameters / 1e6:.1f} M | {gflop:.1f} | "
        f"{found.bf16_activation_bytes / 1e6:.1f} MB | {12 * found.parameters / 1e6:,.0f} MB |"
    )
    sizes = worlds(config)
    return [
        model,
        *(_row(name, config, found, world) for world in sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})),
    ]


def _row(name: str, config: PretrainConfig, found: Counted, world: int) -> str:
    train, accumulation = config.train, config.accumulation(world)
    share = -(-train.global_batch // world)
    states = [
        state_need(found.parameters, dataclasses.replace(config.engine, zero_stage=stage), world).state / 2**30
        for stage in range(4)
    ]
    kept = found.bf16_activation_bytes * -(-share // accumulation) + 2 * found.parameters
    activations = kept / 2**30
    sent = sent_bytes(found.parameters, config.engine, world, accumulation) / 1e6
    return (
        f"| `{name}` | {world} | {share} | {accumulation} | "
        + " | ".join(
            f"**{x:.2f}**" if stage == config.engine.zero_stage else f"{x:.2f}" for stage, x in enumerate(states)
        )
        + f" | {activations:.1f} | {sent:,.0f} MB |"
    )
