"""Which GPUs a process may use: those that Ray gave to it, and how many a task asks for.

Ray does not hide a machine's GPUs from tasks that asked for none, so that PyTorch sees them says nothing: 64 tasks of
one CPU each would all land on the first one, beside whoever trains there.
"""

from __future__ import annotations

import sys

SHARE = 0.25
"""Of a GPU, for each encoding or fine-tuning task: four fit on one, so that reading and computing overlap."""


def given() -> bool:
    """Whether this process may use a GPU: in a Ray task or actor, where Ray gave it one; outside of Ray, always.

    A driver is given none: what it would compute belongs in a task.
    """
    if "ray" not in sys.modules:
        return True
    import ray

    if not ray.is_initialized():
        return True
    context = ray.get_runtime_context()
    if context.worker.mode != ray.WORKER_MODE:
        return False
    return bool(context.get_accelerator_ids().get("GPU"))


def to_ask_for(wanted: float | None) -> float:
    """GPUs that each task should ask for: what is `wanted`; where that is None, `SHARE` where the attached cluster has
    GPUs of which so much is free, else none, and says so where others hold them all.
    """
    if wanted is not None:
        return wanted
    import ray

    there = ray.cluster_resources().get("GPU", 0.0)
    if ray.available_resources().get("GPU", 0.0) >= SHARE:
        return SHARE
    if there:
        print(f"all {there:g} GPUs of the cluster are taken: computing on CPUs (--gpus waits for one)", file=sys.stderr)
    return 0.0
