"""A GPU is used where Ray gave one, and nowhere else: on a real Ray that counts two GPUs."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import json, sys
    import ray
    import torch
    from xmae_dist.cluster import gpus, private_ray

    found = {"alone": gpus.given()}
    private_ray.start(num_cpus=4, num_gpus=2, log_to_driver=False)
    found["driver"] = gpus.given()

    def devices():
        from xmae_dist.evaluate.encoders.frozen import compute_device

        torch.cuda.is_available = lambda: True  # as Ray leaves it: every task sees the machine's GPUs
        return gpus.given(), str(compute_device())

    for asked in (0, 0.25, 1):
        found[f"task {asked}"] = ray.get(ray.remote(num_cpus=0, num_gpus=asked)(devices).remote())

    class Actor:
        def devices(self):
            return devices()

    for asked in (0, 0.25):
        actor = ray.remote(num_cpus=0, num_gpus=asked)(Actor).remote()
        found[f"actor {asked}"] = ray.get(actor.devices.remote())
        ray.kill(actor)

    found["asks"] = [gpus.to_ask_for(None), gpus.to_ask_for(0.0), gpus.to_ask_for(1.0)]
    trainers = [ray.remote(num_cpus=0, num_gpus=1)(Actor).remote() for _ in range(2)]
    ray.get([one.devices.remote() for one in trainers])
    found["asks beside training"] = gpus.to_ask_for(None)
    print(json.dumps(found))
    """
)


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_a_gpu_is_used_only_where_ray_gave_one() -> None:
    import json
    import os

    environment = dict(os.environ)
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=220, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["alone"] is True and found["driver"] is False
    for name, expected in {"task 0": "cpu", "task 0.25": "cuda", "task 1": "cuda"}.items():
        assert found[name] == [expected == "cuda", expected], name
    assert found["actor 0"] == [False, "cpu"] and found["actor 0.25"] == [True, "cuda"]
    assert found["asks"] == [0.25, 0.0, 1.0]
    assert found["asks beside training"] == 0.0
    assert "all 2 GPUs of the cluster are taken" in done.stderr
