"""Processes of a job that wait on a node, with their imports done, for workers that have to be started again.

A new process of Ray's spends seconds on Python and on imports, while the whole group waits for it. Ray's raylet starts
processes ahead of need when it is asked (`PrestartWorkers` of its protocol; Ray's Python does not offer it), each for
one job and one runtime environment, and gives them to the next actors or tasks with both. A process is not told
whether it was started ahead: whoever asks leaves a ticket for each, and one that finds a ticket imports before it
takes work. Where any of this fails, workers start as they do without.
"""

from __future__ import annotations

import functools
import importlib
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_TOKEN, _MODULES = "XMAE_SPARES", "XMAE_SPARE_MODULES"
_CALM_S = 10.0
"""A group that has just begun has its cores to itself for so long."""
_LOOK_EVERY_S = 60.0
_COMES_WITHIN_S = 45.0
_KEPT_S = 7 * 24 * 3600
"""Ray ends them with their job, however long that is."""


@functools.cache
def environment(modules: tuple[str, ...]) -> Mapping[str, str]:
    """Variables for the runtime environment of workers whose processes shall be kept ready with these modules.

    From a driver; always the same ones, so that groups of workers that follow one another take each other's spares.
    None where the job has a hook of its own for new processes: Ray runs one.
    """
    import ray
    from ray._private import ray_constants
    from ray._private.runtime_env.setup_hook import export_setup_func_callable

    if ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR in os.environ:
        return {}
    made = export_setup_func_callable({}, _hook(), ray._private.worker.global_worker)
    return {**made["env_vars"], _TOKEN: secrets.token_hex(8), _MODULES: ",".join(modules)}


def _hook() -> Callable[[], None]:
    def be_ready_where_this_is() -> None:  # travels by value: a hook that cannot be imported would end the process
        try:
            from xmae_dist.cluster import spares
        except ImportError:
            return
        spares.be_ready()

    return be_ready_where_this_is


def keep(count: int) -> None:
    """From a worker: keeps so many processes like this one ready on its node, by a thread, for as long as it lives.

    Does nothing in a process without the variables of `environment`. Costs a look at the node's processes a minute.
    """
    if _TOKEN in os.environ:
        threading.Thread(target=_work, args=(count, os.environ[_TOKEN]), name="spares", daemon=True).start()


def be_ready() -> None:
    """Run in each new process of the runtime environment, before any work."""
    if not _takes_ticket(_tickets()):
        return
    import ray

    ray._raylet.setproctitle(_title(os.environ[_TOKEN]))  # type: ignore[attr-defined]
    for name in os.environ[_MODULES].split(","):
        importlib.import_module(name)


def _work(count: int, token: str) -> None:
    pause = threading.Event()
    pause.wait(_CALM_S)
    while True:
        try:
            if (missing := count - _waiting(token) - _on_their_way()) > 0:
                _ask(missing)
        except Exception as error:  # noqa: BLE001  (of another Ray's protocol, perhaps: nothing depends on it)
            print(f"no processes are kept ready: {error}", file=sys.stderr, flush=True)
            return
        pause.wait(_LOOK_EVERY_S)


def _on_their_way() -> int:
    """How many were asked for and have not begun; tickets of those that never came are taken back."""
    coming = 0
    for ticket in _tickets().glob("*"):
        try:
            if time.time() - ticket.stat().st_mtime < _COMES_WITHIN_S:
                coming += 1
            else:
                ticket.unlink()
        except FileNotFoundError:
            continue  # it has just begun
    return coming


def _waiting(token: str) -> int:
    """How many are there that wait, or import, by their titles."""
    title, found = _title(token).encode(), 0
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += file.read_bytes().startswith(title)
        except OSError:
            continue  # it has just ended
    return found


def _title(token: str) -> str:
    """What `ps` shows while one waits; Ray gives it another title with its first work."""
    return f"ray::IDLE spare {token}"


def _ask(count: int) -> None:
    """Asks the raylet of this node for processes of this one's job and runtime environment."""
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

    tickets = _tickets()
    tickets.mkdir(mode=0o700, exist_ok=True)
    for _ in range(count):
        (tickets / secrets.token_hex(8)).touch()
    context = ray.get_runtime_context()
    request = node_manager_pb2.PrestartWorkersRequest(  # type: ignore[attr-defined]
        job_id=bytes.fromhex(context.get_job_id()),
        runtime_env_info={"serialized_runtime_env": context.get_runtime_env_string()},
        keep_alive_duration_secs=_KEPT_S,
        num_workers=count,
    )
    node: Any = ray._private.worker.global_worker.node
    channel = init_grpc_channel(f"{node.node_ip_address}:{node.node_manager_port}")
    try:
        node_manager_pb2_grpc.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=30)
    finally:
        channel.close()


def _tickets() -> Path:
    """Of this node: in Ray's folder of the session, which is its user's alone."""
    import ray

    node: Any = ray._private.worker.global_worker.node
    return Path(node.get_session_dir_path()) / f"spares-{os.environ[_TOKEN]}"


def _takes_ticket(tickets: Path) -> bool:
    for ticket in tickets.glob("*"):
        try:
            ticket.unlink()
        except FileNotFoundError:
            continue  # another was faster
        return True
    return False
