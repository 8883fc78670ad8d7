"""Ray's own autoscaler adding, replacing and ending nodes of a local cluster, with our jobs on it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from bench.spot import replay
from tests.data.corpora import corpus_of
from tests.train.reference_run import reference
from xmae_dist.cli import pretrain as command
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.model import bundle, presets
from xmae_dist.testing.autoscaling import NodeType
from xmae_dist.testing.local_cluster import LocalCluster, local_cluster
from xmae_dist.testing.timeline import IDLE_TIMEOUT_S, MOST_WORKERS, OPTIONS, Story, play, record
from xmae_dist.train.observe.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
TRAINER = NodeType(name="trainer", resources={"CPU": 1, "GPU": 1, "trainer": 1}, max_workers=2, boot_s=40)
TRAINING = (
    *("--train.steps", "3", "--train.global-batch", "24", "--validation.windows", "0", "--resources.reader", "direct"),
    *("--resources.may-grow", "--resources.node-resource", "trainer"),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("corpus"))
    words = [sys.executable, "-m", "xmae_dist.cli", "simulate", "bedside", "--corpus", url]
    subprocess.run([*words, "--subjects", "8", "--minutes", "10"], check=True, cwd=ROOT, capture_output=True)
    return url


@pytest.fixture(scope="module")
def growing() -> Iterator[LocalCluster]:
    """A head without CPUs; CPU nodes and nodes with a GPU come on demand, these last slowly."""
    kinds = (NodeType(name="data", resources={"CPU": 1}), TRAINER)
    with local_cluster(raylets=1, num_cpus=0, object_store_mib=150, node_types=kinds, idle_timeout_s=10) as cluster:
        yield cluster


def driver(cluster: LocalCluster, *words: str) -> subprocess.CompletedProcess[str]:
    """A Python process that joins the cluster from the head's machine."""
    environment = {**os.environ, **cluster.environment(), "RAY_ADDRESS": cluster.gcs_address, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600
    )


def wait_until_only_the_head(cluster: LocalCluster, patience_s: float) -> float:
    """Seconds until no other node is counted."""
    began_s = time.monotonic()
    while len(cluster.alive()) != 1:
        assert time.monotonic() - began_s < patience_s, [node["node_ip"] for node in cluster.alive()]
        time.sleep(0.5)
    return time.monotonic() - began_s


@pytest.mark.parametrize("elastic", [(), ("--train.min-workers", "1")], ids=["fixed", "elastic"])
def test_more_workers_than_its_nodes_can_hold_are_refused_before_any_starts(
    growing: LocalCluster, corpus: str, tmp_path: Path, elastic: tuple[str, ...]
) -> None:
    before = len(growing.machine_events())
    words = ("pretrain", "debug_cpu2", "--corpus", corpus, "--run", str(tmp_path / "run"), *TRAINING, *elastic)
    done = driver(growing, "-m", "xmae_dist.cli", *words, "--train.workers", "3")
    assert done.returncode == 2, done.stderr
    assert "--train.workers: got 3 workers (1 CPU, 1 trainer each)" in done.stderr
    assert "room for 0" in done.stderr and "max_workers of a node type that has CPU and trainer" in done.stderr
    assert not [row for row in growing.machine_events()[before:] if row["machine"].startswith("trainer")]


def test_a_run_says_what_it_waits_for_and_leaves_no_node_behind(
    growing: LocalCluster, corpus: str, tmp_path: Path
) -> None:
    """Its windows are there already, so that a worker's process is the first that reads by Ray Data."""
    words = ("-m", "xmae_dist.cli", "pretrain", "debug_cpu2", "--corpus", corpus, "--run", str(tmp_path / "run"))
    done = driver(growing, *words, *TRAINING, "--resources.reader", "ray", "--train.workers", "1")
    assert done.returncode == 0, done.stderr
    assert "waiting since 30 s for 1 workers (1 CPU, 1 trainer each): the nodes there have room for 0" in done.stderr
    assert "1 trainer starting" in done.stderr
    assert wait_until_only_the_head(growing, 60) < 10 + 15


