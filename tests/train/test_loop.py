"""The loop on real ranks: the same run at any world size, through any sequence of world sizes and engines."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xmae_dist.core.errors import RunError
from xmae_dist.core.seeds import uniform01
from xmae_dist.data.order.plan import OrderConfig, plan_of
from xmae_dist.data.store.window_store import Segment
from xmae_dist.data.stream import direct
from xmae_dist.data.stream.collate import tensor_batches
from xmae_dist.model import presets
from xmae_dist.model.mask import masks
from xmae_dist.testing.ranks import run_ranks
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.checkpoints.checkpoint import Found
from xmae_dist.train.checkpoints.retention import RetentionConfig, to_delete
from xmae_dist.train.checkpoints.state import TrainState
from xmae_dist.train.checkpoints.upload import Saver
from xmae_dist.train.config import PretrainConfig, TrainConfig
from xmae_dist.train.engines.deepspeed import DeepSpeedEngine, ZeroConfig
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.protocol import Saved
from xmae_dist.train.engines.torch import TorchEngine
from xmae_dist.train.loop import Loop, LoopConfig, Stop
from xmae_dist.train.observe.losses import Cohorts
from xmae_dist.train.observe.measure import Measures, Yardstick
from xmae_dist.train.step.batch import Masking
from xmae_dist.train.step.clock import Clock
from xmae_dist.train.step.collective import Ranks, timed_collectives
from xmae_dist.train.step.schedule import ScheduleConfig
from xmae_dist.train.validation.held_out import HeldOut
from xmae_dist.train.validation.validator import Patience, Validator

LENGTH = 200
N_PATCHES = presets.config("tiny", length=LENGTH).n_patches
SEGMENTS = [
    Segment(cohort="a", part="p0", first_id=0, n=100),
    Segment(cohort="b", part="p0", first_id=100, n=150),
    Segment(cohort="a", part="p1", first_id=250, n=50),
]
CONFIG = PretrainConfig(train=TrainConfig(global_batch=16, micro_batch=4, workers=4))


class Waves:
    """Windows made from their ids: a stand-in for a store, of the one method the stream needs."""

    def read(self, ids_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rate_B = 1 + 2 * uniform01("rate", ids_B.astype(np.int64))[:, None]
        time_L = np.arange(LENGTH) / 100
        return (
            np.sin(2 * np.pi * rate_B * time_L).astype(np.float16),
            np.sin(2 * np.pi * rate_B * (time_L - 0.2)).astype(np.float16),
        )


@dataclass
class Notes:
    """Callbacks that note what they are told, and ask for a stop after a step."""

    stop_after: int | None = None

    def __post_init__(self) -> None:
        self.asked = 0
        self.rows: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.validated: list[dict[str, Any]] = []
        self.panels: list[int] = []

    def on_step(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def on_event(self, kind: str, **fields: Any) -> None:
        self.events.append(kind)

    def wants_stop(self) -> Stop | None:
        self.asked += 1  # once a step
        return Stop.ASKED if self.stop_after is not None and self.asked >= self.stop_after else None


def model(dropout: float = 0.0) -> torch.nn.Module:
    torch.manual_seed(5)
    return presets.build("tiny", length=LENGTH, width=32, heads=2, dropout=dropout)


def engine(kind: str, ranks: Ranks, saved: Saved | None, dropout: float, clock: Clock, make: Any = model) -> Any:
    accumulation = CONFIG.accumulation(ranks.world)
    if kind == "torch":
        return TorchEngine(
            make(dropout),
            optimizer=OptimizerConfig(),
            accumulation=accumulation,
            rank=ranks.rank,
            world=ranks.world,
            saved=saved,
            clock=clock,
        )
    return DeepSpeedEngine(
        make(dropout),
        zero=ZeroConfig(stage=int(kind[-1])),
        optimizer=OptimizerConfig(),
        micro_batch=4,
        accumulation=accumulation,
        saved=saved,
        clock=clock,
    )


def run(
    rank: int,
    world: int,
    url: str,
    kind: str,
    steps: int,
    stop_after: int | None = None,
    dropout: float = 0.0,
    validate: Patience | None = None,
) -> dict[str, Any]:
    """Continues the run at `url` on this rank up to `steps` of 24, or for `stop_after` steps."""
    ranks = Ranks(rank=rank, world=world)
    saved, state, history = None, TrainState(), {}
    newest = checkpoint.newest_complete(url, lambda *_: None)
    if newest is not None:
        where, manifest = newest
        folder = Path(url.removeprefix("file://"), f"restored-{rank}")
        saved = checkpoint.open_saved(where, manifest, folder)
        state, history = TrainState(**manifest["state"]), dict(manifest["validated"])
    notes = Notes(stop_after if rank == world - 1 else None)
    plan = plan_of(SEGMENTS, 8, OrderConfig(seed=1, global_batch=16))
    clock = Clock()
    built = engine(kind, ranks, saved, dropout, clock)
    validator = None
    if validate is not None:
        validator = Validator(
            held_out_share(ranks),
            ranks,
            batch=4,
            patience=validate,
            tell=lambda **row: notes.validated.append(row),
            keep_panel=lambda step, rebuilt: notes.panels.append(step),
            history=history,
        )
    loop = Loop(
        config=LoopConfig(
            steps=steps,
            global_batch=16,
            accumulation=CONFIG.accumulation(world),
            seed=1,
            model_mask_ratio=0.6,
            schedule=ScheduleConfig(peak_lr=2e-3),
            checkpoint_every=100 if validate is None else 3,
            validate_every=3,
        ),
        engine=built,
        masking=Masking(seed=1, n_patches=N_PATCHES, mode="scatter"),
        ranks=ranks,
        saver=Saver(url, ranks, RetentionConfig(), lambda kind, **_: notes.events.append(kind), "attempt"),
        callbacks=notes,
        about=lambda state: {
            "state": state.to_dict(),
            "validated": sorted(validator.history.items()) if validator is not None else [],
        },
        validator=validator,
        measures=Measures(
            Cohorts.of(SEGMENTS), ranks, built.device, clock, Yardstick(flops_per_window=10**6, peak_flops=1e12)
        ),
    )
    batches = tensor_batches(
        direct.step_batches(Waves(), plan, start_step=state.step, stop_step=steps, world=world, rank=rank)
    )
    with timed_collectives(clock):
        state, stopped = loop.run(batches, state)
    return {
        "rows": notes.rows,
        "losses": [row["loss"] for row in notes.rows],
        "step": state.step,
        "stopped": stopped is Stop.ASKED,
        "converged": stopped is Stop.CONVERGED,
        "validated": notes.validated,
        "panels": notes.panels,
        "events": notes.events,
    }


def held_out_share(ranks: Ranks) -> HeldOut:
    """Eight windows of two cohorts and four subjects, divided among the ranks."""
    ids = np.arange(1000 + ranks.rank, 1008, ranks.world)
    ecg, ppg = (signal.astype(np.float32) for signal in Waves().read(ids))
    mask = masks(1, 0, ids, N_PATCHES, 0.6, "scatter")
    return HeldOut(
        ecg=ecg,
        ppg=ppg,
        subject=(ids // 2).astype(str),
        cohort=ids % 2,
        cohorts=("a", "b"),
        mask=mask,
        panel=(ecg[:1], ppg[:1], mask[:1], ["one"]),
    )


def alone(folder: Path, **options: Any) -> dict[str, Any]:
    """The whole run by the plain engine on one rank, in this process."""
    torch.set_num_threads(1)
    return run(0, 1, f"file://{folder}", "torch", 24, **options)


def test_a_stopped_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    whole = alone(tmp_path / "whole", dropout=0.1)
    first = alone(tmp_path / "parts", dropout=0.1, stop_after=9)
    assert first["stopped"] and first["step"] == 9 and "checkpoint" in first["events"]
    second = alone(tmp_path / "parts", dropout=0.1)
    assert first["losses"] + second["losses"] == whole["losses"]
    assert whole["losses"][-1] < 0.8 * whole["losses"][0]


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    alone(tmp_path)
    again = alone(tmp_path)
    assert again["step"] == 24 and not again["rows"] and not again["events"]


@pytest.mark.parametrize(
    ("world", "kind"), [(1, "torch"), (2, "zero1"), pytest.param(2, "zero3", marks=pytest.mark.slow)]
)
def test_every_step_tells_where_its_time_and_its_loss_lie(tmp_path: Path, world: int, kind: str) -> None:
    started = time.perf_counter()
    found = alone(tmp_path) if world == 1 else run_ranks(world, run, tmp_path, f"file://{tmp_path}", kind, 24)[0]
    took_s = time.perf_counter() - started
    rows, parts = found["rows"], ("data", "forward", "backward", "optimizer", "validation", "checkpoint", "other")
    for row in rows:
        spent_s = [row[f"{part}_s"] for part in parts] + ([row["communication_s"]] if world > 1 else [])
        assert min(spent_s) >= 0 and min(spent_s[1:4]) > 0
        assert sum(spent_s) == pytest.approx(16 / row["windows_per_s"], rel=0.01)
        assert row["peak_share"] == pytest.approx(1e6 * row["windows_per_s"] / 1e12 / world, abs=1e-4)
        assert 0 <= row["data_stall"] <= 1 and len(row["rss_mb"]) == world and min(row["rss_mb"]) > 50
    assert sum(16 / row["windows_per_s"] for row in rows) < took_s
    # 16 windows a step over 24 steps: an epoch and a bit of 300, so cohort b, half of all, has about half of them.
    ecg = [row["losses"]["ecg"] for row in rows]
    assert {name for one in ecg for name in one} == {"a", "b"} and all("ppg" not in row["losses"] for row in rows)
    for row, one in zip(rows, ecg, strict=True):
        assert min(one.values()) * 0.999 <= row["loss"] <= max(one.values()) * 1.001


def test_gradients_that_stay_bad_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(dropout: float) -> torch.nn.Module:
        module = model(dropout)
        torch.nn.init.constant_(next(module.parameters()), torch.nan)
        return module

    engine_of = engine
    monkeypatch.setitem(globals(), "engine", lambda *args: engine_of(*args, make=broken))
    with pytest.raises(RunError, match=r"not finite for 20 steps.*--schedule.peak-lr"):
        alone(tmp_path)


def test_batches_that_end_early_are_no_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tensor_batches
    monkeypatch.setitem(globals(), "tensor_batches", lambda batches: itertools.islice(whole(batches), 5))
    with pytest.raises(RunError, match="none after step 5; expected batches up to step 24"):
        alone(tmp_path)


@pytest.mark.parametrize("stop_after", [None, 9])
def test_a_run_whose_last_checkpoint_is_refused_fails_and_says_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int | None
) -> None:
    monkeypatch.setenv("XMAE_STORE_PATIENCE_S", "1")
    step = stop_after or 24
    blocked = tmp_path / "checkpoints" / f"step-{step:08d}"
    blocked.parent.mkdir()
    blocked.touch()  # a file where the checkpoint should be
    with pytest.raises(RunError, match=f"trained to step {step} of 24, which is not stored.*has no checkpoint"):
        alone(tmp_path, stop_after=stop_after)
    blocked.unlink()
    assert alone(tmp_path)["step"] == 24


def test_a_group_that_makes_room_for_the_next_leaves_though_its_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XMAE_STORE_PATIENCE_S", "1")
    monkeypatch.setattr(Notes, "wants_stop", lambda self: Stop.RESIZED if len(self.rows) == 5 else None)
    (tmp_path / "checkpoints").touch()
    found = alone(tmp_path)
    # A step is told one step late: the fifth row comes during the sixth, and the wish is heard in the seventh.
    assert found["step"] == 7 and not found["stopped"] and "checkpoint_missed" in found["events"]


NEVER = Patience()
FUSSY = Patience(validations=2, least_gain=0.9)
"""Nothing after the first validation gains 90 %, so a run ends at the fourth, at step 12."""


def test_validation_beside_training_changes_no_bit_of_it(tmp_path: Path) -> None:
    plain = alone(tmp_path / "plain", dropout=0.1)
    watched = alone(tmp_path / "watched", dropout=0.1, validate=NEVER)
    assert watched["losses"] == plain["losses"] and watched["step"] == 24
    assert [row["step"] for row in watched["validated"]] == watched["panels"] == list(range(3, 25, 3))
    first, last = watched["validated"][0], watched["validated"][-1]
    assert last["own"] < first["own"] and last["own"] < last["other"]
    assert np.mean(list(last["cohorts"].values())) == pytest.approx(last["own"], rel=1e-5)


@pytest.mark.parametrize("interrupted_after", [4, 6, 12])
def test_a_run_stops_early_at_the_same_step_however_often_it_was_interrupted(
    tmp_path: Path, interrupted_after: int
) -> None:
    whole = alone(tmp_path / "whole", validate=FUSSY)
    assert whole["converged"] and whole["step"] == 12
    first = alone(tmp_path / "parts", validate=FUSSY, stop_after=interrupted_after)
    second = alone(tmp_path / "parts", validate=FUSSY)
    assert (second["converged"], second["step"]) == (True, 12)
    errors = {row["step"]: row["own"] for row in whole["validated"]}
    assert {row["step"]: row["own"] for row in first["validated"] + second["validated"]} == errors
    third = alone(tmp_path / "parts", validate=FUSSY)
    assert third["converged"] and not third["rows"]


def test_the_best_checkpoint_outlives_the_recent_ones(tmp_path: Path) -> None:
    share = held_out_share(Ranks())
    validator = Validator(
        share,
        Ranks(),
        batch=4,
        patience=NEVER,
        tell=lambda **_: None,
        keep_panel=lambda *_: None,
        history={3: 0.5, 6: 0.2, 9: 0.2, 12: 0.4},
    )
    assert validator.kept_steps() == {6}
    found = [Found(step, f"step-{step}", True) for step in (3, 6, 9, 12)]
    gone = to_delete(found, RetentionConfig(keep_recent=1), committed=12, also_kept=validator.kept_steps())
    assert [one.step for one in gone] == [3, 9]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero2", "zero3"])
def test_ranks_agree_on_validations(tmp_path: Path, kind: str) -> None:
    alone_rows = alone(tmp_path / "alone", validate=FUSSY)["validated"]
    for found in run_ranks(2, run, tmp_path, f"file://{tmp_path}/two", kind, 24, None, 0.0, FUSSY):
        assert found["converged"] and found["step"] == 12
        assert [row["own"] for row in found["validated"]] == pytest.approx([row["own"] for row in alone_rows], rel=1e-3)


@pytest.mark.slow
def test_one_run_through_changing_workers_and_stages(tmp_path: Path) -> None:
    whole = alone(tmp_path / "whole")["losses"]
    url = f"file://{tmp_path}/parts"
    found: list[float] = []
    for world, kind in [(2, "zero1"), (1, "torch"), (3, "zero3"), (2, "zero2")]:
        folder = tmp_path / f"{world}-{kind}"
        folder.mkdir()
        found += run_ranks(world, run, folder, url, kind, 24, 6)[0]["losses"]
    assert len(found) == 24
    np.testing.assert_allclose(found, whole, rtol=1e-4)
