"""Bad configuration is refused by name, before anything starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from xmae_dist.cli import pretrain as command
from xmae_dist.core.errors import ConfigError, UsageError
from xmae_dist.data.order.plan import OrderConfig, plan_of
from xmae_dist.data.store.window_store import Segment
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.recipes import RECIPES, recipe
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.checkpoints.state import Identity
from xmae_dist.train.config import (
    EngineConfig,
    ModelConfig,
    PretrainConfig,
    ResourceConfig,
    TrainConfig,
    check,
    model_config,
)
from xmae_dist.train.launch import check_cluster, config_dict, continued
from xmae_dist.train.order import order_of


def config(**changes: Any) -> PretrainConfig:
    return PretrainConfig(corpus="/corpus", run="/run", **changes)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_sound(name: str) -> None:
    check(dataclasses.replace(recipe(name), corpus="/corpus", run="/run"))


@pytest.mark.parametrize(
    ("train", "option", "fix"),
    [
        (
            TrainConfig(global_batch=50, micro_batch=16, workers=2),
            "--train.global-batch",
            "--train.micro-batch 5, or --train.global-batch 64",
        ),
        (TrainConfig(global_batch=63, micro_batch=16, workers=2), "--train.global-batch", "--train.global-batch 64"),
        (TrainConfig(workers=2, min_workers=3), "--train.min-workers", None),
        (TrainConfig(steps=0), "--train.steps", None),
        (TrainConfig(read_windows=100), "--train.read-windows", "--train.read-windows 128"),
        (TrainConfig(read_windows=128, block_steps=48), "--train.block-steps", "--train.block-steps 16"),
        (TrainConfig(read_windows=256, block_steps=4), "--train.read-windows", "--train.block-steps 256"),
        (TrainConfig(block_steps=0), "--train.block-steps", None),
    ],
)
def test_batches_and_workers_that_do_not_fit_name_the_option_and_the_fix(
    train: TrainConfig, option: str, fix: str | None
) -> None:
    with pytest.raises(ConfigError) as refused:
        check(config(train=train))
    assert option in str(refused.value)
    assert refused.value.exit_status == 2
    if fix:
        assert refused.value.fix == fix


def test_withdrawn_recordings_are_not_cut_on_the_fly() -> None:
    check(config(allow_withdrawn=True))
    with pytest.raises(ConfigError, match="--allow-withdrawn"):
        check(config(allow_withdrawn=True, on_the_fly=True))


def test_reads_are_part_of_the_order_and_their_defaults_leave_it_as_it_was() -> None:
    segments = [Segment(cohort="a", part="p0", first_id=0, n=5000)]

    def fingerprint(**train: Any) -> str:
        return plan_of(segments, 64, order_of(config(train=TrainConfig(**train)))).fingerprint()

    assert fingerprint() == plan_of(segments, 64, OrderConfig(seed=0, global_batch=64)).fingerprint()
    assert len({fingerprint(), fingerprint(read_windows=128), fingerprint(read_windows=128, block_steps=64)}) == 3


def test_the_advice_works() -> None:
    check(config(train=TrainConfig(global_batch=50, micro_batch=5, workers=2)))


def test_a_micro_batch_larger_than_a_workers_share_is_that_share() -> None:
    """An elastic run's micro-batch is set for its fewest workers; with more, each has less than that."""
    large = config(train=TrainConfig(global_batch=64, micro_batch=32, workers=4, min_workers=1))
    check(large)
    assert [large.accumulation(world) for world in (1, 2, 3, 4)] == [2, 1, 1, 1]


def test_between_the_ends_of_an_elastic_run_shares_may_differ_by_a_window() -> None:
    elastic = config(train=TrainConfig(global_batch=64, micro_batch=16, workers=4, min_workers=1))
    check(elastic)
    assert [elastic.accumulation(world) for world in (1, 2, 3, 4)] == [4, 2, 2, 1]


@pytest.mark.parametrize(
    ("engine", "option"),
    [
        (EngineConfig(zero_stage=2, offload_parameters=True), "--engine.offload-parameters"),
        (EngineConfig(zero_stage=0, offload_optimizer=True), "--engine.offload-optimizer"),
        (EngineConfig(precision="bf16"), "--engine.precision"),
    ],
)
def test_impossible_engines_are_refused(engine: EngineConfig, option: str) -> None:
    with pytest.raises(ConfigError, match=option):
        check(config(engine=engine))


def test_a_run_needs_a_corpus_and_a_place() -> None:
    with pytest.raises(ConfigError, match="--corpus"):
        check(PretrainConfig(run="/run"))
    with pytest.raises(ConfigError, match="--run"):
        check(PretrainConfig(corpus="/corpus"))


def test_options_override_a_recipe_and_reach_the_saved_configuration() -> None:
    args = command.parse(
        ["debug_cpu2", "--corpus", "c", "--run", "r", "--train.steps", "7", "--engine.zero-stage", "3", "--dry-run"]
    )
    assert args.dry_run
    saved = config_dict(args.config)
    assert (saved["train"]["steps"], saved["engine"]["zero_stage"]) == (7, 3)
    assert saved["train"]["global_batch"] == recipe("debug_cpu2").train.global_batch


