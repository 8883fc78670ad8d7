"""Processes of a start that need no torch do without it, and those kept ready leave the GPUs alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from xmae_dist.train import trainer

ROOT = Path(__file__).resolve().parents[2]
OF_THE_CONTROLLER = """
import pickle, sys
from ray import cloudpickle
from xmae_dist.recipes import recipe
from xmae_dist.train.checkpoints.state import Identity
from xmae_dist.train.job import Job
from xmae_dist.train.process_group import ProcessGroup
from xmae_dist.train.survival.lease import Lease
from xmae_dist.train.survival.watch import Watch

job = Job(
    config=recipe("debug_cpu2"), config_dict={}, store_url="s3://b/w", board=None, driver_s={}, handed_over_s=0.0,
    identity=Identity(snapshot="1", windows="2", plan="3", model="4"), lease=Lease(run_url="s3://b/r", number=1),
    flops_per_window=1,
)
sys.stdout.buffer.write(cloudpickle.dumps((job, ProcessGroup(timeout_s=1.0), Watch(board=None, silence_s=1, wait_s=1))))
"""
UNPICKLED = """
import pickle, sys
import xmae_dist.train.trainer
from ray.train.v2._internal.execution.controller import TrainController
job, group, watch = pickle.load(sys.stdin.buffer)
assert group.backend_cls().share_cuda_visible_devices and job.config.train.workers
assert "torch" not in sys.modules
"""
IMPORTED = """
import importlib, sys
import torch

def asked(*_):
    raise AssertionError("the GPUs were asked for before Ray has said which are visible")

for name in ("_cuda_init", "_cuda_getDeviceCount", "_cuda_setDevice"):
    setattr(torch._C, name, asked)
torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = asked
for name in sys.argv[1].split(","):
    importlib.import_module(name)
print("done")
"""


def python(code: str, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, input=given, capture_output=True)


def test_the_controller_of_a_run_imports_no_torch() -> None:
    """It is given the job, how to join the workers, and the watch."""
    pickled = python(OF_THE_CONTROLLER)
    assert pickled.returncode == 0, pickled.stderr.decode()
    done = python(UNPICKLED, given=pickled.stdout)
    assert done.returncode == 0, done.stderr.decode()


def test_a_process_kept_ready_asks_no_gpu_for_anything() -> None:
    done = python(IMPORTED, ",".join(trainer._IMPORTS))
    assert done.stdout == b"done\n", done.stderr.decode()
