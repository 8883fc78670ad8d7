"""The stream over an S3 server that fails: the same bytes, or one clear error in bounded time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from tests.data.stream.test_stream import COHORTS, SPEC, plan_of, same
from xmae_dist.core.errors import StorageError
from xmae_dist.data.store import window_store
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.stream import direct
from xmae_dist.data.stream.direct import Batch, RetryConfig
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage import uri
from xmae_dist.testing.flaky_s3 import FlakyS3, Rule, flaky_s3
from xmae_dist.testing.s3_server import S3Server
from xmae_dist.testing.window_store import write_window_store

STEPS = 40
RETRY = RetryConfig(attempts=8, first_wait_s=0.01)
CHUNKS = {"methods": ("GET",), "path_has": "/c/"}


@pytest.fixture(scope="module")
def store(s3: S3Server) -> WindowStore:
    return write_window_store(s3.bucket_url(), COHORTS, chunk_windows=16, shard_windows=128, spec=SPEC)


@pytest.fixture(scope="module")
def reference(store: WindowStore) -> list[Batch]:
    return list(direct.step_batches(store, plan_of(store), stop_step=STEPS))


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[FlakyS3]:
    with flaky_s3(s3.endpoint_url) as proxy:
        yield proxy


@dataclass
class Behind:
    """A store read through the proxy, also by processes that were started before there was one."""

    store: WindowStore
    environment: dict[str, str]

    @property
    def spec(self) -> WindowSpec:
        return self.store.spec

    def read(self, ids_B: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            window_store._readers.clear()  # shard indexes are asked for again
            return self.store.read(ids_B)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def behind(store: WindowStore, proxy: FlakyS3, patience_s: float) -> Behind:
    return Behind(store, {"AWS_ENDPOINT_URL": proxy.endpoint_url, uri.PATIENCE_VARIABLE: str(patience_s)})


FAULTS = [
    Rule(kind="busy", every=9, **CHUNKS),  # type: ignore[arg-type]
    Rule(kind="reset", every=3, **CHUNKS),  # type: ignore[arg-type]
    Rule(kind="cut", every=3, **CHUNKS),  # type: ignore[arg-type]
    Rule(kind="short", times=1, **CHUNKS),  # type: ignore[arg-type]
    Rule(kind="mute", every=9, times=2, **CHUNKS),  # type: ignore[arg-type]
    Rule(kind="stall", every=9, times=2, **CHUNKS),  # type: ignore[arg-type]
    Rule(kind="drip", every=9, times=2, **CHUNKS),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("rule", FAULTS, ids=lambda rule: rule.kind)
def test_plain_reads_come_through(store: WindowStore, reference: list[Batch], proxy: FlakyS3, rule: Rule) -> None:
    proxy.follow(rule)
    flaky = behind(store, proxy, patience_s=4)
    assert same(list(direct.step_batches(flaky, plan_of(store), stop_step=STEPS, retry=RETRY)), reference)
    assert proxy.did()[rule.kind] >= 1


@pytest.mark.parametrize("rule", FAULTS, ids=lambda rule: rule.kind)
def test_the_ray_stream_comes_through(
    store: WindowStore, reference: list[Batch], proxy: FlakyS3, rule: Rule, ray_local: None
) -> None:
    from ray import cloudpickle

    from xmae_dist.data.stream import read_ahead

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # readers cannot import a test
    proxy.follow(rule)
    flaky, config = behind(store, proxy, patience_s=4), read_ahead.StreamConfig(retry=RETRY)
    assert same(list(read_ahead.step_batches(flaky, plan_of(store), stop_step=STEPS, config=config)), reference)
    assert proxy.did()[rule.kind] >= 1


@pytest.mark.parametrize("kind", ["busy", "reset", "cut", "mute", "stall", "drip"])
def test_a_store_that_stays_so_is_one_error_in_bounded_time(store: WindowStore, proxy: FlakyS3, kind: str) -> None:
    proxy.follow(Rule(kind=kind, **CHUNKS))  # type: ignore[arg-type]
    flaky = behind(store, proxy, patience_s=1.5)
    began_s = time.monotonic()
    with pytest.raises(StorageError, match=r"after retries|no answer") as told:
        retry = RetryConfig(attempts=2, first_wait_s=0.01)
        list(direct.step_batches(flaky, plan_of(store), stop_step=STEPS, retry=retry))
    assert "\n" not in str(told.value)
    assert time.monotonic() - began_s < 60  # 2 to 8 s on an idle machine; without a deadline a drip would take hours


def test_the_ray_stream_tells_of_a_store_that_hangs(store: WindowStore, proxy: FlakyS3, ray_local: None) -> None:
    from ray import cloudpickle

    from xmae_dist.data.stream import read_ahead

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    proxy.follow(Rule(kind="drip", **CHUNKS))  # type: ignore[arg-type]
    config = read_ahead.StreamConfig(retry=RetryConfig(attempts=2, first_wait_s=0.01))
    with pytest.raises(StorageError, match="no answer"):
        list(read_ahead.step_batches(behind(store, proxy, 1.5), plan_of(store), stop_step=STEPS, config=config))
