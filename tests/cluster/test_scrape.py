"""A real Prometheus, told by Ray's own service discovery, scrapes a run's gauges and evaluates our rules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from xmae_dist.testing.local_cluster import LocalCluster, local_cluster
from xmae_dist.testing.s3_server import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import time
import ray
from xmae_dist.train.observe.prometheus import Gauges

ray.init(address="auto", log_to_driver=False)

@ray.remote(num_cpus=0)
class Worker:
    def report(self):
        self.gauges = Gauges("s3://bucket/run")
        self.gauges.set([
            {"kind": "step", "step": 250, "loss": 0.5, "windows_per_s": 900.0, "rss_mb": [300, 400, 500]},
            {"kind": "checkpoint", "step": 200, "time_s": time.time() - 1000},
        ])

worker = Worker.remote()
ray.get(worker.report.remote())
print("told", flush=True)
time.sleep(600)
"""


@pytest.fixture
def telling() -> Iterator[LocalCluster]:
    """A cluster on which a worker has told the numbers of a run."""
    with local_cluster(raylets=1, num_cpus=1) as cluster:
        environment = {**os.environ, **cluster.environment(), "RAY_ADDRESS": cluster.gcs_address}
        environment["PYTHONPATH"] = str(ROOT)
        driver = subprocess.Popen([sys.executable, "-c", DRIVER], env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert driver.stdout is not None and driver.stdout.readline() == "told\n"
            yield cluster
        finally:
            driver.kill()


def ask(url: str, expression: str) -> list[dict[str, Any]]:
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def test_prometheus_finds_a_run_and_derives_our_numbers(telling: LocalCluster, tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus (Debian's package) is not installed")
    discovery, *_ = telling.folder.rglob(
        "prom_metrics_service_discovery.json"
    )  # once more by Ray's link to the session
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "cluster/prometheus/rules.yaml")],
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(discovery)]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.dump(config))
    url = f"http://127.0.0.1:{free_port()}"
    words = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    server = subprocess.Popen(["prometheus", *words, f"--web.listen-address={url.removeprefix('http://')}"])
    try:
        found: dict[str, float] = {}
        until_s = time.monotonic() + 120
        while time.monotonic() < until_s and "xmae:checkpoint_age_s" not in found:
            time.sleep(1)
            try:
                series = ask(url, '{run="s3://bucket/run"}')
            except OSError:
                continue
            found = {entry["metric"]["__name__"]: float(entry["value"][1]) for entry in series}
        assert found["ray_xmae_train_loss"] == 0.5
        assert found["xmae:windows_per_s_per_card"] == 300
        assert found["xmae:steps_at_risk"] == 50
        assert 1000 <= found["xmae:checkpoint_age_s"] < 1300
    finally:
        server.terminate()
        server.wait(timeout=60)
