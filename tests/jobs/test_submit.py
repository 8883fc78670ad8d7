"""`ray job submit` of the real jobs to a real cluster with token authentication: it succeeds, fails and is stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.corpora import corpus_of
from xmae_dist.testing.local_cluster import LocalCluster, local_cluster
from xmae_dist.testing.s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PROJECT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
PRETRAIN = ("jobs/pretrain.py", "debug_cpu2", "--train.global-batch", "16", "--checkpoint.every-steps", "5")


@pytest.fixture(scope="module")
def cluster(s3: S3Server) -> Iterator[LocalCluster]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with local_cluster(raylets=2, num_cpus=2, environment={**s3.environment(), "PATH": path}) as running:
        yield running


@pytest.fixture(scope="module")
def store(s3: S3Server) -> str:
    url = s3.bucket_url()
    corpus_of(f"{url}/corpus", subjects=8, recordings=2, duration_s=125.0)
    return url


def ray(cluster: LocalCluster, *words: str, token: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **cluster.environment()}
    if not token:
        environment |= {"RAY_AUTH_TOKEN_PATH": os.devnull}
    return subprocess.run([RAY, *words], env=environment, cwd=PROJECT, capture_output=True, text=True, timeout=900)


def submit(cluster: LocalCluster, name: str, *words: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
    options = ["--submission-id", name, "--log-color=false", "--working-dir", str(PROJECT)]
    return ray(cluster, "job", "submit", *options, *([] if wait else ["--no-wait"]), "--", "python", *words)


def status(cluster: LocalCluster, name: str) -> str:
    said = ray(cluster, "job", "status", name, "--log-color=false").stdout
    return next(word for word in ("SUCCEEDED", "FAILED", "STOPPED", "RUNNING", "PENDING") if word in said.upper())


def test_a_job_that_succeeds_says_so_and_the_same_again_has_nothing_left_to_do(
    cluster: LocalCluster, store: str
) -> None:
    words = (*PRETRAIN, "--corpus", f"{store}/corpus", "--run", f"{store}/runs/good", "--train.steps", "10")
    done = submit(cluster, "good", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert status(cluster, "good") == "SUCCEEDED"
    assert "step 10/10" in ray(cluster, "job", "logs", "good").stdout
    again = submit(cluster, "good-again", *words)
    assert again.returncode == 0 and "step 1/10" not in again.stdout


def test_a_job_that_fails_says_why_in_one_line(cluster: LocalCluster, store: str) -> None:
    failed = submit(cluster, "bad", *PRETRAIN, "--corpus", f"{store}/missing", "--run", f"{store}/runs/bad")
    assert failed.returncode != 0
    assert status(cluster, "bad") == "FAILED"
    logs = ray(cluster, "job", "logs", "bad").stdout
    assert "xmae pretrain: error:" in logs and f"{store}/missing" in logs
    assert "Traceback" not in logs


def test_a_stopped_job_keeps_its_checkpoint_and_goes_on_from_it(cluster: LocalCluster, store: str) -> None:
    words = (*PRETRAIN, "--corpus", f"{store}/corpus", "--run", f"{store}/runs/stopped")
    submit(cluster, "stopped", *words, "--train.steps", "4000", wait=False)
    wait_until(lambda: "checkpoint at step 5" in ray(cluster, "job", "logs", "stopped").stdout)
    ray(cluster, "job", "stop", "stopped")
    wait_until(lambda: status(cluster, "stopped") != "RUNNING")
    assert status(cluster, "stopped") == "STOPPED"
    more = submit(cluster, "more", *words, "--train.steps", "4000", wait=False)
    assert more.returncode == 0
    wait_until(lambda: "started at step" in ray(cluster, "job", "logs", "more").stdout)
    said = ray(cluster, "job", "logs", "more").stdout
    assert int(said.split("started at step")[1].split()[0]) >= 5
    ray(cluster, "job", "stop", "more")


def test_nobody_submits_without_the_token(cluster: LocalCluster) -> None:
    refused = ray(cluster, "job", "list", token=False)
    assert refused.returncode != 0 and "token" in (refused.stdout + refused.stderr).lower()


def wait_until(true: object, patience_s: float = 300.0) -> None:
    deadline = time.monotonic() + patience_s
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(1)
