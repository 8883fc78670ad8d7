"""What Ray Train's controller does for a run beside its own: names hung ranks, and loses no step to a resize.

Ray Train alone finds a stopped worker when its health check has hung for ten minutes, resizes a group by killing it,
and restarts one as if the machine that has just died were still there. The hooks used are Ray Train's developer API;
`tests/train/survival/test_survival.py` runs them all.
"""

from __future__ import annotations

import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2.api.exceptions import WorkerGroupError

from xmae_dist.core.errors import RunError
from xmae_dist.train.survival.pulse import hung


@dataclass(kw_only=True)
class Watch(WorkerGroupCallback, ControllerCallback):  # type: ignore[misc]
    """Runs in the controller; `board` is the handle of the `Board` actor."""

    board: Any
    silence_s: float
    """A rank that is not heard of for so long is taken for hung."""
    wait_s: float
    """So is one that lets others wait in a collective for so long."""
    leave_s: float = 60.0
    """A group that is to be resized has so long to save and leave."""
    node_loss_s: float = 40.0
    """A machine that no longer answers is given up by Ray within this."""
    _group: dict[int, str] = field(default_factory=dict)
    """Where each rank of the running group is; empty while none runs."""

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        ray.get(self.board.note_time.remote("starting"))

    def after_worker_group_start(self, worker_group: Any) -> None:
        ray.get(self.board.new_group.remote())
        self._group = {
            worker.distributed_context.world_rank: f"process {worker.metadata.pid} on {worker.metadata.node_ip}"
            for worker in worker_group.get_workers()
        }

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Raises WorkerGroupError, which restarts the group, where ranks hang."""
        if worker_group_status.errors or worker_group_status.finished:
            return
        found = hung(ray.get(self.board.beats.remote()), silence_s=self.silence_s, wait_s=self.wait_s)
        if found is None:
            return
        where = ", ".join(f"rank {rank} is {self._group.get(rank, 'unknown')}" for rank in found.ranks)
        why = f"{found.why} ({where})"
        step = min((beat.step for _, beat in ray.get(self.board.beats.remote())), default=0)
        ray.get(self.board.post.remote([{"kind": "hung", "step": step, "ranks": list(found.ranks), "why": why}]))
        error = RunError("training workers", value=why, fix="see the logs of that machine; --train.silence-s")
        raise WorkerGroupError(str(error), worker_failures=dict.fromkeys(found.ranks, error))

    def before_controller_execute_failure_decision(self, failure_decision: Any) -> None:
        self._group = {}
        ray.get(self.board.note_time.remote("lost"))
        _wait_until_lost(self.node_loss_s)

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """A group that runs is asked to save and leave before Ray Train kills it; called before every start, too."""
        if not self._group:
            return
        ray.get(self.board.ask_stop.remote("resized"))
        deadline = time.monotonic() + self.leave_s
        while ray.get(self.board.beats.remote()) and time.monotonic() < deadline:
            time.sleep(0.2)
        self._group = {}
        ray.get(self.board.note_time.remote("lost"))


def _wait_until_lost(patience_s: float) -> None:
    """Until Ray counts no machine that is gone: workers placed on one would never start."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        doubtful = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"] and not _answers(node)]
        if not doubtful:
            return
        print(f"waiting for Ray to give up {', '.join(doubtful)}", file=sys.stderr, flush=True)
        time.sleep(0.5)


def _answers(node: dict[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=2).close()
    except OSError:
        return False
    return True
