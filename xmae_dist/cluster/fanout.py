"""Work of one kind over many things, spread over a cluster as Ray tasks; outcomes stream back as they happen."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from xmae_dist.cluster import demand, pools, private_ray
from xmae_dist.core.errors import RunError, XmaeError

Task = TypeVar("Task")
Event = TypeVar("Event")

# A task lost with its node is run again from the start.
_RETRIES = 3
# Tasks that run or wait to run: enough that a growing cluster sees work, few enough to hold in memory.
_FEWEST_AT_ONCE = 16
_TASKS_A_CORE = 3
_STORE_BYTES = 200 * 2**20


def cores() -> int:
    """CPU cores to plan for: of the cluster this process is attached to, else of this machine.

    A cluster may have none as yet, since it grows by the tasks that wait: there it is as many as are made to wait.
    """
    import ray

    if ray.is_initialized() or cluster_address():
        connect()
        there = int(ray.cluster_resources().get("CPU", 0))
        return max(there, _FEWEST_AT_ONCE if cluster_address() else 1)
    return os.cpu_count() or 1


def connect(*, store_bytes: int | None = _STORE_BYTES, log_to_driver: bool = False) -> None:
    """Attaches to the cluster of RAY_ADDRESS or of a submitted job; else starts Ray on this machine.

    `store_bytes` is the size of the object store of a Ray that is started, enough for outcomes unless told; None: what
    Ray thinks right. Raises RunError where RAY_ADDRESS names a cluster that does not answer.
    """
    import ray

    if ray.is_initialized():
        return
    with _own_sigterm():
        _connect(store_bytes, log_to_driver)


def leave() -> None:
    """Ends what `connect` began, if anything: whatever still waits for Ray in this process is woken."""
    ray = sys.modules.get("ray")
    if ray is not None:
        ray.shutdown()


def _connect(store_bytes: int | None, log_to_driver: bool) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": log_to_driver, "logging_level": logging.WARNING}
    address = cluster_address()
    if address is None:
        private_ray.start(object_store_memory=store_bytes, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise RunError(
            "RAY_ADDRESS",
            value=f"{address}, which does not answer",
            expected="a running Ray cluster",
            fix="start the cluster, or unset RAY_ADDRESS to use this machine",
        ) from error


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray takes SIGTERM over when it starts, and ends with stack frames of C++; whoever had it keeps it."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def stream(
    work: Callable[[Task], Iterator[Event]], tasks: Iterable[Task], *, at_once: int | None = None
) -> Iterator[Event]:
    """All events of `work(task)` over `tasks`, in the order in which they happen.

    One task runs here when no cluster is attached; more run as Ray tasks, one core each, begun in their order, off the
    machines with GPUs.
    `tasks` are drawn as they are needed: at most a few times as many as there are cores wait, or `at_once`, so that
    memory does not grow with their number. Raises the XmaeError of a task, or RunError where a task could not be
    finished anywhere.
    """
    import ray

    waiting = iter(tasks)
    first = list(itertools.islice(waiting, 2))
    if len(first) < 2 and not ray.is_initialized() and not cluster_address():
        for task in first:
            yield from work(task)
        return
    connect()
    remote = ray.remote(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD", label_selector=pools.OFF_GPUS)(
        work
    )
    waiting = itertools.chain(first, waiting)
    running: list[Any] = []

    def begin() -> None:
        # Asked anew each time: a cluster grows by the tasks that wait.
        room = max(0, (at_once or max(_FEWEST_AT_ONCE, _TASKS_A_CORE * cores())) - len(running))
        running.extend(remote.options(num_returns="streaming").remote(one) for one in itertools.islice(waiting, room))

    begin()
    with demand.waited_for(demand.Demand.of_tasks("tasks", len(running))):
        while running:
            ready, _ = ray.wait(running, num_returns=1)
            generator: Any = ready[0]
            try:
                event: Any = ray.get(next(generator))
            except StopIteration:
                running.remove(generator)
                begin()
                continue
            except ray.exceptions.RayError as error:
                raise told(error) from error
            yield event


def cluster_address() -> str | None:
    """The cluster that RAY_ADDRESS names; an http address is that of its job server, which takes no tasks."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if not address or address.startswith("http") else address


def told(error: Any) -> XmaeError:
    """A failed task's own error where it is one of ours, else what the cluster did to it. `error` is a RayError."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, XmaeError):
        return cause
    return RunError(
        "a task",
        value=str(error).strip().splitlines()[-1],
        fix="run the same command again: completed work is not repeated",
    )