def test_a_node_whose_run_keeps_processes_ready_is_given_back(
    growing: LocalCluster, corpus: str, tmp_path: Path
) -> None:
    """Ray counts a node with processes that wait for work as idle, and ends them with the job."""
    words = ["pretrain", "debug_cpu2", "--corpus", corpus, "--run", str(tmp_path / "run"), *TRAINING]
    words += ["--resources.spares", "--train.workers", "1", "--train.steps", "100000"]
    environment = {**os.environ, **growing.environment(), "RAY_ADDRESS": growing.gcs_address, "PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"
    with log.open("wb") as file:
        job = subprocess.Popen(
            [sys.executable, "-m", "xmae_dist.cli", *words], env=environment, cwd=ROOT, stdout=file, stderr=file
        )
    try:
        until_s = time.monotonic() + 400
        while not (spares := waiting_spares()):
            assert job.poll() is None and time.monotonic() < until_s, log.read_text()
            time.sleep(0.5)
    finally:
        job.terminate()
    assert job.wait(timeout=120) == 1 and "run the same command again to go on" in log.read_text(), log.read_text()
    after_s = wait_until_only_the_head(growing, 60)
    print(f"{spares} spare processes; nodes gone {after_s:.0f} s after the job's end")
    assert after_s < 10 + 15 and not waiting_spares()


def waiting_spares() -> int:
    found = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found += any(word.startswith("ray::IDLE spare") for word in process.cmdline())
    return found


TASKS = """
import json, sys
from xmae_dist.cluster import fanout

def work(number):
    import ray, time
    time.sleep(0.5)
    yield ray.get_runtime_context().get_node_id()

fanout.connect()
print(json.dumps({"cores": fanout.cores(), "nodes": list(fanout.stream(work, iter(range(6))))}))
"""


def test_work_on_cpus_stays_off_nodes_with_gpus_and_is_planned_for_nodes_to_come() -> None:
    """A node with a GPU is there and idle; the CPU pool is at zero."""
    kinds = (
        NodeType(name="data", resources={"CPU": 1}),
        NodeType(name="trainer", resources={"CPU": 1, "GPU": 1, "trainer": 1}, min_workers=1),
    )
    with local_cluster(raylets=1, num_cpus=0, object_store_mib=150, node_types=kinds) as cluster:
        until_s = time.monotonic() + 180
        while len(cluster.alive()) < 2 and time.monotonic() < until_s:
            time.sleep(0.5)
        (trainer,) = [node["node_id"] for node in cluster.alive() if node["resources_total"].get("GPU")]
        done = driver(cluster, "-c", TASKS)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert len(found["nodes"]) == 6 and trainer not in found["nodes"]
        assert found["cores"] == 16, "one CPU was there"
        placed = {task["node_id"] for task in cluster.state("tasks") if task["name"] == "work"}
        assert placed and trainer not in placed


@pytest.fixture(scope="module")
def told(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Story, str]:
    run = str(tmp_path_factory.mktemp("timeline") / "run")
    return play(corpus, run), run


def test_the_timeline_of_a_run_on_nodes_that_come_and_go(told: tuple[Story, str]) -> None:
    story, _ = told
    order = [
        "submitted",
        "trains with 1 from step 0",
        f"trains with {MOST_WORKERS}",
        "spot notice for trainer-",
        "trains with ",  # with two, or with three where the replacement was there before the new group began
        "taken away",
        "killed",
        f"trains with {MOST_WORKERS}",
        "the job has ended",
        "nothing but the head is left",
    ]
    said = iter([what for _, what in story.events])
    missing = [wanted for wanted in order if not any(wanted in what for what in said)]
    assert not missing, f"{missing} not in this order: {story.events}"
    noticed, killed = (at for at, (_, what) in enumerate(story.events) if "spot notice" in what or "killed" in what)
    assert any(f"trains with {MOST_WORKERS}" in what for _, what in story.events[noticed:killed]), "it did not recover"
    assert story.idle_nodes_gone_after_s <= IDLE_TIMEOUT_S + 15


def test_no_task_ran_on_a_node_with_a_gpu_while_it_trained(told: tuple[Story, str]) -> None:
    story, _ = told
    with_gpu = {name for name, node in story.nodes.items() if node["resources_total"].get("GPU")}
    reads = [task for task in story.tasks if "Read" in task["name"] and task["node_id"]]
    assert reads and len(with_gpu) >= MOST_WORKERS
    assert not [task for task in reads if task["node_id"] in with_gpu]


def test_the_losses_are_those_of_an_undisturbed_run(told: tuple[Story, str], corpus: str, tmp_path: Path) -> None:
    _, run = told
    config = command.parse(("debug_cpu2", "--corpus", corpus, "--run", run, *OPTIONS)).config
    rows = {row["step"]: row["loss"] for row in read_metrics(run) if row["kind"] == "step"}
    found = np.array([rows[step] for step in sorted(rows)])
    assert sorted(rows) == list(range(1, len(found) + 1)), "no step is missing"
    store_url = str(json.loads(Path(run, "run.json").read_text())["store"])
    losses, _ = reference(config, store_url, 1, len(found), tmp_path / "reference")
    print(f"worst relative difference {np.abs(found / losses - 1).max():.1e} over {len(found)} steps")
    np.testing.assert_allclose(found, losses, rtol=1e-3)


def test_a_played_fleet_makes_about_the_steps_of_the_real_run(told: tuple[Story, str]) -> None:
    """The machines' changes as they were; speed and what a restart takes are those of the run itself."""
    story, run = told
    played, made = replay(record(story, run))
    print(f"steps: played {played:.0f}, real {made:.0f}, error {played / made - 1:+.1%}")
    assert made > 20 and abs(played / made - 1) < 0.3


SUITE = """
name = "bench"
title = "Bench people"
[[task]]
name = "rate"
title = "Heart rate"
label = "heart_rate_bpm"
kind = "regression"
"""


def test_windows_evaluation_and_embedding_from_zero_nodes_and_back(growing: LocalCluster, tmp_path: Path) -> None:
    """Each brings the CPU node that it needs and none with a GPU, and keeps none."""
    corpus_of(f"file://{tmp_path}/corpus", subjects=12, recordings=1)
    bundle.save(f"file://{tmp_path}/bundle", presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={})
    (tmp_path / "suite.toml").write_text(SUITE)
    places = {name: f"file://{tmp_path}/{name}" for name in ("corpus", "windows", "bundle", "table", "out")}
    encoder, corpus = ("--bundle", places["bundle"]), ("--corpus", places["corpus"])
    suite = ("--suite", f"file://{tmp_path}/suite.toml", "--replicates", "100")
    for words in (
        ("windows", *corpus, "--out", places["windows"]),
        ("evaluate", "--windows", places["windows"], *encoder, "--out", places["out"], *suite),
        ("reembed", *corpus, *encoder, "--table", places["table"]),
    ):
        wait_until_only_the_head(growing, 60)
        before = len(growing.machine_events())
        done = driver(growing, "-m", "xmae_dist.cli", *words)
        assert done.returncode == 0, done.stderr
        after_s = wait_until_only_the_head(growing, 60)
        print(f"{words[0]}: nodes gone {after_s:.0f} s after its end")
        assert after_s < 10 + 15
        started = [row["machine"] for row in growing.machine_events()[before:] if row["event"] == "started"]
        assert started and all(name.startswith("data-") for name in started), words[0]
