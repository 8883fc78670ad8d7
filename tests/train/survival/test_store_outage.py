"""The object store is down for two minutes in the middle of a run: training goes on, and nothing half-written shows."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xmae_dist.testing.flaky_s3 import Rule, flaky_s3
from xmae_dist.testing.s3_server import S3Server
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.engines.protocol import Slice
from xmae_dist.train.observe.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[3]
OUTAGE_S = 120.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_training_goes_on_without_its_store(s3: S3Server, tmp_path: Path) -> None:
    corpus, run, log = str(tmp_path / "corpus"), f"{s3.bucket_url()}/run", tmp_path / "log"
    xmae = [sys.executable, "-m", "xmae_dist.cli"]
    simulate = [*xmae, "simulate", "bedside", "--corpus", corpus, "--subjects", "8", "--minutes", "10"]
    subprocess.run(simulate, check=True, cwd=ROOT, capture_output=True)
    options = ["--train.steps", "20000", "--train.global-batch", "16", "--checkpoint.every-steps", "10"]
    more = ["--validation.windows", "0", "--resources.reader", "direct"]

    def said() -> str:
        return log.read_text()

    def step() -> int:
        return max((int(found) for found in re.findall(r"step (\d+)/20000", said())), default=0)

    def until(what: str, true: object) -> None:
        deadline = time.monotonic() + 600
        while not true():  # type: ignore[operator]
            assert process.poll() is None and time.monotonic() < deadline, f"{what}: {said()[-3000:]}"
            time.sleep(0.2)

    def newest() -> int:
        """Of the checkpoints that are complete, asked of the store itself; it must load."""
        found = checkpoint.newest_complete(run, lambda *_: None)
        if found is None:
            return 0
        url, manifest = found
        saved = checkpoint.open_saved(url, manifest, tmp_path / f"here-{time.monotonic_ns()}")
        whole = [Slice("weight", name, 0, math.prod(shape)) for name, shape in manifest["shapes"].items()]
        assert len(list(saved.parts(whole))) == len(whole)
        return int(manifest["state"]["step"])

    with flaky_s3(s3.endpoint_url) as proxy, open(log, "wb") as out:
        environment = {**os.environ, "AWS_ENDPOINT_URL": proxy.endpoint_url}
        environment.pop("RAY_ADDRESS", None)
        process = subprocess.Popen(
            [*xmae, "pretrain", "debug_cpu2", "--corpus", corpus, "--run", run, *options, *more],
            env={**environment, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=out,
            stderr=out,
        )
        try:
            until("a checkpoint", lambda: "checkpoint at step 10:" in said())
            proxy.follow(Rule(kind="reset"))
            time.sleep(5)
            before, saved_before = step(), newest()
            time.sleep(OUTAGE_S)
            after, saved_after = step(), newest()
            assert proxy.did()["reset"] > 0
            assert after > before + 10, "training went on"
            assert saved_after == saved_before
            proxy.follow(Rule(kind="right", methods=()))
            until("a checkpoint after the outage", lambda: newest() > after)
            assert "MISSED" in said()
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)
        finally:
            process.kill()
    assert "with a checkpoint" in said() and said().count("started at step") == 1, said()[-3000:]
    steps = [row["step"] for row in read_metrics(run) if row["kind"] == "step"]
    assert steps == list(range(1, newest() + 1)), "the metrics of the outage were written after it"
