"""A model that does not fit is refused before any worker starts, with what would fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from xmae_dist.core.errors import ConfigError
from xmae_dist.model import kinds, presets
from xmae_dist.model.mask import masked_count
from xmae_dist.recipes import RECIPES, recipe
from xmae_dist.train.config import EngineConfig, ModelConfig, PretrainConfig, ResourceConfig, TrainConfig, model_config
from xmae_dist.train.sizing.memory import Counted, check_fits, check_memory, count, state_need

GIB = 2**30
BIG = Counted(parameters=1_372_000_000, activation_bytes=300 * 2**20, bf16_activation_bytes=150 * 2**20)


def config(workers: int = 2, micro: int = 8, gpus: bool = False, **engine: Any) -> PretrainConfig:
    return PretrainConfig(
        model=ModelConfig(preset="huge"),
        train=TrainConfig(workers=workers, micro_batch=micro, global_batch=64),
        engine=EngineConfig(**engine),
        resources=ResourceConfig(gpus=gpus),
    )


def cpu_node(cpus: float, gib: float) -> dict[str, Any]:
    return {"Alive": True, "Resources": {"CPU": cpus, "memory": gib * GIB}}


def gpu_node(gpus: int, kind: str, gib: float = 1000) -> dict[str, Any]:
    held = {"CPU": 64.0, "GPU": float(gpus), f"accelerator_type:{kind}": 1.0, "memory": gib * GIB}
    return {"Alive": True, "Resources": held}


def test_state_is_divided_by_stage_and_moved_by_offload() -> None:
    def bytes_of(stage: Any, **more: bool) -> tuple[float, float]:
        need = state_need(1000, EngineConfig(zero_stage=stage, **more), 4)
        return need.state, need.host

    assert bytes_of(0) == (16_000, 0)
    assert bytes_of(1) == (8000 + 3000, 0)
    assert bytes_of(2) == (4000 + 1000 + 3000, 0)
    assert bytes_of(3) == (5000, 0)
    assert bytes_of(3, offload_optimizer=True, offload_parameters=True) == (1000, 4000)
    assert state_need(1000, EngineConfig(kind="torch", zero_stage=3), 4).state == 16_000


def test_activations_are_those_of_the_precision_of_training() -> None:
    """Beside bfloat16, that and a copy of the weights in it; in float32 on CPUs, whatever `auto` would choose there."""

    def activations_of(precision: Any, *, gpus: bool) -> float:
        return BIG.need(config(gpus=gpus, precision=precision)).activations

    full, half = 8 * BIG.activation_bytes, 8 * BIG.bf16_activation_bytes + 2 * BIG.parameters
    assert activations_of("fp32", gpus=True) == activations_of("auto", gpus=False) == full
    assert activations_of("auto", gpus=True) == activations_of("bf16", gpus=True) == half


def test_activations_beside_bfloat16_are_counted_in_it() -> None:
    """About half: matrix products keep what they read in bfloat16, norms and the sums between blocks in float32."""
    counted = count(model_config(PretrainConfig()), fused=True)
    assert 0.4 < counted.bf16_activation_bytes / counted.activation_bytes < 0.75


def test_activations_counted_are_those_a_step_keeps() -> None:
    """On the CPU, with real tensors, what is alive for the backward pass, for more windows than were counted."""
    fitted = model_config(PretrainConfig())
    model = kinds.from_config(fitted)
    windows = 24
    visible = fitted.n_patches - masked_count(fitted.n_patches, fitted.mask_ratio)
    signal_BL, mask_BN = torch.randn(windows, fitted.length), torch.zeros(windows, fitted.n_patches, dtype=torch.bool)
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(signal_BL, signal_BL, mask_BN, torch.arange(visible).expand(windows, -1))
    assert loss.requires_grad
    assert sum(kept.values()) / windows == pytest.approx(count(fitted, fused=True).activation_bytes, rel=0.01)


@pytest.mark.parametrize("preset", [name for name in presets.PRESETS if "beats" in name])
def test_models_that_learn_what_is_measured_are_counted(preset: str) -> None:
    """Their targets are worked out on the host, where tensors without memory cannot go."""
    plain = count(presets.config(preset.removesuffix("_beats")), fused=False)
    counted = count(presets.config(preset), fused=False)
    assert 1 < counted.parameters / plain.parameters < 1.5
    assert counted.activation_bytes >= plain.activation_bytes


@pytest.mark.parametrize(
    ("wanted", "nodes", "fix"),
    [
        (config(workers=1), [cpu_node(4, 64)], None),
        (config(workers=2), [cpu_node(4, 38)], "--train.micro-batch"),
        (config(workers=2, zero_stage=0), [cpu_node(1, 20), cpu_node(1, 20)], "--engine.zero-stage"),
        (config(workers=2), [cpu_node(4, 8)], "a smaller --model.preset"),
        (config(workers=8, gpus=True, zero_stage=0), [gpu_node(8, "T4")], "--engine.zero-stage"),
        (config(workers=1, gpus=True), [gpu_node(1, "T4")], "--engine.offload-optimizer"),
        (config(workers=8, gpus=True), [gpu_node(8, "H100")], None),
        (config(workers=8, gpus=True), [gpu_node(8, "of_another_kind")], None),
        (config(workers=2), [{"Alive": True, "Resources": {"CPU": 2.0}}], None),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(
    wanted: PretrainConfig, nodes: list[dict[str, Any]], fix: str | None
) -> None:
    if fix is None:
        check_memory(wanted, BIG, nodes)
        return
    with pytest.raises(ConfigError, match=r"--model\.preset: got huge, 1,372,000,000 parameters") as refused:
        check_memory(wanted, BIG, nodes)
    assert fix in str(refused.value)
    if "smaller" not in fix:
        check_memory(changed(wanted, str(refused.value.fix)), BIG, nodes)


def changed(wanted: PretrainConfig, fix: str) -> PretrainConfig:
    """The configuration with the advised options, as the command line would make it."""
    import tyro

    made: PretrainConfig = tyro.cli(PretrainConfig, default=wanted, args=fix.split())
    return made


@pytest.mark.parametrize("name", [name for name in RECIPES if "h100" in name])
def test_every_recipe_fits_its_hardware(name: str) -> None:
    wanted = recipe(name)
    check_fits(wanted, [gpu_node(8, "H100")] * 8)


def test_fewest_workers_decide_in_an_elastic_run() -> None:
    wanted = config(workers=8, gpus=True)
    node = [gpu_node(8, "A10G")]
    check_memory(wanted, BIG, node)
    elastic = dataclasses.replace(wanted, train=dataclasses.replace(wanted.train, min_workers=1))
    with pytest.raises(ConfigError):
        check_memory(elastic, BIG, node)
