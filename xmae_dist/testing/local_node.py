"""One Ray node on this machine: `ray start --block` at a loopback address of its own, which ends with its starter."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from xmae_dist.testing import beside_parent

RAY = str(Path(sys.executable).with_name("ray"))


def options(folder: Path, ip: str, *, num_cpus: float, object_store_mib: int) -> list[str]:
    """Options of `ray start` that let several nodes share one machine; the session is kept below `folder`.

    Ray replaces 127.0.0.1 by the address of a network card, so each node gets a loopback address of its own; the
    default ports (object manager, agents, workers) are the same for every node; and nodes that shared a folder
    would unpack a job's working directory over one another, under a driver that runs in it. A raylet that is told its
    agents' ports does not wait for the agents to tell them, and give up after 15 s, as it would on a busy machine.
    """
    return [
        f"--temp-dir={folder}",
        f"--node-ip-address={ip}",
        f"--object-manager-port={_port(ip)}",
        f"--node-manager-port={_port(ip)}",
        f"--dashboard-agent-listen-port={_port(ip)}",
        f"--dashboard-agent-grpc-port={_port(ip)}",
        f"--runtime-env-agent-port={_port(ip)}",
        f"--metrics-export-port={_port(ip)}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--num-cpus={num_cpus:g}",
        f"--object-store-memory={object_store_mib * 2**20}",
        "--disable-usage-stats",
    ]


def _port(ip: str) -> int:
    """A port that nothing listens on, below those that the kernel gives to connections: an agent binds to it seconds
    later."""
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((ip, port))
            return port


def start(
    words: list[str], log: Path, environment: Mapping[str, str], *, boot_s: float = 0.0
) -> subprocess.Popen[bytes]:
    """`ray start --block` with `words`, after the seconds that a machine would take to boot."""
    command = [RAY, "start", "--block", "--log-style=record", *words]
    if boot_s:
        command = ["sh", "-c", 'sleep "$0"; exec "$@"', f"{boot_s:g}", *command]
    environment = {name: value for name, value in environment.items() if name != "RAY_ADDRESS"}
    with open(log, "wb") as out:
        return beside_parent.start(command, stdout=out, stderr=subprocess.STDOUT, env=environment)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a node with all that runs on it; asked first, then killed."""
    for sign, patience_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience_s)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
