"""A GPU is used where Ray gave one, and nowhere else: on a real Ray that counts two GPUs."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = textwrap.dedent(
    """
    import io, json, sys
    from types import SimpleNamespace
    import numpy as np
    import ray
    import torch
    from xmae_dist.cluster import gpus, private_ray
    from xmae_dist.core.errors import ConfigError
    from xmae_dist.data.windows.spec import WindowSpec
    from xmae_dist.embed import pipeline
    from xmae_dist.embed.encode import LoadedEncoder
    from xmae_dist.embed.request import read_encoder
    from xmae_dist.evaluate import embedding, fanout
    from xmae_dist.model import bundle, presets
    from xmae_dist.storage import uri

    folder = sys.argv[1]
    bundle.save(f"{folder}/bundle", presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={"origin": "a"})
    encoder = read_encoder(f"{folder}/bundle")
    found = {"alone": gpus.given()}
    private_ray.start(num_cpus=4, num_gpus=2, log_to_driver=False)
    found["driver"] = gpus.given()

    def devices():
        from xmae_dist.evaluate.encoders.frozen import compute_device

        torch.cuda.is_available = lambda: True  # as Ray leaves it: every task sees the machine's GPUs
        torch.nn.Module.to = lambda module, device: module  # here is none to go to
        return gpus.given(), str(compute_device()), LoadedEncoder.open(encoder).device

    for asked in (0, 0.25, 1):
        found[f"task {asked}"] = ray.get(ray.remote(num_cpus=0, num_gpus=asked)(devices).remote())

    class Actor:
        def devices(self):
            return devices()

    for asked in (0, 0.25):
        actor = ray.remote(num_cpus=0, num_gpus=asked)(Actor).remote()
        found[f"actor {asked}"] = ray.get(actor.devices.remote())
        ray.kill(actor)

    def told(work):
        # What a task of the cluster, which ends in `Tells`, was given.
        try:
            return list(work)
        except ConfigError as error:
            return error.value

    class Block:
        # Its embeddings are kept already: the task has only to answer with what they come to.

        ids_B = np.arange(2)

        def pooled(self, embedding_BE):
            return gpus.given()

    class Tells:
        # An encoder whose place, or a request whose configuration, tells where it is asked for.

        protocol, task = "finetune", SimpleNamespace(name="task")

        @property
        def url(self):
            raise ConfigError("GPU", value=gpus.given(), expected="either")

        config = url

    spec, store = SimpleNamespace(identity="encoder"), SimpleNamespace(fingerprint="store")
    kept = io.BytesIO()
    np.save(kept, np.zeros((2, 3)))
    uri.write_bytes(embedding.block_url(spec, store, Block.ids_B, folder), kept.getvalue())
    wanted = SimpleNamespace(blocks=lambda _: [Block()])
    work = SimpleNamespace(encode=["batch"], place=None)
    examples = {"task": fanout.Put(ray.put("examples"), 1)}
    for asked in (None, 0.0):
        found[f"who asks for {asked}"] = {
            "embed": told(pipeline._encoded(work, Tells(), pipeline.Resources(gpus_per_actor=asked))),
            "evaluate": [given for _, given in embedding._embedded_blocks(spec, wanted, store, folder, asked)],
            "finetune": told(fanout.fits([Tells()], examples, {}, "store", asked)),
        }

    found["asks"] = [gpus.to_ask_for(None), gpus.to_ask_for(0.0), gpus.to_ask_for(1.0)]
    trainers = [ray.remote(num_cpus=0, num_gpus=1)(Actor).remote() for _ in range(2)]
    ray.get([one.devices.remote() for one in trainers])
    found["asks beside training"] = gpus.to_ask_for(None)
    print(json.dumps(found))
    """
)


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_a_gpu_is_used_only_where_ray_gave_one(tmp_path: Path) -> None:
    import json
    import os

    environment = dict(os.environ)
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"file://{tmp_path}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["alone"] is True and found["driver"] is False
    for name, expected in {"task 0": "cpu", "task 0.25": "cuda", "task 1": "cuda"}.items():
        assert found[name] == [expected == "cuda", expected, expected], name
    assert found["actor 0"] == [False, "cpu", "cpu"] and found["actor 0.25"] == [True, "cuda", "cuda"]
    assert found["who asks for None"] == {"embed": True, "evaluate": [True], "finetune": True}
    assert found["who asks for 0.0"] == {"embed": False, "evaluate": [False], "finetune": False}
    assert found["asks"] == [0.25, 0.0, 1.0]
    assert found["asks beside training"] == 0.0
    assert "all 2 GPUs of the cluster are taken" in done.stderr
