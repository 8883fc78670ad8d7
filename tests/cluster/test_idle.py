"""`cluster/idle.py` on a real cluster: it ends nothing while a job runs, and ends the cluster a while after."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xmae_dist.testing.local_cluster import local_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


def test_the_cluster_ends_after_a_time_without_jobs(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    with local_cluster(raylets=1, num_cpus=1) as cluster:
        environment = {**os.environ, **cluster.environment()}
        ray = str(Path(sys.executable).with_name("ray"))
        submit = [ray, "job", "submit", "--no-wait", "--submission-id", "job-1", "--", "sleep", "600"]
        subprocess.run(submit, env=environment, check=True, capture_output=True, timeout=120)
        words = ["--after-min", "0.2", "--every-s", "1", "--address", cluster.dashboard_url, "--then", f"touch {ended}"]
        idle = subprocess.Popen([sys.executable, str(ROOT / "cluster/idle.py"), *words], env=environment)
        try:
            time.sleep(30)
            assert idle.poll() is None, "the job is still running"
            subprocess.run([ray, "job", "stop", "job-1"], env=environment, check=True, capture_output=True, timeout=120)
            assert idle.wait(timeout=120) == 0 and ended.exists()
        finally:
            idle.kill()


def test_a_head_that_does_not_answer_is_not_idle(tmp_path: Path) -> None:
    """A dashboard that is down says nothing about jobs."""
    words = ["--after-min", "0.01", "--every-s", "0.2", "--address", "http://127.0.0.1:1", "--then", "false"]
    idle = subprocess.Popen([sys.executable, str(ROOT / "cluster/idle.py"), *words], stderr=subprocess.DEVNULL)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            idle.wait(timeout=30)
    finally:
        idle.kill()
