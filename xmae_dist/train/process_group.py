"""Joins the workers of a group to one process group of torch, at the word of a controller that has no torch.

Ray Train's own `TorchConfig` imports torch wherever it is unpickled: once in the driver, and once in the controller,
which needs nothing of it and which every run waits for. Here only the workers import it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.train import BackendConfig, get_context
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend

# What takes a broken process group down waits for ranks that will never answer; they are killed next.
_LEAVE_WITHIN_S = 3.0


@dataclass(kw_only=True)
class ProcessGroup(BackendConfig):  # type: ignore[misc]
    """NCCL where workers have GPUs, Gloo where they have not; found through the environment, as torch's `env://`."""

    timeout_s: float
    """A collective that takes longer fails."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Backend

    @property
    def train_func_context(self) -> Any:
        return _on_its_device


class _Backend(Backend):  # type: ignore[misc]
    """Runs in the controller."""

    # NCCL reaches the other GPUs of a machine only where they are visible.
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        address, port = worker_group.execute_single(0, get_address_and_port)
        kind = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) else "gloo"
        where = {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
        worker_group.execute(_join, where, kind, backend_config.timeout_s)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        leaving = worker_group.execute_async(_leave)
        ray.wait(leaving, num_returns=len(leaving), timeout=_LEAVE_WITHIN_S)


def _join(where: dict[str, str], kind: str, timeout_s: float) -> None:
    """On every worker, at once."""
    import torch.distributed

    context = get_context()
    # DeepSpeed and others look for these, as torchrun sets them.
    os.environ |= where | {
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }
    torch.distributed.init_process_group(kind, init_method="env://", timeout=timedelta(seconds=timeout_s))


def _leave() -> None:
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _on_its_device() -> AbstractContextManager[None]:
    """The training function runs in this context."""
    import torch
    from ray.train.torch import get_device

    if (device := get_device()).type == "cuda":
        torch.cuda.set_device(device)
    return nullcontext()
