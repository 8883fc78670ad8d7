"""What may be deleted, decided without touching anything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xmae_dist.train.checkpoints.checkpoint import Found
from xmae_dist.train.checkpoints.retention import RetentionConfig, to_delete


def found(*steps: int, incomplete: tuple[int, ...] = ()) -> list[Found]:
    return [Found(step, f"step-{step}", step not in incomplete) for step in sorted({*steps, *incomplete})]


def steps(deleted: list[Found]) -> list[int]:
    return [one.step for one in deleted]


def test_recent_and_periodic_ones_stay() -> None:
    config = RetentionConfig(keep_recent=2, keep_every=300)
    assert steps(to_delete(found(100, 200, 300, 400, 500), config, committed=500)) == [100, 200]


def test_leftovers_of_killed_runs_go_and_saves_in_the_making_stay() -> None:
    assert steps(to_delete(found(100, 300, incomplete=(200, 400)), RetentionConfig(), committed=300)) == [200]


def test_the_best_stays() -> None:
    kept = to_delete(found(100, 200, 300), RetentionConfig(keep_recent=1), committed=300, also_kept={100})
    assert steps(kept) == [200]


@given(
    complete=st.sets(st.integers(1, 30)),
    incomplete=st.sets(st.integers(1, 30)),
    keep=st.integers(1, 4),
    committed=st.integers(1, 30),
)
def test_the_newest_complete_one_is_never_deleted(
    complete: set[int], incomplete: set[int], keep: int, committed: int
) -> None:
    complete -= incomplete
    everything = found(*complete, incomplete=tuple(incomplete))
    deleted = steps(to_delete(everything, RetentionConfig(keep_recent=keep), committed=committed))
    assert all(step < committed for step in deleted)
    older = sorted(step for step in complete if step <= committed)
    assert not set(older[-keep:]) & set(deleted)
    if complete:
        assert complete - set(deleted)
