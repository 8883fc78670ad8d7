"""A worker's gauges arrive at its node's metrics endpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xmae_dist.testing.local_cluster import local_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[3]
DRIVER = """
import time, urllib.request
import ray
from xmae_dist.train.observe.prometheus import Gauges

ray.init(log_to_driver=False)
node = ray.nodes()[0]

@ray.remote(num_cpus=0)
class Worker:
    def report(self):
        self.gauges = Gauges("s3://bucket/run")
        self.gauges.set([
            {"kind": "step", "step": 6, "loss": 0.75},
            {"kind": "step", "step": 7, "loss": 0.5, "rss_mb": [300, 400]},
            {"kind": "validation", "step": 6, "own": 0.125},
            {"kind": "checkpoint", "step": 6, "time_s": 1700000000.5, "url": "s3://bucket/run/x", "bytes": 9},
        ])

worker = Worker.remote()
ray.get(worker.report.remote())
url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
until = time.time() + 120
text = ""
while time.time() < until and "xmae_validation_own" not in text:
    time.sleep(1)
    text = urllib.request.urlopen(url, timeout=10).read().decode()
print(*(line for line in text.splitlines() if line.startswith("ray_xmae_")), sep="\\n")
"""


def test_the_newest_numbers_of_a_run_are_at_the_metrics_endpoint() -> None:
    with local_cluster(raylets=1, num_cpus=1) as cluster:
        environment = {**os.environ, **cluster.environment(), "RAY_ADDRESS": cluster.gcs_address}
        environment["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(
            [sys.executable, "-c", DRIVER], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stderr
    found = {line.split("{")[0]: line for line in done.stdout.splitlines()}
    assert found["ray_xmae_train_loss"].endswith(" 0.5") and 'run="s3://bucket/run"' in found["ray_xmae_train_loss"]
    assert found["ray_xmae_train_step"].endswith(" 7.0")
    assert found["ray_xmae_checkpoint_step"].endswith(" 6.0")
    assert float(found["ray_xmae_checkpoint_time_s"].split()[-1]) == 1700000000.5
    assert found["ray_xmae_validation_own"].endswith(" 0.125")
    ranks = [line for line in done.stdout.splitlines() if line.startswith("ray_xmae_train_rss_mb")]
    assert sorted((line.split('rank="')[1][0], line.split()[-1]) for line in ranks) == [("0", "300.0"), ("1", "400.0")]
