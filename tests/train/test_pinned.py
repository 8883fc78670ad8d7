"""A run keeps the snapshot of its checkpoints; a start that trained nothing binds it to none."""

from __future__ import annotations

import json
from pathlib import Path

from xmae_dist.storage import uri
from xmae_dist.testing.small_training import build, train
from xmae_dist.train.checkpoints.retention import RetentionConfig
from xmae_dist.train.checkpoints.upload import Saver
from xmae_dist.train.config import PretrainConfig
from xmae_dist.train.launch import _pinned
from xmae_dist.train.step.collective import Ranks


def test_the_snapshot_is_that_of_the_checkpoints(tmp_path: Path) -> None:
    config = PretrainConfig(corpus="file:///corpus", run=f"file://{tmp_path}/run")
    uri.write_bytes(f"{config.run}/run.json", json.dumps({"snapshot": {"version": 3}}).encode())
    assert _pinned(config).snapshot is None, "it died before its first checkpoint"
    engine = build("torch", 0, 1)
    saver = Saver(config.run, Ranks(), RetentionConfig(), lambda *_, **__: None, "attempt")
    train(engine, 0, 1, 0, 1)
    saver.start(engine, 1, {"state": {"step": 1}})
    assert saver.finish() is None
    assert _pinned(config).snapshot == 3
