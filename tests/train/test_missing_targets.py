"""Windows without a target change neither loss nor gradient with the way in which a batch is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_loop import SEGMENTS, Notes

from xmae_dist.data.order.plan import OrderConfig, plan_of
from xmae_dist.data.stream import direct
from xmae_dist.data.stream.collate import tensor_batches
from xmae_dist.model import presets
from xmae_dist.model.interface import PretrainModel
from xmae_dist.testing.ranks import run_ranks
from xmae_dist.testing.small_training import gather
from xmae_dist.train.checkpoints.retention import RetentionConfig
from xmae_dist.train.checkpoints.state import TrainState
from xmae_dist.train.checkpoints.upload import Saver
from xmae_dist.train.engines.deepspeed import DeepSpeedEngine, ZeroConfig, divided
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.torch import TorchEngine
from xmae_dist.train.loop import Loop, LoopConfig
from xmae_dist.train.observe.losses import Cohorts
from xmae_dist.train.observe.measure import Measures, Yardstick
from xmae_dist.train.step.batch import Masking
from xmae_dist.train.step.clock import Clock
from xmae_dist.train.step.collective import Ranks, timed_collectives
from xmae_dist.train.step.schedule import ScheduleConfig

LENGTH, GLOBAL_BATCH, STEPS = 100, 8, 3


class Gappy:
    """Windows made from their ids; three of every eight lack their ECG, one of every eight its PPG."""

    def read(self, ids_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        time_L = np.arange(LENGTH) / 100
        rate_B = 1 + (ids_B % 7)[:, None] / 4
        ecg_BL, ppg_BL = (np.sin(2 * np.pi * rate_B * (time_L - lag)).astype(np.float32) for lag in (0, 0.2))
        ecg_BL[np.isin(ids_B % 8, (1, 2, 6))] = np.nan
        ppg_BL[ids_B % 8 == 5] = np.nan
        return ecg_BL, ppg_BL


def model(name: str) -> PretrainModel:
    torch.manual_seed(5)
    return presets.build(name, length=LENGTH, width=16, heads=2)


def engine(kind: str, name: str, ranks: Ranks, micro: int, clock: Clock) -> Any:
    accumulation = GLOBAL_BATCH // ranks.world // micro
    if kind == "torch":
        place = {"rank": ranks.rank, "world": ranks.world}
        return TorchEngine(model(name), optimizer=OptimizerConfig(), accumulation=accumulation, clock=clock, **place)
    zero = ZeroConfig(stage=int(kind[-1]))
    module = divided(lambda: model(name), zero) if zero.stage == 3 else model(name)
    return DeepSpeedEngine(
        module, zero=zero, optimizer=OptimizerConfig(), micro_batch=micro, accumulation=accumulation, clock=clock
    )


def trained(rank: int, world: int, folder: str, kind: str, name: str, micro: int) -> dict[str, Any]:
    """(losses, gradient norms, losses by cohort, mean gradients) of some steps in micro-batches of `micro` windows.

    Not weights: AdamW makes whole steps of gradients that are nothing but rounding, such as those of the keys' biases.
    """
    ranks, clock, notes = Ranks(rank=rank, world=world), Clock(), Notes()
    built = engine(kind, name, ranks, micro, clock)
    config = model(name).config
    loop = Loop(
        config=LoopConfig(
            steps=STEPS,
            global_batch=GLOBAL_BATCH,
            accumulation=GLOBAL_BATCH // world // micro,
            seed=1,
            model_mask_ratio=config.mask_ratio,
            schedule=ScheduleConfig(peak_lr=2e-3),
            checkpoint_every=100,
            validate_every=0,
        ),
        engine=built,
        masking=Masking(seed=1, n_patches=config.n_patches, mode="scatter"),
        ranks=ranks,
        saver=Saver(
            f"file://{folder}/{kind}-{world}-{micro}-{name}", ranks, RetentionConfig(), lambda *_, **__: None, "a"
        ),
        callbacks=notes,
        about=lambda state: {"state": state.to_dict()},
        measures=Measures(Cohorts.of(SEGMENTS), ranks, built.device, clock, Yardstick()),
    )
    plan = plan_of(SEGMENTS, 8, OrderConfig(seed=1, global_batch=GLOBAL_BATCH))
    read = direct.step_batches(Gappy(), plan, start_step=0, stop_step=STEPS, world=world, rank=rank)
    with timed_collectives(clock):
        loop.run(tensor_batches(read, pin=False), TrainState())
    moments = {n: t.clone() for (k, n), t in gather(built, world).items().items() if k == "exp_avg"}
    return {"rows": [{k: row[k] for k in ("loss", "grad_norm", "losses")} for row in notes.rows], "moments": moments}


def _all(rank: int, world: int, folder: str, cuts: list[tuple[str, str, int]]) -> list[dict[str, Any]]:
    return [trained(rank, world, folder, *cut) for cut in cuts]


def same(found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    for row, other in zip(found["rows"], expected["rows"], strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5), what
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4), what
        for signal, cohorts in other["losses"].items():
            assert row["losses"][signal] == pytest.approx(cohorts, rel=1e-4), what
    for name, moment in expected["moments"].items():
        torch.testing.assert_close(found["moments"][name], moment, rtol=1e-3, atol=1e-5, msg=f"{what}: {name}")


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_loss_and_gradient_do_not_depend_on_the_cut(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = {name: trained(0, 1, str(tmp_path), "torch", name, GLOBAL_BATCH) for name in ("tiny", "joint", "symmetric")}
    assert all(np.isfinite(row["loss"]) for found in whole.values() for row in found["rows"])
    for name in whole:
        for micro in (4, 2, 1):
            same(trained(0, 1, str(tmp_path), "torch", name, micro), whole[name], f"{name} by {micro}")
    cuts = [("torch", "symmetric", 2), ("torch", "joint", 1)]
    cuts += [(kind, "tiny", micro) for kind in ("zero0", "zero1", "zero2", "zero3") for micro in (4, 2)]
    for (kind, name, micro), found in zip(cuts, run_ranks(2, _all, tmp_path, str(tmp_path), cuts)[0], strict=True):
        same(found, whole[name], f"{name} by {micro} on two ranks, {kind}")


def test_a_batch_without_any_target_moves_nothing_by_its_loss() -> None:
    built = model("tiny")
    signal_BL, mask_BN = torch.randn(2, LENGTH), (torch.arange(10) > 2).expand(2, -1)
    missing_BL = torch.full_like(signal_BL, torch.nan)
    assert built.counts(signal_BL, missing_BL, mask_BN).tolist() == [0]
    loss = built(signal_BL, missing_BL, mask_BN)
    loss.backward()
    assert float(loss) == 0.0 and all(bool(p.grad.isfinite().all()) for p in built.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "name", ["tiny", "joint", "symmetric", "ppg_mae_50", "published", "clip", "tiny_beats", "clip_beats"]
)
def test_counts_of_the_batch_itself_change_no_bit(name: str) -> None:
    torch.manual_seed(0)
    built = presets.build(name, **({} if name == "published" else {"width": 16, "heads": 2})).eval()
    ppg_BL, ecg_BL = torch.randn(2, 4, built.config.length)
    n = built.config.n_patches
    mask_BN = (torch.arange(n) >= n // 5).expand(4, -1)
    counts_S = built.counts(ppg_BL, ecg_BL, mask_BN)
    assert torch.equal(built(ppg_BL, ecg_BL, mask_BN), built(ppg_BL, ecg_BL, mask_BN, None, counts_S.double().float()))
