"""Runs a function on real ranks: spawned processes joined by a gloo process group on loopback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(world: int, work: Callable[..., Any], folder: Path, *args: Any) -> list[Any]:
    """Calls `work(rank, world, *args)` on `world` ranks; returns what they return, in order of rank.

    A rank ends where its result is stored, without finalising its interpreter: on a busy machine a process that has
    used gloo and finalises dies of SIGABRT now and then (probably the fault of docs/adr/0016: a thread that lets go of
    what Python knows).
    """
    rendezvous = folder / f"rendezvous-{os.urandom(4).hex()}"
    mp.spawn(_rank, (world, str(rendezvous), str(folder), work, args), nprocs=world)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(world)]


def _rank(rank: int, world: int, rendezvous: str, folder: str, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), DS_ACCELERATOR="cpu")
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    torch.save(work(rank, world, *args), Path(folder) / f"rank-{rank}.pt")
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
