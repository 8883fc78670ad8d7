"""The head of a cluster is killed while a run trains, where the control server's state outlives it.

The cluster goes on: its nodes wait, and the head that comes back knows them, their labels and its jobs. The run does
not: its driver was on the head. It ends in one line, and the same command goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.data.corpora import corpus_of
from xmae_dist.testing import redis_server
from xmae_dist.testing.local_cluster import LocalCluster, local_cluster
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.observe.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = (
    *("pretrain", "debug_cpu2", "--train.workers", "1", "--train.global-batch", "8", "--train.steps", "1000000"),
    *("--checkpoint.every-steps", "5", "--validation.windows", "0", "--resources.reader", "direct"),
)


@pytest.fixture(params=["rocksdb", "redis"])
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    """A head without CPUs, so that all work is on another node."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # A node waits so long for a head that is away; a minute unless told.
    environment = {"PATH": path, "RAY_gcs_rpc_server_reconnect_timeout_s": "240"}
    with contextlib.ExitStack() as stack:
        control: Any = request.param
        if control == "redis":
            if not redis_server.installed():
                pytest.skip("redis-server (Debian's package) is not installed")
            control = stack.enter_context(redis_server.serve_redis())
        running = stack.enter_context(local_cluster(raylets=1, num_cpus=0, environment=environment, control=control))
        running.add_node(num_cpus=1)
        yield running


def submitted(cluster: LocalCluster, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **cluster.environment(), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "xmae_dist.cli", "submit", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(what: str, true: Callable[[], Any], patience_s: float = 300.0) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.5)


def newest_checkpoint(run: str) -> int:
    return max((one.step for one in checkpoint.list_checkpoints(run) if one.complete), default=0)


def workers(node: subprocess.Popen[bytes]) -> list[psutil.Process]:
    family = psutil.Process(node.pid).children(recursive=True)
    return [one for one in family if "RayTrainWorker" in "".join(one.cmdline()[:1])]


def test_a_cluster_outlives_its_head_and_a_run_goes_on_when_it_is_submitted_again(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    corpus, run = f"file://{tmp_path}/corpus", f"file://{tmp_path}/run"
    corpus_of(corpus, subjects=4, recordings=1, duration_s=125.0)
    words = (*PRETRAIN, "--corpus", corpus, "--run", run)
    follower = submitted(cluster, "--name", "first", *words)
    wait_until("a checkpoint", lambda: newest_checkpoint(run) >= 5 or follower.poll() is not None)
    assert follower.poll() is None, follower.communicate()
    of_the_first = workers(cluster.nodes[1])
    assert of_the_first
    (node,) = [one for one in cluster.alive() if one["node_ip"] == cluster.node_ip(cluster.nodes[1])]

    cluster.lose_head()
    cluster.return_head()

    out, err = follower.communicate(timeout=400)
    print(err)
    assert follower.returncode == 1
    assert "job first was lost with its machine: " in err and "Traceback" not in err, err
    assert cluster.nodes[1].poll() is None, "the other node went with the head"
    assert node["node_id"] in {one["node_id"] for one in cluster.alive()}
    wait_until("the old workers' end", lambda: not any(one.is_running() for one in of_the_first), 120)

    saved, since_s = newest_checkpoint(run), time.time()
    again = submitted(cluster, "--name", "again", *words)
    wait_until("another checkpoint", lambda: newest_checkpoint(run) > saved or again.poll() is not None)
    stopped = subprocess.run(
        [str(Path(sys.executable).with_name("ray")), "job", "stop", "again"],
        env={**os.environ, **cluster.environment()},
        capture_output=True,
        text=True,
    )
    out, err = again.communicate(timeout=200)
    assert again.returncode == 143, out + err + stopped.stdout
    (start,) = [row for row in read_metrics(run) if row["kind"] == "start" and row["time_s"] > since_s]
    assert start["step"] >= saved >= 5, "it goes on from the newest checkpoint"
