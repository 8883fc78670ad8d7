"""A real Ray cluster of several raylets on this machine, with token authentication, to submit jobs to.

The head and every further node are `ray start --block` processes of their own, so that one can be killed as a
machine would be lost; all of them end with the process that started them. Ray's servers listen on every interface and
take only what carries the token, which lives in a file that only its owner can read; the dashboard and the job server
listen on loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xmae_dist.core.errors import RunError
from xmae_dist.testing import beside_parent
from xmae_dist.testing.s3_server import free_port

_SETTINGS = {
    # `ray job stop` waits 3 s by default, which is less than a checkpoint may take.
    "RAY_JOB_STOP_WAIT_TIME_S": "30",
    # A machine that refuses connections is given up after 5 s instead of 15; one that does not answer, after 50.
    "RAY_health_check_period_ms": "1000",
}
_RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(kw_only=True)
class LocalCluster:
    """A running cluster. `environment()` is what a client (`ray job submit`, a driver) needs to reach it."""

    gcs_address: str
    dashboard_url: str
    token_file: Path
    folder: Path
    base_environment: dict[str, str]
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

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
        node = _start(
            [
                f"--address={self.gcs_address}",
                *_node_options(self.folder, len(self.nodes), num_cpus, object_store_mib),
            ],
            self.folder / f"node-{len(self.nodes)}.log",
            {**self.base_environment, **self.environment()},
        )
        self.nodes.append(node)
        _wait_for_node(self)
        return node

    def node_ip(self, node: subprocess.Popen[bytes]) -> str:
        """The address of the node of this process."""
        return _node_ip(self.nodes.index(node))

    def stop(self) -> None:
        """Ends every node (its whole process group), the head last, and removes the cluster's folder."""
        for node in reversed(self.nodes):
            _end_group(node)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def local_cluster(
    *,
    raylets: int = 2,
    num_cpus: float = 2,
    object_store_mib: int = 300,
    environment: dict[str, str] | None = None,
    dashboard_port: int | None = None,
) -> Iterator[LocalCluster]:
    """Runs a cluster of `raylets` nodes with `num_cpus` logical CPUs each while the block runs.

    `environment` reaches every worker (it is how the nodes of a cluster get their storage credentials: from
    the machine, not from a job). Raises RunError where the cluster does not come up in 90 s.
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
    try:
        head = _start(
            [
                "--head",
                f"--port={gcs_port}",
                "--dashboard-host=127.0.0.1",
                f"--dashboard-port={web_port}",
                f"--ray-client-server-port={free_port()}",
                *_node_options(folder, 0, num_cpus, object_store_mib),
            ],
            folder / "head.log",
            {**cluster.base_environment, **cluster.environment()},
        )
        cluster.nodes.append(head)
        _wait_for_node(cluster)
        for _ in range(raylets - 1):
            cluster.add_node(num_cpus=num_cpus, object_store_mib=object_store_mib)
        yield cluster
    finally:
        cluster.stop()


def _node_options(folder: Path, index: int, num_cpus: float, object_store_mib: int) -> list[str]:
    """Options that let several raylets share one machine.

    Ray replaces 127.0.0.1 by the address of a network card, so each node gets a loopback address of its own; the
    default ports (object manager, agents, workers) are the same for every node; and nodes that shared a folder
    would unpack a job's working directory over one another, under a driver that runs in it.
    """
    return [
        f"--temp-dir={folder / str(index)}",
        f"--node-ip-address={_node_ip(index)}",
        f"--object-manager-port={free_port()}",
        f"--node-manager-port={free_port()}",
        f"--dashboard-agent-listen-port={free_port()}",
        f"--metrics-export-port={free_port()}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--num-cpus={num_cpus:g}",
        f"--object-store-memory={object_store_mib * 2**20}",
        "--disable-usage-stats",
    ]


def _node_ip(index: int) -> str:
    return f"127.0.0.{index + 2}"


def _inherited() -> dict[str, str]:
    # A driver's own Ray variables would make a new head join the cluster of its parent.
    dropped = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_TOKEN")
    return {name: value for name, value in os.environ.items() if name not in dropped}


def _start(options: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    with open(log, "wb") as out:
        return beside_parent.start(
            [_RAY, "start", "--block", "--log-style=record", *options],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _wait_for_node(cluster: LocalCluster, patience_s: float = 90.0) -> None:
    """Until the head counts the newest node, by its address: nodes just killed are counted for some seconds more."""
    ip = _node_ip(len(cluster.nodes) - 1)
    deadline = time.monotonic() + patience_s
    needed = (cluster.nodes[0], cluster.nodes[-1])  # those between may have been killed
    while time.monotonic() < deadline and all(node.poll() is None for node in needed):
        if ip in _alive_nodes(cluster):
            return
        time.sleep(0.3)
    log = max(cluster.folder.glob("*.log"), key=lambda file: file.stat().st_mtime)
    raise RunError(
        "local Ray cluster",
        value=log.read_text(errors="replace")[-600:],
        expected=f"a node at {ip} within {patience_s:.0f} s",
        fix="run `ray start --head` by hand to see what it says",
    )


def _alive_nodes(cluster: LocalCluster) -> set[str]:
    """Addresses of the nodes that the head counts as alive; none while its dashboard does not answer.

    Asked over HTTP: Ray's own client fixes its authentication mode when it is first imported, and the process
    that starts a cluster may have imported Ray for another.
    """
    request = urllib.request.Request(
        f"{cluster.dashboard_url}/api/v0/nodes?limit=1000",
        headers={"Authorization": f"Bearer {cluster.token_file.read_text()}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
    except OSError:
        return set()
    return {node["node_ip"] for node in nodes if node["state"] == "ALIVE"}


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for sign, patience_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience_s)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
