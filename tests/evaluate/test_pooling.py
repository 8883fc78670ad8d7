"""What is embedded, in which blocks, and what is kept of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

from xmae_dist.core.errors import InputError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate import embedding
from xmae_dist.evaluate.chosen import ChosenWindows
from xmae_dist.evaluate.encoders.features import pulse_features
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.evaluate.members import Members
from xmae_dist.evaluate.pooling import Block, Pool, Wanted
from xmae_dist.evaluate.run import EvaluateConfig, _identity
from xmae_dist.testing.window_store import write_window_store


@st.composite
def members(draw: st.DrawFn) -> Members:
    ids_M = np.array(sorted(draw(st.sets(st.integers(0, 80), min_size=1))), np.int64)
    if draw(st.booleans()):
        return Members.one_each(ids_M)
    unit_M = np.array(draw(st.lists(st.integers(0, 5), min_size=len(ids_M), max_size=len(ids_M))))
    return Members.of(ids_M, np.unique(unit_M, return_inverse=True)[1])


@settings(max_examples=150, deadline=None)
@given(every=st.lists(members(), min_size=1, max_size=4), size=st.integers(1, 30))
def test_each_window_is_embedded_once_and_every_task_gets_its_means(every: list[Members], size: int) -> None:
    embedding_WE = np.random.default_rng(0).normal(size=(81, 3)).astype(np.float32)
    wanted = Wanted(every)
    blocks = list(wanted.blocks(size))
    ids = np.concatenate([block.ids_B for block in blocks])
    assert ids.tolist() == sorted({i for one in every for i in one.expanded()[0].tolist()})
    assert wanted.n_windows == len(ids) and all(len(block.ids_B) == size for block in blocks[:-1])
    pool = Pool(wanted, 3)
    for block in blocks:
        pool.add(block, block.pooled(embedding_WE[block.ids_B]))
    embedded = pool.embedded()
    for one in every:
        ids_M, unit_M = one.expanded()
        want = np.stack([embedding_WE[ids_M[unit_M == u]].astype(float).mean(axis=0) for u in range(unit_M.max() + 1)])
        np.testing.assert_allclose(embedded.features(one), want, rtol=1e-12, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(every=st.lists(members(), min_size=1, max_size=3), size=st.integers(1, 30))
def test_moments_are_those_of_the_windows_of_each_unit(every: list[Members], size: int) -> None:
    embedding_WE = np.random.default_rng(0).normal(2.0, 1.0, size=(81, 3)).astype(np.float32)
    wanted = Wanted(every, "moments")
    pool = Pool(wanted, 3)
    for block in wanted.blocks(size):
        pool.add(block, block.pooled(embedding_WE[block.ids_B]))
    embedded = pool.embedded()
    for one in every:
        ids_M, unit_M = one.expanded()
        x_ME = embedding_WE[ids_M].astype(float)
        if one.single:
            np.testing.assert_array_equal(embedded.features(one), x_ME)
            continue
        of_units = [x_ME[unit_M == u] for u in range(unit_M.max() + 1)]
        want = [np.r_[x.mean(axis=0), x.std(axis=0), x.min(axis=0), x.max(axis=0)] for x in of_units]
        np.testing.assert_allclose(embedded.features(one), want, rtol=1e-9, atol=1e-7)


def test_results_of_means_keep_their_requests() -> None:
    assert "pooling" not in _identity(EvaluateConfig(), "linear", limited=False)
    assert _identity(EvaluateConfig(pooling="moments"), "linear", limited=False)["pooling"] == "moments"
    assert "max_units" not in _identity(EvaluateConfig(), "linear", limited=False)
    assert _identity(EvaluateConfig(max_units=9), "linear", limited=True)["max_units"] == 9
    with pytest.raises(InputError, match=r"--pooling: got median; expected mean \| moments"):
        EvaluateConfig(pooling="median")


@settings(max_examples=60, deadline=None)
@given(one=members(), limit=st.integers(1, 5))
def test_thinned_windows_are_evenly_spaced_in_each_unit(one: Members, limit: int) -> None:
    ids_M, unit_M = one.expanded()
    few_ids, few_units = one.thinned(limit).expanded()
    for unit in np.unique(unit_M):
        own = ids_M[unit_M == unit]
        want = own[np.linspace(0, len(own) - 1, min(limit, len(own))).astype(int)]
        assert few_ids[few_units == unit].tolist() == want.tolist()


@settings(max_examples=150, deadline=None)
@given(one=members(), low=st.integers(0, 90), many=st.integers(1, 40))
def test_what_lies_between_ids(one: Members, low: int, many: int) -> None:
    ids_M, unit_M = one.expanded()
    inside_M = (ids_M >= low) & (ids_M < low + many)
    found = one.between(low, low + many)
    assert [values.tolist() for values in found.expanded()] == [ids_M[inside_M].tolist(), unit_M[inside_M].tolist()]
    assert (found.length_R > 0).all()


def test_what_lies_between_ids_is_found_without_going_through_all_runs() -> None:
    """It is asked of each block: a pass over the runs made an evaluation quadratic in its windows."""
    runs = np.arange(1_000_000, dtype=np.int64)
    one = Members(first_R=3 * runs, length_R=np.full(len(runs), 2, np.int32), unit_R=np.zeros(len(runs), np.int32))
    tracemalloc.start()
    try:
        assert one.between(1_500_001, 1_500_011).n_windows == 7
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_windows_of_a_recording_are_evenly_spaced_over_all_parts_that_hold_some(tmp_path: Path) -> None:
    spec = WindowSpec(window_s=1.0, stride_s=1.0, rate_hz=25.0)
    store = write_window_store(f"file://{tmp_path}/s", {"a": [40, 33], "b": [10]}, windows_per_subject=20, spec=spec)
    everything = ChosenWindows(store=store, splits=("train",))
    assert [len(table) for table in everything] == [40, 33, 10]
    few = ChosenWindows(store=store, splits=("train",), cohorts=("a",), max_windows_per_recording=3)
    tables = list(few)
    found = [i for table in tables for i in table["window_id"].to_pylist()]
    assert found == [0, 9, 19, 20, 29, 39, 40, 49, 59, 60, 66, 72]
    assert len(few.subjects()) == 4 and len(everything.subjects()) == 5


def test_no_more_blocks_are_under_way_than_keep_the_cluster_busy(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_window_store(f"file://{tmp_path}/s", {"a": [90]})
    monkeypatch.setattr(embedding, "BLOCK_WINDOWS", 5)
    monkeypatch.setattr(embedding, "cores", lambda: 2)
    spec = EncoderSpec(name="features", kind="features", identity="f")
    members = [Members.one_each(np.arange(0, 90, 2)), Members.of(np.arange(90), np.repeat([0, 1, 2], 30))]
    wanted = Wanted(members)
    given_out: list[int] = []
    blocks = Wanted.blocks

    def counted(self: Wanted, size: int) -> Iterator[Block]:
        for block in blocks(self, size):
            given_out.append(int(block.ids_B[0]))
            yield block

    put: list[int] = []
    put_whole = ray.put

    def counted_put(value: object) -> object:
        put.append(1)
        return put_whole(value)

    monkeypatch.setattr(Wanted, "blocks", counted)
    monkeypatch.setattr(ray, "put", counted_put)
    done = 0
    for block, _ in embedding._embedded_blocks(spec, wanted, store, f"file://{tmp_path}/out", None):
        done += 1
        assert len(given_out) - done <= 2 * 2, "two blocks a core"
        assert block.ids_B[0] == given_out[done - 1], "in their order"
    assert done == len(given_out) == 18 and len(put) == 1, "what blocks share is put once"
    monkeypatch.undo()
    embedded = embedding.embed(spec, members, store, f"file://{tmp_path}/out")
    want = pulse_features(store.read(np.arange(90))[1].astype(np.float32), store.spec.rate_hz)
    np.testing.assert_array_equal(embedded.features(members[0]), want[::2].astype(float))
    np.testing.assert_allclose(embedded.features(members[1])[1], want[30:60].astype(float).mean(axis=0), rtol=1e-12)
