"""Named pretraining runs. The name ends in the hardware: what a batch, a worker and a stage mean depends on it."""

from __future__ import annotations

from xmae_dist.core.errors import UsageError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.train.config import (
    CheckpointConfig,
    EngineConfig,
    ModelConfig,
    PretrainConfig,
    ResourceConfig,
    TrainConfig,
    ValidationConfig,
)
from xmae_dist.train.step.schedule import ScheduleConfig

RECIPES: dict[str, tuple[str, PretrainConfig]] = {
    "debug_cpu2": (
        "a few steps of a tiny model on two workers, to check that everything runs",
        PretrainConfig(
            model=ModelConfig(preset="tiny"),
            train=TrainConfig(steps=20, global_batch=16, micro_batch=8),
            resources=ResourceConfig(readers=1),
            checkpoint=CheckpointConfig(every_steps=10),
            validation=ValidationConfig(every_steps=10, windows=32),
        ),
    ),
    "demo_cpu2": (
        "what `make demo` runs: a tiny model that learns to reconstruct ECG from PPG in minutes, on two cores",
        PretrainConfig(
            model=ModelConfig(preset="tiny"),
            train=TrainConfig(steps=300, global_batch=64, micro_batch=32),
            schedule=ScheduleConfig(peak_lr=2e-3, warmup_fraction=0.1),
            resources=ResourceConfig(readers=1),
            checkpoint=CheckpointConfig(every_steps=100),
            validation=ValidationConfig(every_steps=100, windows=96),
        ),
    ),
    "challenge_cpu2": (
        "a tiny model on eleven hours of real monitor recordings (Challenge 2015), two cores, some minutes",
        PretrainConfig(
            model=ModelConfig(preset="tiny"),
            train=TrainConfig(steps=1000, global_batch=32, micro_batch=16),
            schedule=ScheduleConfig(peak_lr=2e-3, warmup_fraction=0.05),
            resources=ResourceConfig(readers=1),
            checkpoint=CheckpointConfig(every_steps=250),
            validation=ValidationConfig(every_steps=100, windows=896),
            # Half-overlapping windows and one patient in seven held out: 109 patients are few.
            spec=WindowSpec(stride_s=5.0),
            split=SplitConfig(fractions=(0.86, 0.14, 0.0)),
        ),
    ),
    "paper_h100x1": (
        "the published model without its defects (a seventh of its size), on one GPU",
        PretrainConfig(
            model=ModelConfig(preset="paper"),
            train=TrainConfig(
                steps=100_000, global_batch=512, micro_batch=512, workers=1, read_windows=256, block_steps=64
            ),
            engine=EngineConfig(zero_stage=0),
            schedule=ScheduleConfig(peak_lr=1e-3),
            resources=ResourceConfig(worker_cpus=4, gpus=True, readers=4),
            checkpoint=CheckpointConfig(every_steps=1000, keep_every=20_000),
            validation=ValidationConfig(every_steps=1000, windows=4096),
        ),
    ),
    "base_h100x8": (
        "a base model on one machine of eight GPUs, optimizer state divided among them",
        PretrainConfig(
            model=ModelConfig(preset="base"),
            train=TrainConfig(
                steps=200_000, global_batch=2048, micro_batch=256, workers=8, read_windows=256, block_steps=64
            ),
            engine=EngineConfig(zero_stage=1),
            schedule=ScheduleConfig(peak_lr=6e-4),
            resources=ResourceConfig(worker_cpus=4, gpus=True, readers=4),
            checkpoint=CheckpointConfig(every_steps=1000, keep_every=20_000),
            validation=ValidationConfig(every_steps=2000, windows=8192),
        ),
    ),
    "large_h100x64_spot": (
        "a large model on 16 to 64 preemptible GPUs; a resize changes neither batch nor order",
        PretrainConfig(
            model=ModelConfig(preset="large"),
            train=TrainConfig(
                steps=300_000,
                global_batch=4096,
                micro_batch=256,
                workers=64,
                min_workers=16,
                max_failures=-1,
                read_windows=256,
                block_steps=64,
            ),
            engine=EngineConfig(zero_stage=2),
            schedule=ScheduleConfig(peak_lr=3e-4),
            resources=ResourceConfig(worker_cpus=4, gpus=True, read_cpus=1, readers=4, may_grow=True),
            checkpoint=CheckpointConfig(every_steps=250, keep_every=10_000),
            validation=ValidationConfig(every_steps=2000, windows=16_384),
        ),
    ),
}


def recipe(name: str) -> PretrainConfig:
    """The run of this name. Raises UsageError, naming those there are."""
    if name not in RECIPES:
        raise UsageError("recipe", value=repr(name), expected="one of " + ", ".join(RECIPES))
    return RECIPES[name][1]
