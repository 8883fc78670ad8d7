"""What a worker takes from its device and its configuration, and not from what the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from test_missing_targets import SEGMENTS, Gappy

from xmae_dist.data.order.plan import OrderConfig, plan_of
from xmae_dist.model import presets
from xmae_dist.train import worker
from xmae_dist.train.config import EngineConfig, PretrainConfig, ResourceConfig, TrainConfig
from xmae_dist.train.step.clock import Clock
from xmae_dist.train.step.collective import Ranks
from xmae_dist.train.trainer import _worker_environment


def on(device: str, config: PretrainConfig) -> Any:
    """A worker of one rank, as far as it needs no cluster."""
    made: Any = object.__new__(worker._Worker)
    made._config, made._ranks = config, Ranks(device=torch.device(device))
    made._clock = Clock()
    return made


def recipe(**engine: Any) -> PretrainConfig:
    return PretrainConfig(
        train=TrainConfig(steps=2, workers=1, global_batch=8, micro_batch=8),
        engine=EngineConfig(kind="torch", **engine),
        resources=ResourceConfig(reader="direct"),
    )


def test_a_cpu_recipe_pins_nothing_on_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinning would open a CUDA context, hundreds of MB of a GPU that is another's, in every worker."""
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: (pinned.append(tensor), tensor)[1])
    plan = plan_of(SEGMENTS, 8, OrderConfig(seed=1, global_batch=8))
    assert len(list(on("cpu", recipe())._batches(Gappy(), plan, 0))) == 2
    assert pinned == []
    assert len(list(on("cuda", recipe())._batches(Gappy(), plan, 0))) == 2
    assert len(pinned) == 2 * 5  # epochs, ids, repeats and two signals


@pytest.fixture
def as_it_was() -> Iterator[None]:
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.usefixtures("as_it_was")
def test_the_same_bits_are_asked_for_where_the_configuration_says_so(asked: bool) -> None:
    config = recipe(deterministic=asked)
    built = on("cpu", config)._build_engine(presets.config("tiny"), None)
    assert torch.are_deterministic_algorithms_enabled() is asked
    assert torch.backends.cudnn.benchmark is not asked
    assert ("CUBLAS_WORKSPACE_CONFIG" in _worker_environment(config)) is asked
    signal_BL, mask_BN = torch.zeros(2, 1000), (torch.arange(100) > 20).expand(2, -1)
    assert np.isfinite(float(built.forward_backward(signal_BL, signal_BL, mask_BN)))
