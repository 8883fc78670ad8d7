"""A machine that reads for a stream is lost in the middle of it: same order, nothing lost, nothing twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.stream import direct
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.testing.local_cluster import local_cluster
from xmae_dist.testing.window_store import write_window_store

ORDER = OrderConfig(seed=5, global_batch=24)
STEPS = 480
KILL_AT = 40

# A driver on the head, which has no CPUs: its reads run on the other nodes only. It prints a digest per step.
DRIVER = """
import hashlib, json, os, sys, time
from dataclasses import dataclass
import ray
from xmae_dist.data.stream import read_ahead
from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.data.store.window_store import WindowStore

url, folder, steps, address = sys.argv[1:]
ray.init(address=address, log_to_driver=False)


@dataclass
class Slow:
    store: WindowStore

    @property
    def spec(self):
        return self.store.spec

    def read(self, ids_B):
        time.sleep(0.3)
        with open(f"{folder}/{ray.util.get_node_ip_address()}", "a") as seen:
            seen.write(f"{time.time()}\\n")
        return self.store.read(ids_B)


store = WindowStore.open(url)
plan = plan_for(store, OrderConfig(seed=5, global_batch=24))
config = read_ahead.StreamConfig(readers=4, read_cpus=1, leg_blocks=12)
for batch in read_ahead.step_batches(Slow(store), plan, stop_step=int(steps), config=config):
    digest = hashlib.sha256(batch.ids_B.tobytes() + batch.ecg_BL.tobytes() + batch.ppg_BL.tobytes()).hexdigest()
    print(json.dumps([batch.step, digest]), flush=True)
    time.sleep(0.01)
"""


def expected(store: WindowStore) -> list[list[object]]:
    batches = direct.step_batches(store, plan_for(store, ORDER), stop_step=STEPS)
    return [
        [b.step, hashlib.sha256(b.ids_B.tobytes() + b.ecg_BL.tobytes() + b.ppg_BL.tobytes()).hexdigest()]  # type: ignore[union-attr]
        for b in batches
    ]


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_lost_machine_changes_nothing(tmp_path: Path) -> None:
    spec = WindowSpec(window_s=2.0, stride_s=2.0)
    store = write_window_store(
        f"file://{tmp_path}/w", {"patch": [900, 130], "watch": [450]}, chunk_windows=16, spec=spec
    )
    (tmp_path / "reads").mkdir()
    with local_cluster(raylets=1, num_cpus=0, object_store_mib=150) as cluster:
        nodes = [cluster.add_node(num_cpus=2, object_store_mib=150) for _ in range(2)]
        command = [sys.executable, "-c", DRIVER, store.url, f"{tmp_path}/reads", str(STEPS), cluster.gcs_address]
        environment = {**cluster.base_environment, **cluster.environment(), "RAY_ADDRESS": cluster.gcs_address}
        with open(tmp_path / "driver.log", "wb") as log:
            driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        seen: list[list[object]] = []
        killed_s = 0.0
        try:
            assert driver.stdout is not None
            for line in driver.stdout:
                if not line.startswith("["):
                    continue  # Ray tells of the lost node
                seen.append(json.loads(line))
                if len(seen) == KILL_AT:
                    os.killpg(nodes[0].pid, signal.SIGKILL)
                    killed_s = time.time()
            assert driver.wait(timeout=60) == 0, (tmp_path / "driver.log").read_text()[-2000:]
        finally:
            driver.kill()
    assert seen == expected(store)
    last_read_s = {file.name: float(file.read_text().split()[-1]) for file in (tmp_path / "reads").iterdir()}
    assert len(last_read_s) == 2, "both machines read"
    assert sum(last < killed_s + 1 for last in last_read_s.values()) == 1, "one of them went on after the loss"
