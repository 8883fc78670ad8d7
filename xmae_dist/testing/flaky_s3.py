"""A proxy before an S3 server that misbehaves as real stores and networks do, by a rule.

    "busy"       503 SlowDown, the request does not arrive
    "reset"      the connection breaks before the request arrives
    "lost"       the request is carried out, then the connection breaks instead of the answer
    "cut"        the answer's body ends in the middle
    "short"      the answer holds half of the body, and says that this is all
    "mute"       the request is taken, and never answered
    "stall"      half of the body arrives, then nothing, on a connection that stays open
    "drip"       the body arrives byte by byte, five a second
    "careless"   a conditional put is carried out without its condition
    "expired"    400 ExpiredToken, the request does not arrive
    "skewed"     403 RequestTimeTooSkewed, the request does not arrive

    "no key"     403 AccessDenied for want of the KMS key, the request does not arrive

It also keeps with which key, for which region, and by which client requests were signed.

It runs in a process of its own: delta-rs holds the interpreter lock while it waits for an answer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import SplitResult, urlsplit

_BUSY = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"
_HOP_HEADERS = {"connection", "transfer-encoding", "content-length", "expect"}
_CONTROL, _SIGNATURES = "/.flaky", "/.flaky/signatures"
_NO_KEY = (
    b"<Error><Code>AccessDenied</Code><Message>User: someone is not authorized to perform: kms:GenerateDataKey on "
    b"resource: key</Message></Error>"
)
_REFUSALS: dict[str, tuple[int, list[tuple[str, str]], bytes]] = {
    "busy": (503, [], _BUSY),
    "no key": (403, [], _NO_KEY),
    "expired": (400, [], b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"),
    "skewed": (
        403,
        [("Date", "Thu, 01 Jan 2015 00:00:00 GMT")],
        b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference between the request time and the current "
        b"time is too large.</Message></Error>",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What goes wrong, with one in `every` of the matching requests, at most `times` times (0: always).

    Which ones has no period: an operation of five requests would meet every fifth at the same place at each try.
    """

    kind: str
    methods: tuple[str, ...] = ("GET", "PUT", "HEAD", "POST", "DELETE")
    path_has: str = ""
    key: str = ""
    """Only requests signed with this access key id."""
    every: int = 1
    times: int = 0


@dataclass(frozen=True, kw_only=True)
class Signature:
    """How a request was signed. `client` is the first word of its user agent."""

    client: str
    key: str
    region: str
    token: str


@dataclass(frozen=True, kw_only=True)
class FlakyS3:
    """The running proxy."""

    endpoint_url: str

    def follow(self, rule: Rule) -> None:
        """From now on requests fail by `rule`."""
        data = json.dumps(dataclasses.asdict(rule)).encode()
        urllib.request.urlopen(urllib.request.Request(self.endpoint_url + _CONTROL, data=data, method="POST")).close()

    def signatures(self) -> set[Signature]:
        """How requests were signed since the last rule."""
        with urllib.request.urlopen(self.endpoint_url + _SIGNATURES) as answer:
            return {Signature(**one) for one in json.load(answer)}

    def did(self) -> Counter[str]:
        """How many requests met each fault since the last rule ("right": none)."""
        with urllib.request.urlopen(self.endpoint_url + _CONTROL) as answer:
            return Counter(json.load(answer))


@contextlib.contextmanager
def flaky_s3(upstream: str) -> Iterator[FlakyS3]:
    """Runs a proxy before the server at `upstream` while the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "xmae_dist.testing.flaky_s3", upstream], stdout=subprocess.PIPE, text=True
    )
    try:
        if process.stdout is None:
            raise OSError("the proxy has no output")
        yield FlakyS3(endpoint_url=process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait(timeout=10)


class _Script:
    """The rule in force, and the count of what happened under it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.follow(Rule(kind="right", methods=()))

    def follow(self, rule: Rule) -> None:
        with self._lock:
            self._rule, self._matched, self.did = rule, 0, Counter[str]()
            self.signatures: set[Signature] = set()

    def next_fault(self, method: str, path: str, signature: Signature) -> str | None:
        with self._lock:
            rule = self._rule
            kind = None
            self.signatures.add(signature)
            if method in rule.methods and rule.path_has in path and rule.key in ("", signature.key):
                self._matched += 1
                spent = rule.times and self.did[rule.kind] >= rule.times
                kind = rule.kind if zlib.crc32(str(self._matched).encode()) % rule.every == 0 and not spent else None
            self.did[kind or "right"] += 1
            return kind


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: SplitResult
    script: _Script

    def handle_any(self) -> None:
        body = self._body()
        if self.path == _CONTROL:
            return self._control(body)
        if self.path == _SIGNATURES:
            signed = [dataclasses.asdict(one) for one in self.script.signatures]
            return self._answer(200, [], json.dumps(signed).encode())
        fault = self.script.next_fault(self.command, self.path, self._signature())
        if fault == "reset":
            return self._break()
        if fault == "mute":
            return self._hang()
        if fault in _REFUSALS:
            return self._answer(*_REFUSALS[fault])
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_HEADERS}
        if fault == "careless":
            headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
        status, answered, data = self._forward(headers, body)
        if fault == "lost":
            return self._break()
        if fault == "short" and self.command != "HEAD":
            data = data[: len(data) // 2]
            answered = [(name, value) for name, value in answered if name.lower() != "content-length"]
        self._answer(status, answered, data, body=fault or "whole")
        return None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def _signature(self) -> Signature:
        scope = re.search(r"Credential=([^/]+)/\d+/([^/]+)/", self.headers.get("Authorization", ""))
        return Signature(
            client=self.headers.get("User-Agent", "").split("/")[0].split(" ")[0],
            key=scope.group(1) if scope else "",
            region=scope.group(2) if scope else "",
            token=self.headers.get("x-amz-security-token", ""),
        )

    def _control(self, body: bytes) -> None:
        if body:
            self.script.follow(Rule(**json.loads(body)))
        self._answer(200, [], json.dumps(self.script.did).encode())

    def _forward(self, headers: dict[str, str], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.upstream.hostname or "", self.upstream.port, timeout=30)
        try:
            connection.request(
                self.command, self.path, body=body, headers={**headers, "Content-Length": str(len(body))}
            )
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, body: str = "whole") -> None:
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of a HEAD: the object's, with no body
            elif name.lower() not in _HOP_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data[: len(data) // 2] if body in ("cut", "stall") else b"" if body == "drip" else data)
        if body == "cut":
            self._break()
        elif body == "stall":
            self._hang()
        elif body == "drip":
            self._drip(data)

    def _hang(self) -> None:
        """Says nothing more until the client gives up."""
        self.close_connection = True
        self.wfile.flush()
        with contextlib.suppress(OSError):
            while self.connection.recv(4096):
                pass

    def _drip(self, data: bytes) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client gave up
            for value in data:
                self.wfile.write(bytes([value]))
                time.sleep(0.2)

    def _break(self) -> None:
        self.wfile.flush()
        # Linger 0: the peer gets a reset, as from a host that died.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: `FlakyS3.did` counts what happened."""


def main(upstream: str) -> None:
    handler = type("Handler", (_Handler,), {"upstream": urlsplit(upstream), "script": _Script()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
