"""A real S3 protocol server (moto's, in a process of its own) on a free loopback port.

The server keeps its objects in memory and ends with its parent. Clients find it through the standard AWS
environment variables, as they would find any other store.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xmae_dist.core.errors import RunError
from xmae_dist.testing import beside_parent

_REQUEST = re.compile(rb'"(?:\x1b\[[0-9;]*m)*(?:GET|PUT|HEAD|POST|DELETE) \S+ HTTP')


@dataclass(frozen=True, kw_only=True)
class S3Server:
    """A running server: its loopback endpoint, and the throw-away key pair its clients use."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    log: Path | None = None
    """Where the server writes a line for each request."""

    def requests(self) -> int:
        """How many requests it has answered, of all kinds; of a server with a log."""
        if self.log is None:
            raise ValueError("a server that was started without a log")
        return len(_REQUEST.findall(self.log.read_bytes()))

    def environment(self) -> dict[str, str]:
        """The AWS variables with which s3fs, delta-rs and the AWS tools find this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def bucket_url(self, name: str | None = None, *, region: str = "us-east-1") -> str:
        """Creates a bucket (a fresh name unless given) in a region and returns `s3://<bucket>`."""
        import boto3

        bucket = name or f"test-{uuid.uuid4().hex[:12]}"
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            region_name=region,
        ).create_bucket(Bucket=bucket, **place)
        return f"s3://{bucket}"


@contextlib.contextmanager
def serve_s3(port: int | None = None, log: Path | None = None) -> Iterator[S3Server]:
    """Runs the server while the block runs; with a `log` it counts requests. Raises RunError where it does not come up
    in 90 s.
    """
    port = port or free_port()
    server = S3Server(
        endpoint_url=f"http://127.0.0.1:{port}",
        access_key_id="local" + secrets.token_hex(6),
        secret_access_key=secrets.token_hex(16),
        log=log,
    )
    with open(log or os.devnull, "wb") as said:
        process = beside_parent.start(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=said,
            stderr=said,
            env={**os.environ, "MOTO_S3_CUSTOM_ENDPOINTS": server.endpoint_url, "PYTHONUNBUFFERED": "1"},
        )
    try:
        _wait_until_up(server.endpoint_url, process)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)


def free_port() -> int:
    """A TCP port on loopback that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(endpoint_url: str, process: subprocess.Popen[bytes], patience_s: float = 90.0) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(endpoint_url, timeout=1):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise RunError(
        f"S3 server at {endpoint_url}",
        value=f"exit status {process.poll()}" if process.poll() is not None else "no answer",
        expected=f"an answer within {patience_s:.0f} s",
        fix="install the `demo` extra (moto[server]) and look at `python -m moto.server` by hand",
    )
