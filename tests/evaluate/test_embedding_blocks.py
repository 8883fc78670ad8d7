"""Which encoders are fitted together: as many as there is room for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from xmae_dist.evaluate import fanout
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.evaluate.pooling import Embedded, embedded_here
from xmae_dist.evaluate.run import EvaluateConfig, plan
from xmae_dist.evaluate.tasks import Suite, Task

N_PEOPLE, N_WINDOWS = 12, 3


def test_features_of_no_more_encoders_are_held_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    people = np.repeat(np.arange(N_PEOPLE), N_WINDOWS)
    names = np.char.mod("p%02d", people)
    ids = np.arange(len(people))
    table = pa.table(
        {"window_id": ids, "subject_id": names, "recording_id": names, "cohort": ["a"] * len(ids),
         "start_s": ids * 10.0, "value": people + 0.1 * ids}
    )  # fmt: skip
    task = Task(name="t", title="", label="value", kind="regression")
    specs = tuple(EncoderSpec(name=f"e{i}", kind="features", identity=f"e{i}") for i in range(5))
    config = EvaluateConfig(protocols=("linear", "knn"))
    planned = plan(Suite(name="s", title="", tasks=(task,)), specs, [table], "store", config)
    embedded: list[str] = []

    def embed(spec: EncoderSpec, members: Any, *_: Any, **__: Any) -> Embedded:
        embedded.append(spec.name)
        return embedded_here(members, ids, np.zeros((len(ids), 10), np.float32))

    size = len(ids) * 10 * 4
    monkeypatch.setattr(fanout, "embed", embed)
    monkeypatch.setattr(fanout, "HELD_BYTES", 2 * size)
    monkeypatch.setattr(ray, "put", lambda value: value)
    groups = []
    for requests, features in fanout._in_turn(list(planned.requests), planned, None, "", None):  # type: ignore[arg-type]
        groups.append((sorted({r.encoder.name for r in requests}), sorted(features), len(requests)))
        assert sum(one.n_bytes for one in features.values()) <= 2 * size
        assert len(embedded) == sum(len(names) for names, _, _ in groups), "the next wait until these are fitted"
    assert groups == [(["e0", "e1"], ["e0", "e1"], 4), (["e2", "e3"], ["e2", "e3"], 4), (["e4"], ["e4"], 2)]
