"""Processes kept ready for workers: the next worker takes one, with its imports done; none outlives its job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from xmae_dist.cluster import spares
from xmae_dist.testing.local_cluster import local_cluster

ROOT = Path(__file__).resolve().parents[2]
# `wave` is a module that nothing else imports.
DRIVER = """
import json, os, sys, time
from pathlib import Path
import ray
from xmae_dist.cluster import spares

ray.init(address="auto", log_to_driver=False)
variables = dict(spares.environment(("wave",)))

@ray.remote(num_cpus=0, runtime_env={"env_vars": variables})
class Worker:
    def keep(self, count):
        spares.keep(count)

    def who(self):
        return {"pid": os.getpid(), "ready": "wave" in sys.modules}

first = Worker.remote()
one = ray.get(first.who.remote())
ray.get(first.keep.remote(2))
until_s = time.monotonic() + 120
waiting = 0
while waiting < 2 and time.monotonic() < until_s:
    time.sleep(0.5)
    waiting = spares._waiting(variables["XMAE_SPARES"])
time.sleep(5)  # and they import
others = [Worker.remote() for _ in range(2)]
print(json.dumps({"waiting": waiting, "first": one, "others": ray.get([one.who.remote() for one in others]),
                  "token": variables["XMAE_SPARES"]}))
"""


def test_a_job_with_a_hook_of_its_own_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

    monkeypatch.setenv(WORKER_PROCESS_SETUP_HOOK_ENV_VAR, "theirs.hook")
    assert spares.environment(("of_the_test",)) == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_next_workers_take_what_waits_and_nothing_is_left() -> None:
    with local_cluster(raylets=1, num_cpus=1) as cluster:
        environment = {**os.environ, **cluster.environment(), "RAY_ADDRESS": cluster.gcs_address}
        environment["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(
            [sys.executable, "-c", DRIVER], env=environment, capture_output=True, text=True, timeout=400
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["waiting"] == 2 and not told["first"]["ready"]
        assert all(one["ready"] for one in told["others"])
        until_s = time.monotonic() + 60
        while (left := titles(told["token"])) and time.monotonic() < until_s:
            time.sleep(0.5)
        assert not left


def titles(token: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        found += [" ".join(words) for word in words if token in word]
    return found
