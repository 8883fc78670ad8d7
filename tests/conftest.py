"""Shared fixtures: a real S3 server, a real local Ray, and a store URL of each kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from xmae_dist.cluster import private_ray
from xmae_dist.testing.s3_server import S3Server, serve_s3

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for the session; its address and keys are in the environment while it runs."""
    with serve_s3() as server:
        before = {name: os.environ.get(name) for name in server.environment()}
        os.environ.update(server.environment())
        yield server
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture(params=["file", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty location: once a folder, once a bucket."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    return request.getfixturevalue("s3").bucket_url()


@pytest.fixture(scope="session")
def ray_local(s3: S3Server) -> Iterator[None]:
    """A real Ray of one node for the session; started after the S3 server so that its workers can find it."""
    import ray

    private_ray.start(num_cpus=4, object_store_memory=400 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def join_ray_local(ray_local: None) -> dict[str, str]:
    """What another process of the test needs in its environment to join `ray_local`; only workers know the token."""
    import ray

    token = ray.get(ray.remote(num_cpus=0)(lambda: os.environ["RAY_AUTH_TOKEN"]).remote())
    address = ray.get_runtime_context().gcs_address
    return {"RAY_ADDRESS": address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


@pytest.fixture(scope="session")
def recordings_dir() -> Path:
    """The real recordings beside the project; tests that need them skip where they are absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("real recordings are not beside the project (../shared/data)")
    return folder


@pytest.fixture(scope="session")
def parity_file() -> Path:
    """Numbers computed with the published code; parity tests skip where they are absent."""
    file = SHARED / "parity" / "published_xmae_small.npz"
    if not file.is_file():
        pytest.skip("the parity fixture is not beside the project (../shared/parity)")
    return file
