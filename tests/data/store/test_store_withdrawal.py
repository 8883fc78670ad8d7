"""Window stores with withdrawn people are found, complete or not, and go whole."""

from __future__ import annotations

import time

import pytest

from xmae_dist.core.errors import StorageError
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.store.withdrawal import remove_store, stores_with
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage import uri
from xmae_dist.testing.window_store import write_window_store

SPEC = WindowSpec(window_s=1.0, stride_s=1.0)
LONG_AGO = 0.0


def store_below(url: str, cohort: str) -> WindowStore:
    return write_window_store(f"{url}/{cohort}", {cohort: [40]}, chunk_windows=8, windows_per_subject=10, spec=SPEC)


def test_only_stores_that_hold_them_go(store_url: str) -> None:
    ring, watch = store_below(store_url, "ring"), store_below(store_url, "watch")
    name = ring.meta("train", ["recording_id"])["recording_id"][0].as_py()
    theirs, namesake, nobody = ("ring", name), ("watch", name), ("ring", "nobody")
    assert list(stores_with(store_url, [nobody, namesake], until_s=LONG_AGO)) == []
    assert list(stores_with(store_url, [nobody, theirs], until_s=LONG_AGO)) == [ring.url]
    assert list(stores_with(watch.url, [theirs, namesake], until_s=LONG_AGO)) == []
    assert list(stores_with(ring.url, [theirs], until_s=LONG_AGO)) == [ring.url]
    remove_store(ring.url)
    assert uri.list_urls(ring.url, recursive=True) == []
    assert list(stores_with(store_url, [theirs], until_s=LONG_AGO)) == []
    assert WindowStore.open(watch.url).n_windows == 40


@pytest.mark.parametrize("objects", [1, 3])
def test_an_interrupted_removal_leaves_a_store_that_does_not_open_and_is_found(
    store_url: str, objects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = store_below(store_url, "ring")
    delete, left = uri.delete, [objects]

    def dies(url: str, recursive: bool = False) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        delete(url, recursive=recursive)

    monkeypatch.setattr(uri, "delete", dies)
    with pytest.raises(KeyboardInterrupt):
        remove_store(ring.url)
    monkeypatch.setattr(uri, "delete", delete)
    with pytest.raises(StorageError, match="no complete window store"):
        WindowStore.open(ring.url)
    assert list(stores_with(store_url, [("ring", "nobody")], until_s=time.time() + 1)) == [ring.url]
    remove_store(ring.url)
    assert uri.list_urls(ring.url, recursive=True) == []


def test_what_a_dead_job_left_goes_and_what_a_living_one_writes_does_not(store_url: str) -> None:
    ring, watch = store_below(store_url, "ring"), store_below(store_url, "watch")
    uri.delete(f"{ring.url}/index", recursive=True)
    for name in ("sources.parquet", "meta.parquet"):
        uri.delete(f"{ring.url}/parts/ring/train/p000000/{name}")
    assert list(stores_with(store_url, [("ring", "nobody")], until_s=LONG_AGO)) == []
    assert list(stores_with(store_url, [("ring", "nobody")], until_s=time.time() + 1)) == [ring.url]
    assert WindowStore.open(watch.url).n_windows == 40
