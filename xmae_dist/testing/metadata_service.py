"""A stand-in for the metadata services of cloud machines: a role whose keys expire, by the protocols of EC2 (IMDSv2)
and of containers.

It runs in this process on a loopback port; botocore finds it by AWS_EC2_METADATA_SERVICE_ENDPOINT, or by
AWS_CONTAINER_CREDENTIALS_FULL_URI = `MetadataService.container_url`.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_CONTAINER = "/container/keys"
_ROLE = "role-of-the-machine"
_SECRET = "secret-of-a-test"


@dataclass
class MetadataService:
    """The running service. Every answer has another key pair, the newest being the last of `issued`."""

    endpoint_url: str = ""
    lifetime_s: float = 3600.0
    """Of the keys of the answers to come."""
    issued: list[str] = field(default_factory=list)
    """Access key ids, oldest first."""

    @property
    def container_url(self) -> str:
        return self.endpoint_url + _CONTAINER

    def keys(self) -> dict[str, str]:
        key = f"ROLEKEY{len(self.issued) + 1:04d}"
        self.issued.append(key)
        form = "%Y-%m-%dT%H:%M:%SZ"
        return {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": key,
            "SecretAccessKey": _SECRET,
            "Token": f"token-of-{key}",
            "LastUpdated": time.strftime(form, time.gmtime()),
            "Expiration": time.strftime(form, time.gmtime(time.time() + self.lifetime_s)),
        }


@contextlib.contextmanager
def metadata_service() -> Iterator[MetadataService]:
    """Serves while the block runs."""
    service = MetadataService()
    handler = type("Handler", (_Handler,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    service.endpoint_url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    service: MetadataService

    def do_PUT(self) -> None:
        self._answer(b"session-token" if self.path == "/latest/api/token" else None)

    def do_GET(self) -> None:
        base = "/latest/meta-data/iam/security-credentials/"
        if self.path == base:
            self._answer(_ROLE.encode())
        elif self.path in (base + _ROLE, _CONTAINER):
            self._answer(json.dumps(self.service.keys()).encode())
        else:
            self._answer(None)

    def _answer(self, body: bytes | None) -> None:
        self.send_response(200 if body is not None else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
