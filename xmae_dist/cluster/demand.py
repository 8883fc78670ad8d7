"""What a job wants of a cluster that grows: asked of Ray's autoscaler beforehand, and told while it is waited for.

Ray's autoscaler (v2) takes requests all or nothing: where it cannot give everything, it starts no node and says so only
in its own log. So a run asks before it begins, and whoever waits says what for.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from xmae_dist.cluster import pools

_TELL_EVERY_S = 30.0
# Its rounds are five seconds apart, and a round that starts machines takes longer.
_ANSWER_WITHIN_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Demand:
    """`count` times the resources `each`."""

    what: str
    """In the plural: "workers"."""
    count: int
    each: Mapping[str, float]
    off_gpus: bool = False
    """On nodes of `pools.OFF_GPUS` alone."""

    @classmethod
    def of_tasks(cls, what: str, count: int, *, cpus: float = 1.0, gpus: float = 0.0) -> Demand:
        """Of tasks or actors: those that ask for no GPU stay off nodes with GPUs."""
        each = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
        return cls(what=what, count=count, each=each, off_gpus=not gpus)

    def __str__(self) -> str:
        """`3 workers (1 CPU, 1 trainer each)`"""
        return f"{self.count} {self.what} ({', '.join(f'{n:g} {name}' for name, n in self.each.items())} each)"

    def room(self) -> int:
        """How many have room on the nodes that are there, whatever else runs on them."""
        import ray

        there = [node for node in ray.nodes() if node["Alive"]]
        nodes = [node["Resources"] for node in there if pools.off_gpus(node) or not self.off_gpus]
        wanted = {name: amount for name, amount in self.each.items() if amount > 0}
        if not wanted:
            return self.count if nodes else 0
        return sum(min(int(node.get(name, 0.0) / n + 1e-9) for name, n in wanted.items()) for node in nodes)


def refused(demand: Demand) -> bool:
    """Whether Ray's autoscaler says that it can never give all of a demand, beside what others ask for.

    What it can give it begins to start. False where no autoscaler (v2) answers. Takes two of its rounds at most.
    """
    import ray
    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

    coordinator: Any = get_or_create_autoscaling_coordinator()
    requester = f"xmae-{uuid.uuid4().hex}"
    ray.get(
        coordinator.request_resources.remote(
            requester_id=requester,
            resources=[dict(demand.each)] * demand.count,
            expire_after_s=2 * _ANSWER_WITHIN_S,
        )
    )
    try:
        return _refuses(demand)
    finally:
        ray.get(coordinator.cancel_request.remote(requester))


def _refuses(demand: Demand) -> bool:
    asked = _status()
    if not asked.autoscaling_state.last_seen_cluster_resource_state_version:
        return False
    deadline = time.monotonic() + _ANSWER_WITHIN_S
    while time.monotonic() < deadline:
        answer = _status().autoscaling_state
        seen = answer.last_seen_cluster_resource_state_version
        if seen > asked.cluster_resource_state.cluster_resource_state_version:
            return any(_names(constraint, demand) for constraint in answer.infeasible_cluster_resource_constraints)
        time.sleep(0.5)
    return False


def _names(constraint: Any, demand: Demand) -> bool:
    wanted = {name: amount for name, amount in demand.each.items() if amount}
    return any(dict(one.request.resources_bundle) == wanted for one in constraint.resource_requests)


def _status() -> Any:
    """What the control server knows of the cluster and of its autoscaler, as Ray's message."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    reply: Any = autoscaler_pb2.GetClusterStatusReply()  # type: ignore[attr-defined]
    reply.ParseFromString(GcsClient(address=ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=10))
    return reply


# -- waiting ---------------------------------------------------------------------------------------------------------


@contextmanager
def waited_for(demand: Demand, waits: Callable[[], bool] | None = None) -> Iterator[None]:
    """Says on stderr every half a minute, while a demand waits, what for and what nodes are on their way.

    `waits` tells whether it does; unless given, it does where no node has room for any of it. Costs one thread, and
    with each look one or two requests to the control server.
    """
    ended = threading.Event()
    thread = threading.Thread(
        target=_look, args=(demand, waits or (lambda: not demand.room()), ended), name="waiting", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _look(demand: Demand, waits: Callable[[], bool], ended: threading.Event) -> None:
    import ray

    began_s = time.monotonic()
    while not ended.wait(_TELL_EVERY_S):
        try:
            if waits():
                print(_line(demand, time.monotonic() - began_s), file=sys.stderr, flush=True)
            else:
                began_s = time.monotonic()
        except (ray.exceptions.RayError, RuntimeError, OSError):
            continue  # the control server is not there for a moment, which those who wait will hear of themselves


def _line(demand: Demand, waited_s: float) -> str:
    return (
        f"waiting since {waited_s:.0f} s for {demand}: the nodes there have room for {demand.room()}; {_on_its_way()}"
    )


def _on_its_way() -> str:
    """What the autoscaler says."""
    state = _status().autoscaling_state
    starting = Counter(one.ray_node_type_name for one in state.pending_instances)
    for request in state.pending_instance_requests:
        starting[request.ray_node_type_name] += request.count
    said = [f"{count} {name} starting" for name, count in sorted(starting.items())]
    said += [f"{one.ray_node_type_name} failed to start ({one.reason})" for one in state.failed_instance_requests]
    if state.infeasible_cluster_resource_constraints or state.infeasible_resource_requests:
        said.append("some of what is asked for has no node type that could give it")
    return "; ".join(said) or "no node is starting"