def test_unknown_recipes_presets_and_options_end_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="debug_cpu2"):
        command.parse(["no_such_recipe"])
    with pytest.raises(SystemExit) as ended:
        command.parse(["debug_cpu2", "--train.stepz", "3"])
    assert ended.value.code == 2
    assert "--train.steps" in capsys.readouterr().err  # the option that was meant
    args = command.parse(["debug_cpu2", "--corpus", "c", "--run", "r", "--model.preset", "gigantic"])
    with pytest.raises(ConfigError, match="gigantic"):
        model_config(args.config)


def test_a_checkpoint_of_another_run_is_refused_by_name() -> None:
    own = Identity(snapshot="a", windows="b", plan="c", model="d")
    own.check(own.to_dict(), (), "here")
    with pytest.raises(ConfigError, match=r"snapshot.*--checkpoint.accept snapshot"):
        own.check({**own.to_dict(), "snapshot": "x"}, (), "here")
    own.check({**own.to_dict(), "snapshot": "x"}, ("snapshot",), "here")
    with pytest.raises(ConfigError, match=r"model.*new --run"):
        own.check({**own.to_dict(), "model": "x"}, ("snapshot", "windows", "plan"), "here")


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "debug_cpu2"])
def test_recipes_begin_with_the_learning_rate_of_their_preset(name: str) -> None:
    from xmae_dist.model.presets import PEAK_LR

    assert recipe(name).schedule.peak_lr == PEAK_LR[recipe(name).model.preset]


@pytest.mark.parametrize("differs", ["snapshot", "windows", "plan", "model"])
def test_a_run_whose_checkpoint_is_of_another_is_refused_before_any_worker(differs: str, tmp_path: Path) -> None:
    own = Identity(snapshot="a", windows="b", plan="c", model="d")
    run = f"file://{tmp_path}"
    state = {"step": 3, "windows_seen": 48, "optimizer_steps": 3}
    checkpoint.commit(checkpoint.step_url(run, 3), [], {"state": state, "identity": {**own.to_dict(), differs: "x"}})
    wanted = config()
    with pytest.raises(ConfigError, match=rf"step-00000003, {differs}: .* new --run"):
        continued(dataclasses.replace(wanted, run=run), own, None)
    if differs != "model":
        accepting = dataclasses.replace(wanted.checkpoint, accept=(differs,))
        assert continued(dataclasses.replace(wanted, run=run, checkpoint=accepting), own, None) == own


def test_checkpoints_of_before_there_were_sums_go_on(tmp_path: Path) -> None:
    own = Identity(snapshot="of sums", windows="b", plan="c", model="d")
    then = dataclasses.replace(own, snapshot="of lines")
    run = f"file://{tmp_path}"
    state = {"step": 3, "windows_seen": 48, "optimizer_steps": 3}
    checkpoint.commit(checkpoint.step_url(run, 3), [], {"state": state, "identity": then.to_dict()})
    wanted = dataclasses.replace(config(), run=run)
    assert continued(wanted, own, "of lines") == then, "as the workers will compare it"
    with pytest.raises(ConfigError, match="snapshot"):
        continued(wanted, own, "of other lines")


def test_workers_that_the_cluster_cannot_have_are_refused(ray_local: None) -> None:
    wanted = config(train=TrainConfig(workers=512, global_batch=4096, micro_batch=8))
    with pytest.raises(ConfigError, match=r"--train\.workers: got 512, .* fix: --train\.workers 4, or .*may-grow"):
        check_cluster(wanted)
    check_cluster(dataclasses.replace(wanted, train=dataclasses.replace(wanted.train, min_workers=2)))


def test_a_folder_for_copies_without_room_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--resources\.cache-folder: got /fast with --resources\.cache-gib 0; .* N"):
        check(config(resources=ResourceConfig(cache_folder="/fast")))
    check(config(resources=ResourceConfig(cache_folder="/fast", cache_gib=1.0)))


def test_readers_that_would_wait_for_ever_are_refused(ray_local: None) -> None:
    four = TrainConfig(workers=4, global_batch=32, micro_batch=8)  # all CPUs
    check_cluster(config(train=four, resources=ResourceConfig(read_cpus=0)))
    with pytest.raises(ConfigError, match=r"--resources\.read-cpus: got 1 of a read task; expected at most 0"):
        check_cluster(config(train=four, resources=ResourceConfig(read_cpus=1)))
    check_cluster(config(train=four, resources=ResourceConfig(read_cpus=1, reader="direct")))
    check_cluster(config(train=four, resources=ResourceConfig(read_cpus=1, worker_cpus=0.75)))
    with pytest.raises(ConfigError, match=r"--resources\.read-label: got role=reader; expected the label of a node"):
        check_cluster(config(train=four, resources=ResourceConfig(read_label="role=reader")))


@pytest.mark.parametrize("preset", ["paper", "published", "clip", "ecg_mae_80", "symmetric"])
def test_windows_without_the_target_are_for_models_of_the_source(preset: str) -> None:
    alone = WindowSpec(require=("ppg",))
    check(config(spec=alone, model=ModelConfig(preset="ppg_mae_75")))
    with pytest.raises(ConfigError, match=f"spec.require: got ppg; expected ecg and ppg: --model.preset {preset}"):
        check(config(spec=alone, model=ModelConfig(preset=preset)))
