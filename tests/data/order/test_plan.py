"""The plan: one order for every number of ranks, nothing lost or seen twice, O(1) at any scale."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmae_dist.core.errors import ConfigError
from xmae_dist.data.order.mixture import MixtureConfig
from xmae_dist.data.order.plan import OrderConfig, Plan, plan_of
from xmae_dist.data.store.window_store import Segment

WORLDS = (1, 2, 3, 4, 6, 8, 12)


def segments_of(sizes: dict[str, list[int]], gap: int = 0) -> list[Segment]:
    segments, first_id = [], 0
    for cohort, parts in sizes.items():
        for number, n in enumerate(parts):
            segments.append(Segment(cohort=cohort, part=f"p{number}", first_id=first_id, n=n))
            first_id += n + gap
    return segments


def all_ids(segments: list[Segment]) -> np.ndarray:
    return np.concatenate([np.arange(s.first_id, s.first_id + s.n) for s in segments])


THREE = segments_of({"patch": [500, 333], "watch": [64, 1, 77], "ring": [259]})


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[Segment], Plan]:
    parts = st.lists(st.integers(1, 60), min_size=1, max_size=3)
    sizes = draw(st.dictionaries(st.sampled_from("abcde"), parts, min_size=1, max_size=4))
    segments = segments_of(sizes, gap=draw(st.integers(0, 5)))
    config = OrderConfig(
        seed=draw(st.integers(0, 2**32)),
        global_batch=draw(st.integers(1, 50)),
        block_steps=draw(st.integers(1, 20)),
    )
    return segments, plan_of(segments, draw(st.integers(1, 16)), config)


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(0, 3))
def test_every_epoch_holds_every_window_once(case: tuple[list[Segment], Plan], epoch: int) -> None:
    segments, plan = case
    n = plan.epoch_windows
    ids_B = plan.ids_at(np.arange(epoch * n, (epoch + 1) * n))
    assert np.array_equal(np.sort(ids_B), all_ids(segments))


@settings(max_examples=40, deadline=None)
@given(plans(), st.integers(0, 3))
def test_positions_of_inverts_the_order(case: tuple[list[Segment], Plan], epoch: int) -> None:
    segments, plan = case
    n = plan.epoch_windows
    expected_B = plan.ids_at(np.arange(epoch * n, (epoch + 1) * n))
    wanted_B = all_ids(segments)[::3]
    positions_B, ids_B = plan.positions_of(wanted_B, epoch)
    assert np.array_equal(np.sort(ids_B), wanted_B)
    assert np.array_equal(expected_B[positions_B - epoch * n], ids_B)


@settings(max_examples=40, deadline=None)
@given(plans(), st.integers(0, 40), st.integers(1, 12))
def test_ranks_share_each_step_whatever_their_number(case: tuple[list[Segment], Plan], step: int, world: int) -> None:
    _, plan = case
    world = min(world, plan.global_batch)
    shares = [plan.ids(step, world, rank) for rank in range(world)]
    assert np.concatenate(shares).tobytes() == plan.ids(step).tobytes()


@pytest.mark.parametrize("repeats", [{}, {"watch": 2.5, "ring": 0.5}])
def test_world_size_may_change_at_every_step_past_the_first_epoch(repeats: dict[str, float]) -> None:
    plan = plan_of(THREE, 16, OrderConfig(seed=3, global_batch=48, mixture=MixtureConfig(repeats=repeats)))
    steps = 3 * plan.steps_per_epoch
    whole = plan.ids_of_steps(0, steps)
    resized = np.stack(
        [
            np.concatenate([plan.ids(k, world, rank) for rank in range(world)])
            for k in range(steps)
            for world in [WORLDS[k % len(WORLDS)]]
        ]
    )
    assert resized.tobytes() == whole.tobytes()
    for world in WORLDS:
        together = np.concatenate([plan.ids_of_steps(0, steps, world, r) for r in range(world)], axis=1)
        assert together.tobytes() == whole.tobytes()
    if not repeats:
        first_two = whole.ravel()[: 2 * plan.epoch_windows]
        assert (np.bincount(first_two) == 2).all()


def test_repeats_go_through_a_cohort_evenly_and_reshuffle_it() -> None:
    plan = plan_of(THREE, 16, OrderConfig(global_batch=48, mixture=MixtureConfig(repeats={"watch": 2.5})))
    watch = all_ids([s for s in THREE if s.cohort == "watch"])
    n = plan.epoch_windows
    seen = [plan.ids_at(np.arange(e * n, (e + 1) * n)) for e in range(4)]
    counts = np.bincount(np.concatenate(seen), minlength=watch.max() + 1)[watch]
    assert (counts == 10).all()
    orders = [ids[np.isin(ids, watch)][:100].tolist() for ids in seen]
    assert len({tuple(order) for order in orders}) == 4
    positions, ids = plan.positions_of(watch, 1)
    assert np.array_equal(seen[1][positions - n], ids) and ids.size == np.isin(seen[1], watch).sum()


def test_every_batch_holds_the_mixture() -> None:
    segments = segments_of({"a": [40_000], "b": [15_000], "c": [9_000]})
    plan = plan_of(segments, 64, OrderConfig(global_batch=256))
    cohort = np.searchsorted([40_000, 55_000], plan.ids_of_steps(0, 64), side="right")
    counts = np.stack([(cohort == c).sum(axis=1) for c in range(3)], axis=1)
    assert np.abs(counts - 256 * np.array([40, 15, 9]) / 64).max() <= 3


@pytest.mark.parametrize("batch", [48, 256])
def test_a_batch_is_as_diverse_as_a_perfect_shuffle(batch: int) -> None:
    per_subject, subjects = 180, 600
    sizes = {"a": [per_subject * 300], "b": [per_subject * 200 + 7], "c": [per_subject * 100 - 7]}
    plan = plan_of(segments_of(sizes), 64, OrderConfig(global_batch=batch))
    ids = plan.ids_of_steps(64, 128)
    ours = np.mean([np.unique(row // per_subject).size for row in ids])
    perfect = subjects * (1 - (1 - 1 / subjects) ** batch)
    assert ours > 0.99 * perfect
    # And the windows of a chunk come in no order of time.
    chunk = ids[ids // 64 == np.bincount(ids.ravel() // 64).argmax()]
    assert chunk.size > 32 and abs(np.corrcoef(np.arange(chunk.size), chunk)[0, 1]) < 0.5


def test_a_rank_reads_whole_chunks_once() -> None:
    plan = plan_of(segments_of({"a": [51_200], "b": [30_720]}), 64, OrderConfig(global_batch=256))
    for world in (1, 4, 8):
        chunks = [np.unique(plan.ids_of_steps(64, 128, world, r) // 64).size for r in range(world)]
        assert sum(chunks) * 64 / (64 * 256) <= 1 + (world + 2) * 64 / (64 * 256)


def test_longer_reads_keep_the_order_exact_and_are_contiguous() -> None:
    segments = segments_of({"a": [5000], "b": [3000, 100]})
    plan = plan_of(segments, 16, OrderConfig(global_batch=32, read_windows=64, block_steps=16))
    n = plan.epoch_windows
    assert np.array_equal(np.sort(plan.ids_at(np.arange(n, 2 * n))), all_ids(segments))
    chunks = np.unique(plan.ids_of_steps(0, 16) // 16)
    requests = 1 + np.count_nonzero(np.diff(chunks) > 1)
    assert requests <= 512 // 64 + 4


def test_seeds_and_every_other_part_of_the_order_change_the_fingerprint() -> None:
    base = {"seed": 0, "global_batch": 48}
    prints = {
        plan_of(THREE, 16, OrderConfig(**{**base, **change})).fingerprint()  # type: ignore[arg-type]
        for change in (
            {},
            {"seed": 1},
            {"global_batch": 96},
            {"block_steps": 8},
            {"mixture": MixtureConfig(temperature=2)},
        )
    }
    prints.add(plan_of(THREE[:-1], 16, OrderConfig(**base)).fingerprint())  # type: ignore[arg-type]
    assert len(prints) == 6
    assert plan_of(THREE, 16, OrderConfig(**base)).fingerprint() in prints  # type: ignore[arg-type]


def test_the_order_is_the_one_it_was() -> None:
    # A change here changes what every interrupted run would see next: give the order a new version instead.
    plan = plan_of(THREE, 16, OrderConfig(seed=3, global_batch=12))
    assert plan.ids(0).tolist() == GOLDEN_FIRST
    assert plan.ids(1000).tolist() == GOLDEN_LATER


GOLDEN_FIRST = [1213, 1138, 883, 408, 587, 515, 610, 125, 103, 390, 320, 204]
GOLDEN_LATER = [271, 385, 1088, 1191, 1112, 872, 294, 29, 633, 358, 122, 410]


def test_a_billion_windows_start_anywhere_at_once() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.multinomial(10**9, rng.dirichlet(np.ones(10_000))) + 1
    segments = segments_of({f"c{c:03d}": sizes[c * 100 : (c + 1) * 100].tolist() for c in range(100)})
    started = time.perf_counter()
    plan = plan_of(segments, 64, OrderConfig(global_batch=4096))
    ids = plan.ids(1_000_000, 1000, 999)
    assert time.perf_counter() - started < 10  # 0.2 s on an idle core; bench/plan.py reports it
    assert ids.size and (ids < 10**9 + 10_000).all()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: plan_of([], 64, OrderConfig()), "split"),
        (lambda: plan_of(THREE, 64, OrderConfig(global_batch=0)), "global_batch"),
        (lambda: plan_of(THREE, 64, OrderConfig(read_windows=100)), "read_windows"),
        (lambda: plan_of(THREE, 64, OrderConfig(global_batch=4)).ids(0, 5, 0), "world"),
        (lambda: plan_of(THREE, 64, OrderConfig(global_batch=4)).ids(0, 2, 2), "rank"),
        (lambda: plan_of(THREE, 64, OrderConfig(global_batch=4)).ids(-1), "step"),
    ],
)
def test_impossible_requests_are_refused_by_name(call: object, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    "mixture", [{"repeats": {"a": 2.5}}, {"epoch_windows": 140}, {"weights": {"a": 1.0, "b": 1.0}}]
)
def test_repeats_number_the_times_a_window_comes_in_one_epoch(mixture: dict[str, Any]) -> None:
    segments = [Segment(cohort="a", part="p0", first_id=0, n=50), Segment(cohort="b", part="p0", first_id=50, n=130)]
    plan = plan_of(segments, 8, OrderConfig(seed=3, global_batch=10, mixture=MixtureConfig(**mixture)))
    for epoch in range(4):
        position_B = np.arange(epoch * plan.epoch_windows, (epoch + 1) * plan.epoch_windows)
        ids_B, repeat_B = plan.ids_at(position_B), plan.repeats_at(position_B)
        for window in np.unique(ids_B):
            assert sorted(repeat_B[ids_B == window]) == list(range(int((ids_B == window).sum())))
    shown = [plan.repeats_of_steps(4, 9, 3, rank) for rank in range(3)]
    assert np.array_equal(np.concatenate(shown, axis=1), plan.repeats_of_steps(4, 9))


def test_nothing_repeats_where_an_epoch_is_every_window_once() -> None:
    segments = [Segment(cohort="a", part="p0", first_id=0, n=50), Segment(cohort="b", part="p0", first_id=50, n=130)]
    plan = plan_of(segments, 8, OrderConfig(seed=3, global_batch=10))
    assert not plan.repeats_of_steps(0, 100).any()
