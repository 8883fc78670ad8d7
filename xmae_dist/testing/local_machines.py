"""Machines for Ray's autoscaler on this one: an external node provider whose nodes are real raylets.

The autoscaler's process imports it and asks it for nodes as it would ask a cloud. A machine is a process group that
ends with that process, however that ends, so none outlives its cluster. One whose processes are gone is reported as
lost, and the autoscaler brings another.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

from xmae_dist.testing import local_node
from xmae_dist.testing.autoscaling import HEAD, MACHINES

# What told the head who it is must not tell its machines the same.
_OF_THE_HEAD = ("RAY_CLOUD_INSTANCE_ID", "RAY_NODE_TYPE_NAME")


@dataclass(kw_only=True)
class _Machine:
    ip: str
    tags: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    """None: the head, which the autoscaler neither starts nor ends."""
    gone: bool = False


class LocalMachines(NodeProvider):  # type: ignore[misc]
    """`provider_config` is the file's `provider`. Methods are Ray's; its autoscaler calls them from several threads."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._lock = RLock()
        self._folder = Path(provider_config["folder"])
        self._folder.mkdir(parents=True, exist_ok=True)
        self._gcs_address: str = provider_config["gcs_address"]
        self._started = 0
        tags = {TAG_RAY_NODE_KIND: NODE_KIND_HEAD, TAG_RAY_USER_NODE_TYPE: HEAD, **_named(HEAD)}
        self._machines = {HEAD: _Machine(ip=self._gcs_address.rpartition(":")[0], tags=tags)}

    # -- what there is ---------------------------------------------------------------------------------------------

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self._lock:
            self._notice_lost()
            return [
                name
                for name, machine in self._machines.items()
                if not machine.gone and tag_filters.items() <= machine.tags.items()
            ]

    def is_running(self, node_id: str) -> bool:
        with self._lock:
            return node_id in self._machines and not self._machines[node_id].gone

    def is_terminated(self, node_id: str) -> bool:
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> dict[str, str]:
        with self._lock:
            return dict(self._machines[node_id].tags)

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        with self._lock:
            self._machines[node_id].tags.update(tags)

    def internal_ip(self, node_id: str) -> str:
        with self._lock:
            return self._machines[node_id].ip

    external_ip = internal_ip

    # -- what is asked for -----------------------------------------------------------------------------------------

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        for _ in range(count):
            with self._lock:
                self._start(node_config, tags, resources, labels)

    def terminate_node(self, node_id: str) -> None:
        with self._lock:
            machine = self._machines[node_id]
            if machine.gone or machine.process is None:
                return
            machine.gone = True
        local_node.end(machine.process)  # takes seconds, in which others may ask
        self._note("ended", node_id, machine)

    def _start(
        self, node_config: dict[str, Any], tags: dict[str, str], resources: dict[str, float], labels: dict[str, str]
    ) -> None:
        self._started += 1
        node_type = tags[TAG_RAY_USER_NODE_TYPE]
        name, ip = f"{node_type}-{self._started}", f"127.0.{1 + self._started // 250}.{1 + self._started % 250}"
        environment = {key: value for key, value in os.environ.items() if key not in _OF_THE_HEAD}
        # By these a raylet that registers is known as the machine that was asked for.
        environment |= {"RAY_CLOUD_INSTANCE_ID": name, "RAY_NODE_TYPE_NAME": node_type}
        process = local_node.start(
            self._words(name, ip, resources, labels),
            self._folder / f"{name}.log",
            environment,
            boot_s=float(node_config.get("boot_s", 0.0)),
        )
        machine = _Machine(ip=ip, tags={**tags, **_named(name)}, process=process)
        self._machines[name] = machine
        self._note("started", name, machine)

    def _words(self, name: str, ip: str, resources: dict[str, float], labels: dict[str, str]) -> list[str]:
        others = {key: amount for key, amount in resources.items() if key not in ("CPU", "GPU")}
        common = local_node.options(
            self._folder / str(self._started),
            ip,
            num_cpus=resources.get("CPU", 0),
            object_store_mib=self.provider_config["object_store_mib"],
        )
        return [
            f"--address={self._gcs_address}",
            *common,
            f"--num-gpus={resources.get('GPU', 0):g}",
            f"--resources={json.dumps(others)}",
            "--labels=" + ",".join(f"{key}={value}" for key, value in labels.items()),
        ]

    def _notice_lost(self) -> None:
        for name, machine in self._machines.items():
            if not machine.gone and machine.process is not None and machine.process.poll() is not None:
                machine.gone = True
                local_node.end(machine.process)  # what is left of its group
                self._note("lost", name, machine)

    def _note(self, event: str, name: str, machine: _Machine) -> None:
        assert machine.process is not None
        row = {"time_s": time.time(), "event": event, "machine": name, "ip": machine.ip, "group": machine.process.pid}
        with self._lock, open(self._folder / MACHINES, "a") as out:
            out.write(json.dumps(row) + "\n")


def _named(name: str) -> dict[str, str]:
    return {TAG_RAY_NODE_NAME: name, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
