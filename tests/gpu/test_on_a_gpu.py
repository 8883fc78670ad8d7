"""What only a GPU can show. Skipped where there is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from xmae_dist.model import presets
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.mask import masks
from xmae_dist.model.patch import visible_indices
from xmae_dist.testing.small_training import gather
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.checkpoints.retention import RetentionConfig
from xmae_dist.train.checkpoints.upload import Saver
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.precision import bf16_is_fast
from xmae_dist.train.engines.protocol import Engine, Saved
from xmae_dist.train.engines.torch import TorchEngine
from xmae_dist.train.step.collective import Ranks
from xmae_dist.train.validation.held_out import HeldOut
from xmae_dist.train.validation.validator import Patience, Validator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not run on a GPU: no CUDA device here"),
]
CUDA = torch.device("cuda")
BATCH = 32


def inputs(model: PretrainModel, step: int, device: torch.device = CUDA) -> tuple[torch.Tensor, ...]:
    """Waves that a model can learn, another batch at every step."""
    config, rng = model.config, np.random.default_rng(step)
    time_L, rate_B1 = np.arange(config.length) / 100, rng.uniform(1, 2, (BATCH, 1))
    ecg_BL, ppg_BL = (
        torch.from_numpy(np.sin(2 * np.pi * rate_B1 * (time_L - lag)).astype(np.float32)) for lag in (0.0, 0.2)
    )
    drawn = masks(0, step, np.arange(BATCH), config.n_patches, config.mask_ratio, config.mask_mode)
    mask_BN = torch.from_numpy(drawn)
    over_S = model.counts(ppg_BL, ecg_BL, mask_BN).float()
    return tuple(x.to(device) for x in (ppg_BL, ecg_BL, mask_BN, visible_indices(mask_BN), over_S))


def engine(device: torch.device = CUDA, saved: Saved | None = None, **options: Any) -> TorchEngine:
    torch.manual_seed(3)
    return TorchEngine(
        presets.build("tiny"), optimizer=OptimizerConfig(), accumulation=1, device=device, saved=saved, **options
    )


def losses(trained: Engine, first: int, last: int) -> list[float]:
    found = []
    for step in range(first, last):
        model: Any = trained.module
        found.append(trained.forward_backward(*inputs(model, step, trained.device)))
        trained.step(2e-3)
    return [float(loss) for loss in found]


def test_bfloat16_learns_as_float32_does_over_200_steps() -> None:
    """The band: no running mean over 20 steps is further than 5 % from that of float32."""
    if not bf16_is_fast(CUDA):
        pytest.skip("this GPU only emulates bfloat16")
    window = np.ones(20) / 20
    full, half = (np.convolve(losses(engine(bf16=bf16), 0, 200), window, "valid") for bf16 in (False, True))
    assert full[-1] < 0.5 * full[0]
    assert np.abs(half / full - 1).max() < 0.05


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_one_step_of_deepspeed_is_that_of_the_plain_engine(stage: Any) -> None:
    pytest.importorskip("deepspeed")
    from xmae_dist.train.engines.deepspeed import DeepSpeedEngine, ZeroConfig, divided

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    if not dist.is_initialized():
        dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    zero = ZeroConfig(stage=stage)
    torch.manual_seed(3)
    module = divided(lambda: presets.build("tiny"), zero, CUDA) if stage == 3 else presets.build("tiny")
    trained = DeepSpeedEngine(
        module, zero=zero, optimizer=OptimizerConfig(), micro_batch=BATCH, accumulation=1, device=CUDA
    )
    plain = engine()
    assert losses(trained, 0, 3) == pytest.approx(losses(plain, 0, 3), rel=1e-3)
    found, expected = gather(trained, 1).items(), gather(plain, 1).items()
    for key in expected:
        torch.testing.assert_close(found[key].cpu(), expected[key].cpu(), rtol=1e-2, atol=1e-4)


def test_a_checkpoint_goes_from_gpu_to_cpu_to_gpu(tmp_path: Path) -> None:
    def moved(trained: Engine, step: int, device: torch.device) -> TorchEngine:
        url = f"file://{tmp_path}/{step}"
        saver = Saver(url, Ranks(), RetentionConfig(), lambda *_, **__: None, "a")
        state = {"step": step, "windows_seen": step, "optimizer_steps": trained.optimizer_steps}
        saver.start(trained, step, {"state": state})
        saver.finish()
        where, manifest = checkpoint.newest_complete(url, lambda *_: None) or ("", {})
        return engine(device, checkpoint.open_saved(where, manifest, tmp_path))

    whole = losses(engine(), 0, 9)
    first = engine()
    found = losses(first, 0, 3)
    second = moved(first, 3, torch.device("cpu"))
    found += losses(second, 3, 6)
    third = moved(second, 6, CUDA)
    for key, tensor in gather(second, 1).items().items():
        assert torch.equal(gather(third, 1).items()[key].cpu(), tensor), key
    found += losses(third, 6, 9)
    assert found == pytest.approx(whole, rel=1e-3)


def test_validation_beside_training_changes_no_bit_of_it() -> None:
    """Under `be_deterministic`'s conditions there is nothing else that could; without, closely."""
    rng = np.random.default_rng(1)
    signal = rng.standard_normal((64, 1000)).astype(np.float32)
    mask = masks(1, 0, np.arange(64), 100, 0.8, "scatter")
    share = HeldOut(
        ecg=signal,
        ppg=signal,
        subject=np.arange(64).astype(str),
        cohort=np.zeros(64, np.int64),
        cohorts=("a",),
        mask=mask,
        panel=(signal[:2], signal[:2], mask[:2], ["one", "two"]),
    )
    validator = Validator(
        share,
        Ranks(device=CUDA),
        batch=16,
        patience=Patience(),
        tell=lambda **_: None,
        keep_panel=lambda *_: None,
        history={},
    )
    watched, plain = engine(), engine()
    found = losses(watched, 0, 3)
    validator.start(watched, 3)
    found += losses(watched, 3, 10)
    validator.finish()
    assert found == pytest.approx(losses(plain, 0, 10), rel=1e-4) and np.isfinite(validator.history[3])


@pytest.mark.parametrize("how", ["blocks", "graphs"])
def test_compiled_equals_eager(how: Any) -> None:
    torch._dynamo.reset()
    assert losses(engine(compile=how), 0, 10) == pytest.approx(losses(engine(), 0, 10), rel=1e-3)


def test_the_same_bits_where_they_are_asked_for(tmp_path: Path) -> None:
    """In a process of its own: cuBLAS wants its setting before a GPU is first used, and the mode is of the process."""
    import subprocess
    import sys

    program = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}\n"
        "from test_on_a_gpu import engine, gather, losses\n"
        "from xmae_dist.train.engines.precision import be_deterministic\n"
        "be_deterministic()\n"
        "one, two = engine(bf16=True), engine(bf16=True)\n"
        "assert losses(one, 0, 20) == losses(two, 0, 20)\n"
        "a, b = gather(one, 1).items(), gather(two, 1).items()\n"
        "assert all((a[k] == b[k]).all() for k in a)\n"
    )
    environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=tmp_path, timeout=280)
