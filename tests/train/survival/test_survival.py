"""One run through lost machines, notices, hung workers and resizes on a real cluster: the same bits, no step lost."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.torch import load_file

from tests.train.reference_run import reference, state_digest
from xmae_dist.cli import pretrain as command
from xmae_dist.testing.local_cluster import LocalCluster, local_cluster
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.config import PretrainConfig
from xmae_dist.train.observe.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[3]
# More steps than any test waits for: a run is stopped when it has shown what it should.
OPTIONS = (
    *("--train.steps", "20000", "--train.global-batch", "16", "--train.silence-s", "8", "--train.resize-check-s", "3"),
    *("--checkpoint.every-steps", "20", "--validation.windows", "0", "--resources.reader", "direct"),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("corpus"))
    command = [sys.executable, "-m", "xmae_dist.cli", "simulate", "bedside", "--corpus", url]
    subprocess.run([*command, "--subjects", "8", "--minutes", "10"], check=True, cwd=ROOT, capture_output=True)
    return url


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A head without CPUs, where the driver is; each test adds the machines that train."""
    with local_cluster(raylets=1, num_cpus=0, object_store_mib=150) as running:
        yield running


@dataclass
class Run:
    """A run under way on the cluster, and what its driver has said."""

    cluster: LocalCluster
    folder: Path
    words: tuple[str, ...]
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        environment = {**os.environ, **self.cluster.environment(), "RAY_ADDRESS": self.cluster.gcs_address}
        with open(f"{self.folder}.log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "xmae_dist.cli", "pretrain", *self.words],
                env={**environment, "PYTHONPATH": str(ROOT)},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def said(self) -> str:
        return Path(f"{self.folder}.log").read_text()

    def until(self, what: str, true: object, patience_s: float = 600.0) -> None:
        """Waits for `true()`."""
        deadline = time.monotonic() + patience_s
        while not true():  # type: ignore[operator]
            assert self.process.poll() is None and time.monotonic() < deadline, f"{what}: {self.said()[-3000:]}"
            time.sleep(0.1)

    def starts(self) -> list[tuple[int, int]]:
        """(step, world) of every start so far."""
        found = re.findall(r"started at step (\d+) with (\d+) workers", self.said())
        return [(int(step), int(world)) for step, world in found]

    def until_start(self, number: int) -> tuple[int, int]:
        self.until(f"start {number}", lambda: len(self.starts()) >= number)
        return self.starts()[number - 1]

    def until_saved(self, after: int) -> int:
        """The step of a complete checkpoint later than `after`."""
        self.until(f"checkpoint after {after}", lambda: self.newest() > after)
        return self.newest()

    def newest(self) -> int:
        complete = [one.step for one in checkpoint.list_checkpoints(str(self.folder)) if one.complete]
        return max(complete, default=0)

    def last_step(self) -> int:
        return max((row["step"] for row in read_metrics(str(self.folder))), default=0)

    def workers(self) -> list[psutil.Process]:
        """The training processes, over all machines."""
        found = []
        for node in self.cluster.nodes:
            if node.poll() is None:
                family = psutil.Process(node.pid).children(recursive=True)
                found += [one for one in family if any("RayTrainWorker" in word for word in words_of(one))]
        return found

    def node_of(self, worker: psutil.Process) -> subprocess.Popen[bytes]:
        above = {parent.pid for parent in worker.parents()}
        return next(node for node in self.cluster.nodes if node.pid in above)

    def stop(self) -> int:
        """Stops the run with a checkpoint; returns its step."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=120)
        assert "with a checkpoint" in self.said(), self.said()[-3000:]
        return self.newest()

    @property
    def config(self) -> PretrainConfig:
        return command.parse(self.words).config

    @property
    def store_url(self) -> str:
        return str(json.loads((self.folder / "run.json").read_text())["store"])

    def state(self, step: int) -> str:
        """Digest of rank 0's share of a checkpoint."""
        url = checkpoint.step_url(str(self.folder), step)
        first = checkpoint.read_manifest(url)["files"][0]["name"]
        return state_digest(load_file(Path(url, first)).items())

    def losses(self, steps: int) -> list[float]:
        rows = {row["step"]: row["loss"] for row in read_metrics(str(self.folder)) if row["kind"] == "step"}
        return [rows[step] for step in range(1, steps + 1)]


def words_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def run(cluster: LocalCluster, corpus: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    """A run with the options of the test's `run` mark; ended with the test, and its machines with it."""
    words = ("debug_cpu2", "--corpus", corpus, "--run", str(tmp_path / "run"), *OPTIONS, *request.param)
    before = len(cluster.nodes)
    cluster.add_node(num_cpus=1, object_store_mib=150)
    cluster.add_node(num_cpus=1, object_store_mib=150)
    running = Run(cluster, tmp_path / "run", words)
    yield running
    running.process.kill()
    running.process.wait()
    for node in cluster.nodes[before:]:
        if node.poll() is None:
            os.killpg(node.pid, signal.SIGKILL)


@pytest.mark.parametrize("run", [()], indirect=True, ids=[""])
def test_lost_hung_and_taken_away_it_ends_with_the_same_bits(run: Run, tmp_path: Path) -> None:
    """Every fault leaves as many machines as workers, so the run must equal one without faults bit for bit."""
    assert run.until_start(1) == (0, 2)

    saved = run.until_saved(0)
    run.cluster.add_node(num_cpus=1, object_store_mib=150)
    lost = run.node_of(run.workers()[0])
    os.killpg(lost.pid, signal.SIGKILL)  # raylet and workers: a machine is gone
    step, world = run.until_start(2)
    assert step >= saved and world == 2

    saved = run.until_saved(step)
    stopped = run.workers()[0]
    stopped.suspend()
    began_s = time.monotonic()
    run.until("the hung worker is named", lambda: f"process {stopped.pid} on 127.0.0." in run.said())
    named_after_s = time.monotonic() - began_s
    assert re.search(r"HUNG.*not heard of for \d+ s: rank \d in .*; meanwhile rank \d in all_\w+ of", run.said())
    step, world = run.until_start(3)
    assert step >= saved and world == 2
    print(f"hung worker named after {named_after_s:.1f} s")
    assert named_after_s < 60

    run.until_saved(step)
    leaving = run.node_of(run.workers()[0])
    run.cluster.add_node(num_cpus=1, object_store_mib=150)
    done = run.last_step()
    with notice(run.cluster, leaving):
        began_s = time.monotonic()
    run.until(
        "a checkpoint after the notice", lambda: not run.workers() or leaving not in map(run.node_of, run.workers())
    )
    print(f"left {time.monotonic() - began_s:.1f} s after the notice")
    assert time.monotonic() - began_s < 30
    saved_for_it = run.newest()
    os.killpg(leaving.pid, signal.SIGKILL)
    step, world = run.until_start(4)
    assert step == saved_for_it >= done and world == 2

    run.until_saved(step)
    end = run.stop()
    losses, state = reference(run.config, run.store_url, 2, end, tmp_path / "reference")
    assert run.losses(end) == losses
    assert run.state(end) == state


@pytest.mark.parametrize("run", [("--train.min-workers", "1")], indirect=True, ids=[""])
def test_an_elastic_run_goes_on_with_what_there_is(run: Run, tmp_path: Path) -> None:
    step, world = run.until_start(1)
    starts = 1
    if world == 1:  # the second machine was counted too late: it is resized like any that comes later
        starts, (step, world) = 2, run.until_start(2)
    assert world == 2
    saved = run.until_saved(step)
    os.killpg(run.node_of(run.workers()[0]).pid, signal.SIGKILL)
    step, world = run.until_start(starts + 1)
    assert step >= saved and world == 1
    run.until_saved(step)
    done = run.last_step()
    run.cluster.add_node(num_cpus=1, object_store_mib=150)
    step, world = run.until_start(starts + 2)
    assert step >= done and world == 2, "saved before it was resized"
    run.until_saved(step)
    end = run.stop()
    losses, _ = reference(run.config, run.store_url, 1, end, tmp_path / "reference")
    found = np.array(run.losses(end))
    print(f"worst relative difference {np.abs(found / losses - 1).max():.1e} over {end} steps")
    np.testing.assert_allclose(found, losses, rtol=1e-3)


@contextlib.contextmanager
def notice(cluster: LocalCluster, node: subprocess.Popen[bytes]) -> Iterator[None]:
    """The cloud's metadata service says that the machine will be taken away; `cluster/notice.py` passes it on."""

    class Metadata(http.server.BaseHTTPRequestHandler):
        asked = 0

        def do_GET(self) -> None:
            type(self).asked += 1
            self.send_response(200 if self.headers["Metadata-Flavor"] == "Google" else 403)
            self.end_headers()
            self.wfile.write(b"TRUE" if self.asked > 1 else b"FALSE")

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, words = f"http://127.0.0.1:{server.server_address[1]}", ("--address", cluster.gcs_address)
        subprocess.run(
            [sys.executable, "cluster/notice.py", "gcp", *words]
            + ["--metadata-url", url, "--node-ip", cluster.node_ip(node), "--every-s", "0.5", "--grace-s", "30"],
            env={**os.environ, **cluster.environment(), "RAY_ADDRESS": cluster.gcs_address},
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        yield
        server.shutdown()
