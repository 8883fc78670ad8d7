"""A real Ray cluster of several raylets on this machine, with token authentication, to submit jobs to.

The head and every further node are `ray start --block` processes of their own, so that one can be killed as a
machine would be lost; all of them end with the process that started them. Ray's servers listen on every interface and
take only what carries the token, which lives in a file that only its owner can read; the dashboard and the job server
listen on loopback. Nodes are added by whoever holds the cluster, or by Ray's own autoscaler (v2) out of `node_types`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from xmae_dist.cluster import private_ray
from xmae_dist.core.errors import RunError
from xmae_dist.testing import autoscaling, local_node
from xmae_dist.testing.autoscaling import NodeType
from xmae_dist.testing.redis_server import RedisServer
from xmae_dist.testing.s3_server import free_port

_SETTINGS = {
    # `ray job stop` waits 3 s by default, which is less than a checkpoint may take.
    "RAY_JOB_STOP_WAIT_TIME_S": "30",
    # A machine that refuses connections is given up after 5 s instead of 15; one that does not answer, after 50.
    "RAY_health_check_period_ms": "1000",
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that the autoscaler started."""

    name: str
    """`TYPE-number`."""
    ip: str
    process_group: int


@dataclass(kw_only=True)
class LocalCluster:
    """A running cluster. `environment()` is what a client (`ray job submit`, a driver) needs to reach it."""

    gcs_address: str
    dashboard_url: str
    token_file: Path
    folder: Path
    base_environment: dict[str, str]
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """The head first."""
    head: tuple[list[str], dict[str, str]] = field(default_factory=lambda: ([], {}))
    """Words of its `ray start`, and its variables beside those of every node."""

    def environment(self) -> dict[str, str]:
        """Variables for clients; the token itself is not among them, only the path of its file."""
        return {
            "RAY_ADDRESS": self.dashboard_url,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
        }

    def add_node(self, *, num_cpus: float, object_store_mib: int = 300) -> subprocess.Popen[bytes]:
        """Starts one more raylet and returns its process: killing its group is the loss of that machine.

        Waits until the head counts it.
        """
        number = len(self.nodes)
        common = local_node.options(
            self.folder / str(number), _node_ip(number), num_cpus=num_cpus, object_store_mib=object_store_mib
        )
        words = [f"--address={self.gcs_address}", *common]
        _start_node(self, number, words, self.folder / f"node-{number}.log", {})
        return self.nodes[number]

    def node_ip(self, node: subprocess.Popen[bytes]) -> str:
        """The address of the node of this process."""
        return _node_ip(self.nodes.index(node))

    def lose_head(self) -> None:
        """Kills all that runs on the head, the drivers of jobs too, at once, and empties its disk."""
        import psutil

        head = self.nodes[0]
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.send_signal(signal.SIGKILL)
        head.wait()
        shutil.rmtree(self.folder / "0", ignore_errors=True)

    def return_head(self) -> None:
        """Starts a head at the address of the one that was lost. Raises RunError where it does not come up in 90 s."""
        _start_head(self)

    # -- machines of the autoscaler --------------------------------------------------------------------------------

    def machine_events(self) -> list[dict[str, Any]]:
        """What the autoscaler did so far, in order: `time_s` (Unix), `event` (started, lost or ended), `machine`."""
        file = self._machines_folder / autoscaling.MACHINES
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def machines(self) -> list[Machine]:
        """Those that are there or booting, in the order of their start."""
        there: dict[str, Machine] = {}
        for row in self.machine_events():
            there.pop(row["machine"], None)
            if row["event"] == "started":
                there[row["machine"]] = Machine(name=row["machine"], ip=row["ip"], process_group=row["group"])
        return list(there.values())

    def notice(self, ip: str, *, grace_s: int = 30) -> None:
        """Tells Ray that the machine at this address will be taken away, as `cluster/notice.py` does on spot machines.

        Taking it away is `lose`. Raises RunError where Ray refuses.
        """
        (node_id,) = [node["node_id"] for node in self.alive() if node["node_ip"] == ip]
        done = subprocess.run(
            [
                *(local_node.RAY, "drain-node", "--address", self.gcs_address, "--node-id", node_id),
                *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"),
                *("--deadline-remaining-seconds", str(grace_s)),
            ],
            env={**self.base_environment, **self.environment()},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RunError(f"notice to {ip}", value=done.stderr[-600:], expected="a node that Ray drains")

    def lose(self, machine: Machine) -> None:
        """Kills all that runs on a machine, at once, as if it were taken away."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(machine.process_group, signal.SIGKILL)

    @property
    def _machines_folder(self) -> Path:
        return self.folder / "machines"

    # -- state -----------------------------------------------------------------------------------------------------

    def alive(self) -> list[dict[str, Any]]:
        """Ray's state of the nodes that the head counts as alive; none while its dashboard does not answer."""
        return [node for node in self.state("nodes") if node["state"] == "ALIVE"]

    def state(self, what: str) -> list[dict[str, Any]]:
        """What Ray's state API lists: nodes, tasks, actors. Empty while the dashboard does not answer.

        Asked over HTTP: Ray's own client fixes its authentication mode when it is first imported, and the process
        that starts a cluster may have imported Ray for another.
        """
        request = urllib.request.Request(
            f"{self.dashboard_url}/api/v0/{what}?limit=1000&detail=true",
            headers={"Authorization": f"Bearer {self.token_file.read_text()}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        except OSError:
            return []
        return found

    def stop(self) -> None:
        """Ends every node (its whole process group), the head last, and removes the cluster's folder."""
        for node in reversed(self.nodes):
            local_node.end(node)
        for machine in self.machines():  # they end with the autoscaler, in their own time
            self.lose(machine)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def local_cluster(
    *,
    raylets: int = 2,
    num_cpus: float = 2,
    object_store_mib: int = 300,
    environment: dict[str, str] | None = None,
    dashboard_port: int | None = None,
    node_types: Sequence[NodeType] = (),
    idle_timeout_s: float = 20.0,
    control: RedisServer | Literal["memory", "rocksdb"] = "memory",
) -> Iterator[LocalCluster]:
    """Runs a cluster of `raylets` nodes with `num_cpus` logical CPUs each while the block runs.

    With `node_types` Ray's autoscaler adds nodes of these on demand, and ends those that were idle for
    `idle_timeout_s`. What its control server knows outlives the head in a Redis, or in a folder where `control` is
    "rocksdb". `environment` reaches every worker (it is how the nodes of a cluster get their storage
    credentials: from the machine, not from a job). Raises RunError where the cluster does not come up in 90 s.
    """
    # Ray puts Unix sockets under its folder; their paths may have no more than 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="xmae-ray-", dir="/tmp"))
    token_file = folder / "auth_token"
    token_file.touch(mode=0o600)
    token_file.write_text(secrets.token_hex(32))
    gcs_port, web_port = free_port(), dashboard_port or free_port()
    cluster = LocalCluster(
        gcs_address=f"{_node_ip(0)}:{gcs_port}",
        dashboard_url=f"http://127.0.0.1:{web_port}",
        token_file=token_file,
        folder=folder,
        base_environment={**_inherited(), **_SETTINGS, **(environment or {})},
    )
    scaling, scaling_variables = _autoscaler(cluster, node_types, num_cpus, idle_timeout_s, object_store_mib)
    kept, kept_variables = _kept(cluster, control)
    words = [
        "--head",
        f"--port={gcs_port}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={web_port}",
        f"--ray-client-server-port={free_port()}",
        *scaling,
        *kept,
        *local_node.options(folder / "0", _node_ip(0), num_cpus=num_cpus, object_store_mib=object_store_mib),
    ]
    cluster.head = words, {**scaling_variables, **kept_variables}
    try:
        _start_head(cluster)
        for _ in range(raylets - 1):
            cluster.add_node(num_cpus=num_cpus, object_store_mib=object_store_mib)
        yield cluster
    finally:
        cluster.stop()


def _autoscaler(
    cluster: LocalCluster,
    node_types: Sequence[NodeType],
    head_cpus: float,
    idle_timeout_s: float,
    object_store_mib: int,
) -> tuple[list[str], dict[str, str]]:
    """Words and variables for `ray start --head`."""
    if not node_types:
        return [], {}
    file = cluster.folder / "autoscaling.yaml"
    autoscaling.write_file(
        file,
        node_types,
        gcs_address=cluster.gcs_address,
        folder=cluster._machines_folder,
        head_cpus=head_cpus,
        idle_timeout_s=idle_timeout_s,
        object_store_mib=object_store_mib,
    )
    return [f"--autoscaling-config={file}"], autoscaling.head_environment(free_port())


def _kept(
    cluster: LocalCluster, control: RedisServer | Literal["memory", "rocksdb"]
) -> tuple[list[str], dict[str, str]]:
    """Words and variables of `ray start --head` for where the control server keeps what it knows."""
    if isinstance(control, RedisServer):
        # Ray takes the password on the command line alone.
        return [f"--redis-password={control.password}"], {"RAY_REDIS_ADDRESS": control.address}
    if control == "rocksdb":
        return [], {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(cluster.folder / "control")}
    return [], {}


def _start_head(cluster: LocalCluster) -> None:
    words, variables = cluster.head
    _start_node(cluster, 0, words, cluster.folder / "head.log", variables)


def _start_node(cluster: LocalCluster, number: int, words: list[str], log: Path, variables: Mapping[str, str]) -> None:
    """Starts a node and waits for it; tried twice on a machine that is too busy for Ray's patience."""
    environment = {**cluster.base_environment, **cluster.environment(), **variables}
    for left in (1, 0):
        cluster.nodes[number : number + 1] = [local_node.start(words, log, environment)]
        try:
            _wait_for_node(cluster, number, log)
            return
        except RunError as error:
            if not left or not private_ray.too_slow(error):
                raise
            local_node.end(cluster.nodes[number])


def _node_ip(index: int) -> str:
    return f"127.0.0.{index + 2}"


def _inherited() -> dict[str, str]:
    # A driver's own Ray variables would make a new head join the cluster of its parent.
    dropped = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_TOKEN")
    return {name: value for name, value in os.environ.items() if name not in dropped}


def _wait_for_node(cluster: LocalCluster, number: int, log: Path, patience_s: float = 90.0) -> None:
    """Until the head counts this node, by its address: nodes just killed are counted for some seconds more."""
    ip = _node_ip(number)
    deadline = time.monotonic() + patience_s
    needed = (cluster.nodes[0], cluster.nodes[number])  # others may have been killed
    while time.monotonic() < deadline and all(node.poll() is None for node in needed):
        if any(node["node_ip"] == ip for node in cluster.alive()):
            return
        time.sleep(0.3)
    raise RunError(
        "local Ray cluster",
        value=log.read_text(errors="replace")[-600:],
        expected=f"a node at {ip} within {patience_s:.0f} s",
        fix="run `ray start --head` by hand to see what it says",
    )
