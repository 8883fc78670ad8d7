"""What a local cluster may grow by: kinds of nodes, and the file that tells Ray's autoscaler of them.

The nodes are machines of `local_machines`; nothing here imports Ray, which the starter of a cluster need not have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmae_dist.core.errors import UsageError

HEAD = "head"
MACHINES = "machines.jsonl"
"""In the provider's folder: a line for each machine that was started, lost or ended."""
_SETTINGS = ("max", "min", "boot_s", "pool")
# Ray completes the files of its own providers; that of an external one must have these, and they are empty.
_EMPTY_LISTS = (
    "cluster_synced_files",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
_EMPTY_MAPPINGS = ("auth", "docker", "file_mounts")


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """A kind of node. `resources` are what Ray counts: GPUs may be among them and need not be there."""

    name: str
    resources: Mapping[str, int] = field(default_factory=lambda: {"CPU": 1})
    min_workers: int = 0
    max_workers: int = 1
    boot_s: float = 0.0
    """Seconds from the request to the start of Ray, as a cloud's machine needs them."""
    pool: str = ""
    """Label `xmae/pool` of the nodes; the type's name where none is given."""

    @classmethod
    def parse(cls, text: str) -> NodeType:
        """Of `NAME:KEY=NUMBER,…`: max, min, boot_s and pool are the type's, other keys are resources.

        Raises UsageError for what does not read like that.
        """
        name, _, rest = text.partition(":")
        pairs = dict(pair.partition("=")[::2] for pair in rest.split(",") if pair)
        try:
            resources = {key: int(value) for key, value in pairs.items() if key not in _SETTINGS}
            return cls(
                name=name,
                resources={"CPU": 1, **resources},
                min_workers=int(pairs.get("min", 0)),
                max_workers=int(pairs.get("max", 1)),
                boot_s=float(pairs.get("boot_s", 0)),
                pool=pairs.get("pool", ""),
            )
        except ValueError as error:
            raise UsageError(
                "--node-type",
                value=text,
                expected="NAME:KEY=NUMBER,…",
                fix="for example --node-type trainer:CPU=1,GPU=1,trainer=1,max=3,boot_s=20",
            ) from error

    def entry(self) -> dict[str, Any]:
        """Of `available_node_types`."""
        return {
            "resources": dict(self.resources),
            "labels": {"xmae/pool": self.pool or self.name},
            "min_workers": self.min_workers,
            "max_workers": self.max_workers,
            "node_config": {"boot_s": self.boot_s},
        }


def write_file(
    file: Path,
    node_types: Iterable[NodeType],
    *,
    gcs_address: str,
    folder: Path,
    head_cpus: float,
    idle_timeout_s: float,
    object_store_mib: int,
) -> None:
    """The file for `ray start --head --autoscaling-config`; `folder` is that of the machines."""
    types = list(node_types)
    head = {"resources": {"CPU": int(head_cpus)}, "node_config": {}, "max_workers": 0}
    document: dict[str, Any] = {
        "cluster_name": "local",
        "max_workers": sum(one.max_workers for one in types),
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": idle_timeout_s / 60,
        "provider": {
            "type": "external",
            "module": "xmae_dist.testing.local_machines.LocalMachines",
            "disable_node_updaters": True,  # nobody is reached by SSH
            "gcs_address": gcs_address,
            "folder": str(folder),
            "object_store_mib": object_store_mib,
        },
        "head_node_type": HEAD,
        "available_node_types": {HEAD: head, **{one.name: one.entry() for one in types}},
        **{name: [] for name in _EMPTY_LISTS},
        **{name: {} for name in _EMPTY_MAPPINGS},
    }
    file.write_text(json.dumps(document, indent=1))


def head_environment(metrics_port: int) -> dict[str, str]:
    """Variables of `ray start --head` beside the file."""
    return {
        "RAY_enable_autoscaler_v2": "1",  # `ray up` and KubeRay set it; plain `ray start` runs the old one
        # The autoscaler starts nothing until it has found its head among the machines, by this name.
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_NODE_TYPE_NAME": HEAD,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "AUTOSCALER_METRIC_PORT": str(metrics_port),
    }
