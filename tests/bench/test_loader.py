"""`bench/loader.py` at a small size: every loader that needs no environment of its own hands out its windows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.testing.window_store import write_window_store

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_loader_is_rated(tmp_path: Path) -> None:
    words = ["--windows", "2048", "--rounds", "1", "--without-peers", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "loader.py"), *words],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["not_run"]) <= {"HDF5", "WebDataset"}
    assert len(found["median"]) == 17 - len(found["not_run"])
    assert all(row["windows_per_s"] > 0 for row in found["median"].values())
    assert "in-memory gather: " in done.stdout and "(aim 0.8)" in done.stdout


def test_the_order_for_other_readers_is_the_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """zarr-python reads what our reader reads, window by window, in the same order."""
    for folder in (ROOT / "bench" / "peers", ROOT / "bench"):
        monkeypatch.syspath_prepend(str(folder))
    import loader
    import zarr_reads

    store = write_window_store(f"file://{tmp_path}/windows", {"a": [300, 200], "b": [268]})
    path = loader.written_order(tmp_path / "order.npz", store, None)
    plan = plan_for(store, OrderConfig(global_batch=loader.BATCH))
    with np.load(path) as order:
        read = list(
            zarr_reads.batches(
                store.url, order["paths"].tolist(), order["part"], order["row"], int(order["block"]), loader.BATCH
            )
        )
    assert len(read) == plan.epoch_windows // loader.BATCH
    for step, (ecg_BL, ppg_BL) in enumerate(read):
        expected = store.read(plan.ids(step))
        np.testing.assert_array_equal(ecg_BL, np.asarray(expected[0], np.float32))
        np.testing.assert_array_equal(ppg_BL, np.asarray(expected[1], np.float32))
