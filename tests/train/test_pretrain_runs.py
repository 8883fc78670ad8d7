"""`xmae pretrain` as its users meet it: real processes, killed for real, stopped, refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.model import bundle
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.observe.metrics import read_metrics

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--train.steps", "24", "--train.global-batch", "16", "--checkpoint.every-steps", "6")


def xmae(*words: str, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "xmae_dist.cli", *words],
        env=environment,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=900)
    return process.returncode, out + err


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = str(tmp_path_factory.mktemp("corpus"))
    status, said = finished(xmae("simulate", "bedside", "--corpus", url, "--subjects", "16", "--minutes", "10"))
    assert status == 0, said
    yield url


def pretrain(corpus: str, run: Path, *options: str, **variables: str) -> subprocess.Popen[str]:
    return xmae("pretrain", "debug_cpu2", "--corpus", corpus, "--run", str(run), *SMALL, *options, **variables)


def losses(run: Path) -> dict[int, tuple[float, float]]:
    return {row["step"]: (row["loss"], row["grad_norm"]) for row in read_metrics(str(run)) if row["kind"] == "step"}


def wait_for_checkpoint(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    marker = run / "checkpoints" / f"step-{step:08d}" / checkpoint.COMPLETE
    while not marker.exists():
        assert process.poll() is None, finished(process)[1]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def uninterrupted(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "uninterrupted"
    status, said = finished(pretrain(corpus, run))
    assert status == 0, said
    return run


@pytest.mark.timeout(1800)
def test_a_run_leaves_all_it_promises(uninterrupted: Path) -> None:
    assert sorted(losses(uninterrupted)) == list(range(1, 25))
    names = {str(path.relative_to(uninterrupted)) for path in uninterrupted.rglob("*") if path.is_file()}
    assert {"figures/curves.png", "figures/reconstructions.png", "run.json"} <= names
    assert any(name.startswith("tensorboard/events") for name in names)
    assert [one.step for one in checkpoint.list_checkpoints(str(uninterrupted))] == [24, 18, 12]


@pytest.mark.timeout(1800)
def test_the_same_command_gives_the_same_bits(corpus: str, uninterrupted: Path, tmp_path: Path) -> None:
    status, said = finished(pretrain(corpus, tmp_path / "again"))
    assert status == 0, said
    assert losses(tmp_path / "again") == losses(uninterrupted)


@pytest.mark.timeout(1800)
def test_killed_and_started_again_it_ends_with_the_same_bits(corpus: str, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    process = pretrain(corpus, run)
    wait_for_checkpoint(run, 6, process)
    process.kill()
    process.communicate()
    status, said = finished(pretrain(corpus, run))
    assert status == 0, said
    assert "started at step 0" not in said
    assert losses(run) == losses(uninterrupted)
    one, two = (checkpoint.read_manifest(checkpoint.step_url(str(r), 24)) for r in (run, uninterrupted))
    assert [file["sha256"] for file in one["files"]] == [file["sha256"] for file in two["files"]]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", ["1", "3"])
def test_a_damaged_checkpoint_is_passed_over_by_all_ranks(corpus: str, tmp_path: Path, stage: str) -> None:
    run, options = tmp_path / "damaged", ("--engine.zero-stage", stage)
    process = pretrain(corpus, run, *options)
    wait_for_checkpoint(run, 12, process)
    process.terminate()  # a killed driver's workers may write one more checkpoint
    finished(process)
    first = losses(run)
    newest, older = checkpoint.list_checkpoints(str(run))[:2]
    shard = sorted(Path(newest.url.removeprefix("file://")).glob("*.safetensors"))[-1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    status, said = finished(pretrain(corpus, run, *options))
    assert status == 0 and f"started at step {older.step}" in said, said
    assert said.count("checkpoint passed over") == 1 and f"{shard.name}, MiB" in said, said
    again = losses(run)
    assert sorted(again) == list(range(1, 25)) and {step: again[step] for step in first} == first


@pytest.mark.timeout(1800)
def test_stopped_by_sigterm_it_saves_and_goes_on_later(corpus: str, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "stopped"
    process = pretrain(corpus, run)
    wait_for_checkpoint(run, 6, process)
    os.kill(process.pid, signal.SIGTERM)
    status, said = finished(process)
    assert status == 1 and "stopped at step" in said, said
    stopped_at = checkpoint.list_checkpoints(str(run))[0]
    assert stopped_at.complete and stopped_at.step < 24
    status, said = finished(pretrain(corpus, run))
    assert status == 0 and f"started at step {stopped_at.step}" in said, said
    assert losses(run) == losses(uninterrupted)


@pytest.mark.timeout(1800)
def test_a_run_that_cannot_store_its_last_step_fails_and_export_takes_no_older_one_unasked(
    corpus: str, uninterrupted: Path, tmp_path: Path
) -> None:
    run, bundle_of = tmp_path / "full", lambda name: str(tmp_path / name)
    blocked = run / "checkpoints" / "step-00000024"
    blocked.parent.mkdir(parents=True)
    blocked.touch()  # a file where the last checkpoint should be
    process = pretrain(corpus, run, "--json", XMAE_STORE_PATIENCE_S="3")
    status, said = finished(process)
    assert status == 1 and "trained to step 24 of 24, which is not stored" in said, said
    assert "newest checkpoint is of step 18" in said and '"step": 24' not in said, said
    status, said = finished(xmae("export", "--run", str(run), "--out", bundle_of("any")))
    assert status == 2 and "--step 18" in said and not Path(bundle_of("any")).exists(), said
    status, said = finished(xmae("export", "--run", str(run), "--out", bundle_of("older"), "--step", "18"))
    assert status == 0, said
    blocked.unlink()
    status, said = finished(pretrain(corpus, run))
    assert status == 0 and losses(run) == losses(uninterrupted), said
    status, said = finished(xmae("export", "--run", str(run), "--out", bundle_of("last")))
    assert status == 0 and bundle.load(bundle_of("last")).lineage["step"] == 24, said


@pytest.mark.timeout(1800)
def test_a_second_driver_of_a_run_is_refused_and_the_first_goes_on(
    corpus: str, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "shared"
    first = pretrain(corpus, run)
    while not (run / "lease" / "00000001.beat").exists():
        assert first.poll() is None, finished(first)[1]
        time.sleep(0.05)
    status, said = finished(pretrain(corpus, run, "--train.seed", "7"))
    assert status == 2 and f"process {first.pid} on " in said.splitlines()[-1], said
    status, said = finished(first)
    assert status == 0 and losses(run) == losses(uninterrupted), said


@pytest.mark.timeout(1800)
def test_stopped_before_anything_is_stored_it_says_so(corpus: str, tmp_path: Path) -> None:
    run = tmp_path / "full"
    run.mkdir()
    (run / "checkpoints").touch()
    process = pretrain(corpus, run, "--train.steps", "20000", XMAE_STORE_PATIENCE_S="2")
    while not read_metrics(str(run)):
        assert process.poll() is None, finished(process)[1]
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    status, said = finished(process)
    assert status == 1 and "of 20000, which is not stored" in said and "it has no checkpoint" in said, said
    assert "with a checkpoint" not in said.rsplit("xmae pretrain: error", 1)[1]


@pytest.mark.timeout(900)
def test_a_run_refuses_to_become_another(corpus: str, uninterrupted: Path) -> None:
    status, said = finished(pretrain(corpus, uninterrupted, "--train.seed", "7"))
    assert status == 2 and "--checkpoint.accept plan" in said, said
    status, said = finished(pretrain(corpus, uninterrupted, "--model.width", "48"))
    assert status == 2 and "new --run" in said, said


@pytest.mark.timeout(900)
def test_more_workers_than_the_machine_has_are_refused(corpus: str, tmp_path: Path) -> None:
    status, said = finished(pretrain(corpus, tmp_path, "--train.workers", "512", "--train.global-batch", "4096"))
    assert status == 2 and "--train.workers" in said and "Traceback" not in said, said


@pytest.mark.timeout(900)
def test_a_missing_corpus_is_told_at_once(tmp_path: Path) -> None:
    status, said = finished(pretrain(str(tmp_path / "nowhere"), tmp_path / "run"))
    assert status == 2 and "no corpus there" in said and "Traceback" not in said, said


@pytest.mark.timeout(900)
def test_export_writes_a_bundle_that_loads(uninterrupted: Path, tmp_path: Path) -> None:
    status, said = finished(xmae("export", "--run", str(uninterrupted), "--out", str(tmp_path / "bundle")))
    assert status == 0, said
    loaded = bundle.load(str(tmp_path / "bundle"))
    assert loaded.lineage["step"] == 24 and loaded.window_spec["rate_hz"] == 100.0
    assert loaded.pretrained_on["cohorts"] == ["bedside"]
    assert SplitConfig.from_dict(loaded.pretrained_on["split"]) == SplitConfig()


@pytest.mark.timeout(1800)
def test_a_killed_worker_costs_a_restart_and_no_bits(corpus: str, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "worker-killed"
    process = pretrain(corpus, run)
    wait_for_checkpoint(run, 6, process)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in family if any("RayTrainWorker" in word for word in child.cmdline())]
    assert len(workers) == 2
    workers[1].kill()
    status, said = finished(process)
    assert status == 0, said
    assert said.count("started at step") == 2, said
    assert losses(run) == losses(uninterrupted)


def test_windows_cut_on_the_fly_train_the_same(corpus: str, tmp_path: Path) -> None:
    runs = {"stored": (), "cut": ("--on-the-fly",)}
    for name, options in runs.items():
        status, said = finished(pretrain(corpus, tmp_path / name, "--train.workers", "1", *options))
        assert status == 0, said
    stored, cut = (losses(tmp_path / name) for name in runs)
    assert len(stored) == 24
    assert stored == cut
