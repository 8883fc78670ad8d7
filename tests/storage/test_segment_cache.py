"""Local copies of far objects: the same bytes, fetched once; damage is fetched again; the room is bounded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from xmae_dist.core.errors import ConfigError, IntegrityError
from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.stream import direct
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage import segment_cache, uri
from xmae_dist.storage.segment_cache import CacheConfig, SegmentCache
from xmae_dist.testing.s3_server import S3Server
from xmae_dist.testing.window_store import write_window_store

SPEC = WindowSpec(window_s=2.0, stride_s=2.0)
SEGMENT = 10_000


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_cache, "SEGMENT_BYTES", SEGMENT)


@pytest.fixture
def cache(tmp_path: Path) -> CacheConfig:
    return CacheConfig(max_gib=1.0, folder=str(tmp_path / "copies"))


@pytest.fixture
def store_urls(s3: S3Server, tmp_path: Path) -> tuple[str, WindowStore]:
    """A store on S3, and the same one in a folder."""
    there, here = s3.bucket_url(), f"file://{tmp_path}/windows"
    cohorts = {"patch": [300, 130], "watch": [50]}
    sizes = {"chunk_windows": 16, "shard_windows": 128, "spec": SPEC}
    write_window_store(there, cohorts, **sizes)  # type: ignore[arg-type]
    return there, write_window_store(here, cohorts, **sizes)  # type: ignore[arg-type]


def _copies(cache: CacheConfig) -> list[Path]:
    return [path for path in sorted(cache.path.rglob("*")) if path.is_file() and not path.name.startswith(".")]


def test_any_ranges_are_those_of_the_object(s3: S3Server, cache: CacheConfig) -> None:
    data = np.random.default_rng(0).bytes(5 * SEGMENT + 123)
    url = f"{s3.bucket_url()}/object"
    uri.write_bytes(url, data)
    segments = SegmentCache(cache)
    cuts = np.sort(np.random.default_rng(1).integers(0, len(data), (40, 2)), axis=1)
    cuts = np.vstack([cuts, [[0, 1], [SEGMENT, 2 * SEGMENT], [5 * SEGMENT, len(data)], [SEGMENT - 1, SEGMENT + 1]]])
    cuts = cuts[cuts[:, 0] < cuts[:, 1]]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda cut: segments.read_ranges(url, [int(cut[0])], [int(cut[1])])[0], cuts))
    assert found == [data[first:stop] for first, stop in cuts]
    assert segments.read_ranges(url, cuts[:, 0].tolist(), cuts[:, 1].tolist()) == found
    assert sum(path.stat().st_size for path in _copies(cache)) == len(data)


def test_a_store_is_fetched_once_and_then_read_here(store_urls: tuple[str, WindowStore], cache: CacheConfig) -> None:
    url, local = store_urls
    plan = plan_for(local, OrderConfig(seed=5, global_batch=24))
    reference = list(direct.step_batches(local, plan, stop_step=40))
    cached = WindowStore.open(url, cache)
    for _ in range(2):
        for ours, theirs in zip(direct.step_batches(cached, plan, stop_step=40), reference, strict=True):
            assert ours.ids_B.tobytes() == theirs.ids_B.tobytes()
            assert ours.ppg_BL.tobytes() == theirs.ppg_BL.tobytes()
            assert ours.ecg_BL.tobytes() == theirs.ecg_BL.tobytes()  # type: ignore[union-attr]
        for one in uri.list_details(url):  # the second pass cannot ask the store
            if "/c/" in one.url:
                uri.delete(one.url)


def test_a_damaged_copy_is_fetched_again_and_damage_in_the_store_is_told(
    store_urls: tuple[str, WindowStore], cache: CacheConfig
) -> None:
    url, local = store_urls
    cached = WindowStore.open(url, cache)
    ids = np.arange(local.n_windows)
    expected = local.read(ids)[1]
    assert np.array_equal(cached.read(ids)[1], expected)
    for path in _copies(cache):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(IntegrityError, match="chunk"):
        cached.read(ids)
    for _ in range(100):  # each try fetches what the one before found damaged
        try:
            again = cached.read(ids)[1]
            break
        except IntegrityError:
            continue
    assert np.array_equal(again, expected)
    shard = next(one.url for one in uri.list_details(url) if "/ppg/c/" in one.url)
    data = bytearray(uri.read_bytes(shard))
    data[-100] ^= 1
    uri.write_bytes(shard, data)
    for path in _copies(cache):
        path.unlink()
    for _ in range(2):
        with pytest.raises(IntegrityError, match="array ppg, chunk"):
            cached.read(ids)


def test_copies_stay_within_their_room(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_cache, "_SWEEP_EVERY", 1)
    room = CacheConfig(max_gib=4.5 * SEGMENT / 2**30, folder=str(tmp_path / "copies"))
    data = np.random.default_rng(0).bytes(12 * SEGMENT)
    url = f"{s3.bucket_url()}/object"
    uri.write_bytes(url, data)
    segments = SegmentCache(room)
    for k in range(12):
        assert segments.read_ranges(url, [k * SEGMENT], [(k + 1) * SEGMENT]) == [data[k * SEGMENT : (k + 1) * SEGMENT]]
        assert len(_copies(room)) <= 5
    assert segments.read_ranges(url, [0], [len(data)]) == [data]


def test_a_cache_must_hold_the_store(store_urls: tuple[str, WindowStore], cache: CacheConfig) -> None:
    url, local = store_urls
    with pytest.raises(ConfigError, match="room for the whole store"):
        WindowStore.open(url, CacheConfig(max_gib=1e-5))
    with pytest.raises(ConfigError, match="max_gib"):
        CacheConfig(max_gib=0.0)
    WindowStore.open(local.url, CacheConfig(max_gib=1e-5))  # nothing is copied of what is here
