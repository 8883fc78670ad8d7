"""Local files and a real S3 server pass one suite; so does the store named in XMAE_TEST_STORE, where it is set."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from xmae_dist.storage import uri
from xmae_dist.testing.conformance_storage import StorageConformance

_STORES = ["file", "s3"] + (["named"] if "XMAE_TEST_STORE" in os.environ else [])


@pytest.fixture(params=_STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/store"
    elif request.param == "s3":
        yield request.getfixturevalue("s3").bucket_url()
    else:
        url = uri.join(os.environ["XMAE_TEST_STORE"], f"conformance-{uuid.uuid4().hex}")
        yield url
        uri.delete(url, recursive=True)


class TestStores(StorageConformance):
    pass
