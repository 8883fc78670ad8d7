"""Stores and corpora of the format before sums: found, read, cut, and made again window for window."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.store.test_window_store import plain_store
from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.data.store import planning
from xmae_dist.data.store.materialise import StoreConfig, materialise
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.cut_reader import Origin
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.storage.corpus import Corpus

STORED, CUT = "33fdd78a20533985", "9958c23eaf3428c5"
CONFIG = StoreConfig(
    spec=WindowSpec(rate_hz=50.0, stride_s=5.0),
    split=SplitConfig(fractions=(0.5, 0.25, 0.25), seed=4),
    chunk_windows=16,
)
LAZY = StoreConfig(spec=CONFIG.spec, split=CONFIG.split, chunk_windows=16, on_the_fly=True)


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).parent / "frozen_v1/v1.tar.xz") as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


def everything(store: WindowStore) -> list[object]:
    """Ids, parts, windows and what is known of them."""
    segments = [(split, one) for split in ("train", "val", "test") for one in store.segments(split)]
    signals = [None if one is None else one.tobytes() for one in store.read(np.arange(store.n_windows))]
    meta = [store.meta(split).to_pylist() for split in ("train", "val", "test")]
    return [segments, signals, meta, store.dropped(), store.part_rows()]


def old(frozen: Path, name: str) -> WindowStore:
    version = Corpus.open(str(frozen / "corpus")).snapshot().version
    return WindowStore.open(str(frozen / "windows" / name), origin=Origin(f"file://{frozen}/corpus", version))


def test_both_are_found_where_they_are_and_give_the_same_windows(frozen: Path) -> None:
    for config, name in ((CONFIG, STORED), (LAZY, CUT)):
        found = materialise(str(frozen / "corpus"), str(frozen / "windows"), config)
        assert found.url.endswith(name)
        assert found.snapshot["fingerprint"] == "022c64d07459e6f8", "what checkpoints of then know the snapshot by"
        assert plan_for(found, OrderConfig(seed=3, global_batch=8)).fingerprint() == "dfddf89b3723b0cc"
    assert everything(old(frozen, CUT)) == everything(old(frozen, STORED))


def test_made_again_they_hold_the_same_windows_under_the_same_ids(
    frozen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_MIN_PART_WINDOWS", 30)
    before = everything(old(frozen, STORED))
    corpus = Corpus.open(str(frozen / "corpus"))
    for config in (CONFIG, LAZY):
        anew = plain_store(corpus, f"{frozen}/anew", config)
        assert everything(anew) == before
    anew_folder = Path(plain_store(corpus, f"{frozen}/other", CONFIG).url.removeprefix("file://"))
    shards = list((frozen / "windows" / STORED).glob("parts/*/*/*/*/c/0/0/0"))
    assert len(shards) == 12
    for shard in shards:
        assert (anew_folder / shard.relative_to(frozen / "windows" / STORED)).read_bytes() == shard.read_bytes()


def test_a_subject_is_found_though_the_index_does_not_tell_parts(frozen: Path) -> None:
    store = old(frozen, STORED)
    for subject in ("band-s0", "band-s2", "band-s3", "watch-s1"):
        split = store.split_config.of(subject)  # type: ignore[union-attr]
        meta = store.meta(split, ["subject_id", "window_id"]).to_pylist()
        found = store.windows_of(subject)
        assert found is not None and found[0] == split
        assert found[1].tolist() == [row["window_id"] for row in meta if row["subject_id"] == subject]
    assert store.windows_of("nobody") is None
