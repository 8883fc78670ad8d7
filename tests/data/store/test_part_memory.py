"""While a part is written, the signals of a few windows are in memory, not of all that it will hold."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import pytest

from tests.data.corpora import corpus_of
from xmae_dist.data.store import materialise, planning
from xmae_dist.data.store.materialise import StoreConfig
from xmae_dist.data.store.part import PartPlan, write_part
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SplitConfig

CONFIG = StoreConfig(spec=WindowSpec(stride_s=0.5), split=SplitConfig(fractions=(1.0, 0.0, 0.0)), chunk_windows=8)
WINDOW_BYTES = 2 * 1000 * 4  # ECG and PPG as they are cut


def _one_part(folder: Path, recordings: int) -> PartPlan:
    corpus = corpus_of(f"{folder}/c{recordings}", subjects=recordings, recordings=1)
    with tempfile.TemporaryDirectory() as scratch:
        making = materialise.Making(corpus, corpus.snapshot(), CONFIG, "", scratch)
        (plan,) = making.plans(f"{folder}/w{recordings}")
    return plan


def _peak_bytes(plan: PartPlan) -> tuple[int, int]:
    """The most that was held while a part was written, and its windows."""
    tracemalloc.start()
    try:
        n_windows = write_part(plan)["n_windows"]
        return tracemalloc.get_traced_memory()[1], n_windows
    finally:
        tracemalloc.stop()


def test_memory_of_a_part_does_not_follow_its_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_MIN_PART_WINDOWS", planning.MAX_PART_WINDOWS)
    write_part(_one_part(tmp_path, 1))  # modules and caches of the first time
    few_bytes, few = _peak_bytes(_one_part(tmp_path, 8))
    more_bytes, more = _peak_bytes(_one_part(tmp_path, 32))
    assert more > few + 2_000
    assert more_bytes - few_bytes < 0.25 * (more - few) * WINDOW_BYTES
