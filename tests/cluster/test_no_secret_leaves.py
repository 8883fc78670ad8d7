"""A run on a cluster, with secrets planted where secrets are: none of them is found where others can read.

Searched: every object that the run wrote, every file of Ray's session, what the dashboard and the metrics endpoints
answer, the command lines of the cluster's processes, and what the submitter sees.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import psutil
import pyarrow.parquet as pq
import pytest

from tests.data.corpora import corpus_of
from xmae_dist.testing.local_cluster import LocalCluster, local_cluster
from xmae_dist.testing.s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
NAME = "job-that-is-found"
RUN = "run-that-is-found"
OF_NODES = {"WANDB_API_KEY": "planted-on-nodes-1", "MLFLOW_TRACKING_TOKEN": "planted-on-nodes-2"}
OF_SUBMITTER = {"HF_TOKEN": "planted-at-submitter-1", "AWS_SESSION_TOKEN": "planted-at-submitter-2"}
IN_FOLDER = "planted-in-folder"
ASKED = (
    *("/api/jobs/", f"/api/jobs/{NAME}", f"/api/jobs/{NAME}/logs", "/api/cluster_status", "/api/component_activities"),
    *("/nodes?view=summary", "/nodes?view=hostnamelist", "/logical/actors", "/events", "/api/cluster_metadata"),
    *(f"/api/v0/{what}?detail=true&limit=1000" for what in ("nodes", "jobs", "actors", "tasks", "workers", "objects")),
    *(f"/api/v0/{what}?detail=true&limit=1000" for what in ("placement_groups", "runtime_envs", "cluster_events")),
    *("/api/v0/tasks/summarize", "/api/v0/actors/summarize", "/api/v0/tasks/timeline", "/api/prometheus/sd"),
    *("/api/train/v2/runs/v1", "/api/serve/applications/", "/api/version", "/api/actors"),
)


@dataclass(kw_only=True)
class Found:
    """Everything that others can read, by where."""

    texts: dict[str, bytes] = field(default_factory=dict)

    def where(self, secret: str) -> list[str]:
        return [place for place, text in self.texts.items() if secret.encode() in text]

    def has(self, kind: str, word: str) -> bool:
        return any(place.startswith(kind) for place in self.where(word))


@pytest.fixture(scope="module")
def cluster(s3: S3Server) -> Iterator[LocalCluster]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**s3.environment(), **OF_NODES, "PATH": path}
    with local_cluster(raylets=1, num_cpus=3, environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def found(cluster: LocalCluster, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Found:
    here = tmp_path_factory.mktemp("here")
    (here / ".env").write_text(f"KEY={IN_FOLDER}")
    store = s3.bucket_url()
    corpus_of(f"{store}/corpus", subjects=4, recordings=1, duration_s=125.0)
    words = ["pretrain", "debug_cpu2", "--corpus", f"{store}/corpus", "--run", f"{store}/{RUN}"]
    words += ["--train.steps", "1000000", "--train.global-batch", "8", "--train.workers", "1"]
    words += ["--checkpoint.every-steps", "3", "--validation.windows", "8", "--validation.every-steps", "3"]
    environment = {**os.environ, **OF_SUBMITTER, **cluster.environment(), "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(
        [sys.executable, "-m", "xmae_dist.cli", "submit", "--name", NAME, *words],
        env=environment,
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    everything = Found()
    until_s = time.monotonic() + 400
    while not everything.has("metrics", RUN):  # gauges are gone some time after their job
        assert job.poll() is None and time.monotonic() < until_s, job.communicate()
        time.sleep(2)
        everything.texts |= {f"metrics {at}": text for at, text in metrics(cluster)}
    stop = [str(Path(sys.executable).with_name("ray")), "job", "stop", NAME]
    subprocess.run(stop, env=environment, check=True, capture_output=True, timeout=120)
    everything.texts["said"] = job.communicate(timeout=120)[0]
    assert job.returncode == 143, everything.texts["said"]
    everything.texts |= {f"object {key}": text for key, text in objects(store)}
    everything.texts |= {f"file {file}": text for file, text in files(cluster)}
    everything.texts |= {f"api {path}": text for path, text in answers(cluster)}
    everything.texts |= {f"process {pid}": text for pid, text in command_lines(cluster)}
    return everything


def objects(store: str) -> Iterator[tuple[str, bytes]]:
    """Of the bucket; tables as text, since their columns are compressed."""
    bucket = store.removeprefix("s3://")
    client = boto3.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page["Contents"]:
            body = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            if entry["Key"].endswith(".parquet"):
                body = repr(pq.read_table(io.BytesIO(body)).to_pylist()).encode()
            yield entry["Key"], body


def files(cluster: LocalCluster) -> Iterator[tuple[str, bytes]]:
    """Of the cluster's folder, but for the one that the token lives in."""
    for file in {file.resolve() for file in cluster.folder.rglob("*") if file.is_file()}:
        if file != cluster.token_file:
            yield str(file.relative_to(cluster.folder)), file.read_bytes()


def answers(cluster: LocalCluster) -> Iterator[tuple[str, bytes]]:
    nodes = [node["node_id"] for node in cluster.alive()]
    for path in (*ASKED, *(f"/nodes/{node}" for node in nodes), *(f"/api/v0/logs?node_id={node}" for node in nodes)):
        request = urllib.request.Request(
            cluster.dashboard_url + path, headers={"Authorization": f"Bearer {cluster.token_file.read_text()}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                yield path, answer.read()
        except urllib.error.HTTPError as error:
            yield f"{path} ({error.code})", error.read()


def metrics(cluster: LocalCluster) -> Iterator[tuple[str, bytes]]:
    discovery, *_ = cluster.folder.rglob(
        "prom_metrics_service_discovery.json"
    )  # once more by Ray's link to the session
    for entry in json.loads(discovery.read_text()):
        for at in entry["targets"]:
            try:
                with urllib.request.urlopen(f"http://{at}/metrics", timeout=30) as answer:
                    yield at, answer.read()
            except OSError:
                continue  # an autoscaler that does not run here


def command_lines(cluster: LocalCluster) -> Iterator[tuple[int, bytes]]:
    """Which every user of the machine can read."""
    for one in psutil.Process(cluster.nodes[0].pid).children(recursive=True):
        try:
            yield one.pid, " ".join(one.cmdline()).encode()
        except psutil.Error:
            continue


def test_what_is_no_secret_is_found_everywhere(found: Found) -> None:
    """Else the search would find nothing, whatever there is."""
    for kind in ("said", "object", "file", "api /api/jobs/", "api /nodes/", "metrics"):
        assert found.has(kind, RUN) or found.has(kind, "ray"), kind
    for kind in ("object", "file", "api /api/jobs/", f"api /api/jobs/{NAME}/logs", "metrics"):
        assert found.has(kind, RUN), kind
    failed = [place for place in found.texts if place.startswith("api") and place.endswith(")")]
    print(failed)
    assert len(failed) < 8, failed
    assert found.has("process", "gcs_server")


@pytest.mark.parametrize("secret", [*OF_NODES.values(), *OF_SUBMITTER.values(), IN_FOLDER])
def test_what_was_planted_is_found_nowhere(found: Found, secret: str) -> None:
    assert not found.where(secret)


def test_neither_the_key_of_the_store_nor_the_token_of_the_cluster_is_found(
    found: Found, cluster: LocalCluster, s3: S3Server
) -> None:
    assert not found.where(s3.secret_access_key)
    assert not found.where(cluster.token_file.read_text())
