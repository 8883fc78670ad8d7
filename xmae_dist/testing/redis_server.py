"""A real Redis with a password on a free loopback port, for a control server whose state outlives it.

The program is Debian's `redis-server`. It keeps everything in memory and ends with its parent.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xmae_dist.core.errors import RunError
from xmae_dist.testing import beside_parent, local_node
from xmae_dist.testing.s3_server import free_port

PROGRAM = "redis-server"


@dataclass(frozen=True, kw_only=True)
class RedisServer:
    """A running server: `address` is host:port."""

    address: str
    password: str


def installed() -> bool:
    return shutil.which(PROGRAM) is not None


@contextlib.contextmanager
def serve_redis(patience_s: float = 30.0) -> Iterator[RedisServer]:
    """Runs the server while the block runs. Raises RunError where it does not come up in `patience_s`."""
    port, password = free_port(), secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="xmae-redis-") as folder:
        settings = Path(folder) / "redis.conf"
        settings.touch(mode=0o600)  # the password is on no command line
        settings.write_text(f"requirepass {password}\nbind 127.0.0.1\nport {port}\nsave ''\ndir {folder}\n")
        process = beside_parent.start([PROGRAM, str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port, patience_s)
            yield RedisServer(address=f"127.0.0.1:{port}", password=password)
        finally:
            local_node.end(process)


def _wait_for(port: int, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise RunError(
                    PROGRAM, value=str(error), expected=f"a server on port {port} within {patience_s:.0f} s"
                ) from error
            time.sleep(0.1)
