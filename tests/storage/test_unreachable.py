"""A store that cannot be used is told in one line, within seconds, without a secret."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from xmae_dist.cli.main import main
from xmae_dist.core.errors import StorageError
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table
from xmae_dist.testing.s3_server import S3Server, free_port, serve_s3

PATIENCE_S = 25.0  # about ten seconds on a machine with nothing else to do; without limits it would be minutes

_USES: dict[str, Callable[[str], object]] = {
    "open": Corpus.open,
    "create": Corpus.create,
    "read": uri.read_bytes,
    "write": lambda url: uri.write_bytes(url, b"x"),
    "list": uri.list_urls,
    "table": lambda url: Table(url).read(),
    "append": lambda url: Table(url).append(pa.table({"a": [1]})),
}


def told(use: Callable[[str], object], url: str) -> str:
    """The message of the StorageError, which must come soon, name the URL and hold no secret."""
    started = time.monotonic()
    with pytest.raises(StorageError) as caught:
        use(url)
    message = str(caught.value)
    assert time.monotonic() - started < PATIENCE_S
    assert url in message and "\n" not in message
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ.get(name, "unset") not in message
    return message


@pytest.mark.parametrize("use", _USES)
def test_wrong_bucket(s3: S3Server, use: str) -> None:
    message = told(_USES[use], "s3://no-such-bucket-here/corpus")
    assert "no such bucket" in message and "fix: check the bucket's spelling" in message


@pytest.mark.parametrize("use", _USES)
def test_nothing_listens(s3: S3Server, use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    message = told(_USES[use], "s3://bucket/corpus")
    assert f"endpoint {endpoint}" in message and "no answer" in message and "AWS_ENDPOINT_URL" in message


def test_unknown_host(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid:9000")
    assert "no answer" in told(Corpus.open, "s3://bucket/corpus")


def test_a_server_that_accepts_and_says_nothing(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "no answer" in told(Corpus.open, "s3://bucket/corpus")


def _take_headers_only(server: socket.socket, taken: contextlib.ExitStack) -> None:
    with contextlib.suppress(OSError):  # the test is over
        while True:
            connection = taken.enter_context(server.accept()[0])
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(1)
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def test_a_server_that_stops_taking_what_is_written(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(uri.PATIENCE_VARIABLE, "2")
    monkeypatch.setattr(uri, "_SLOWEST_BYTES_S", 1e9)
    with socket.socket() as server, contextlib.ExitStack() as taken:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=_take_headers_only, args=(server, taken), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        large = bytes(16 << 20)  # more than the buffers of a connection hold
        for write in (uri.write_bytes, uri.create_exclusively):
            assert "no answer" in told(lambda url, write=write: write(url, large), "s3://bucket/shard")


def test_no_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = s3.bucket_url()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert "no credentials" in told(Corpus.open, url)


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[S3Server, str]]:
    """A server that knows no key, and a bucket in it from before it began to look."""
    with serve_s3() as server:
        url = server.bucket_url()
        open_requests_from_now = urllib.request.Request(
            f"{server.endpoint_url}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(open_requests_from_now, timeout=30).close()
        yield server, url


@pytest.mark.parametrize("use", _USES)
def test_wrong_credentials(guarded: tuple[S3Server, str], use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server, url = guarded
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    message = told(_USES[use], url + "/corpus")
    assert re.search("credentials refused|access denied", message)
    assert "AWS_ACCESS_KEY_ID" in message or "use credentials" in message


def test_the_command_line_says_it_in_one_line(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "s3://no-such-bucket-here/corpus"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("xmae verify: error: s3://no-such-bucket-here/corpus")
    assert said.err.count("\n") == 1


def test_an_endpoint_with_a_password_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:hunter2@127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-test")
    assert "hunter2" not in told(Corpus.open, "s3://bucket/corpus")


def test_odd_urls_and_paths(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert uri.normalise(str(tmp_path) + "/") == f"file://{tmp_path}"
    assert uri.normalise("s3://bucket/a/") == "s3://bucket/a"
    for url, said in (("http://x/y", "store URL"), ("s3://", "name a bucket"), (tmp_path / "file", "in the way")):
        with pytest.raises(StorageError, match=said):
            Corpus.create(str(url))
    with pytest.raises(StorageError, match="no corpus there"):
        Corpus.open(str(tmp_path / "none"))
