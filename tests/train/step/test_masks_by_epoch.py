"""Masks of a step that ends one epoch and begins the next: each window's mask is that of its own epoch."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.data.stream import direct
from xmae_dist.data.stream.collate import collate
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.testing.window_store import write_window_store
from xmae_dist.train.step.batch import Masking

SPEC = WindowSpec(window_s=2.0, stride_s=2.0)


def test_no_window_is_masked_the_same_in_two_epochs(tmp_path: Path) -> None:
    store = write_window_store(
        f"file://{tmp_path}/windows", {"patch": [70]}, chunk_windows=16, shard_windows=64, spec=SPEC
    )
    plan = plan_for(store, OrderConfig(seed=5, global_batch=24))
    masking = Masking(seed=3, n_patches=4096, mode="scatter")  # so many that no two are equal by chance
    masks_of: dict[int, list[bytes]] = defaultdict(list)
    mixed = 0
    for batch in direct.step_batches(store, plan, stop_step=4 * plan.epoch_windows // 24):
        mask_BN = masking.draw(collate(batch, pin=False), 0.5).numpy()
        mixed += len(set(batch.epoch_B.tolist())) > 1
        for window_id, mask_N in zip(batch.ids_B.tolist(), mask_BN, strict=True):
            masks_of[window_id].append(mask_N.tobytes())
    assert mixed >= 3 and len(masks_of) == plan.epoch_windows
    seen = np.array([len(found) for found in masks_of.values()])
    assert seen.min() >= 3 and all(len(set(found)) == len(found) for found in masks_of.values())
