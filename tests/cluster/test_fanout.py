"""Work over a cluster: all of it is done, and tasks are made when they are needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from xmae_dist.cluster import fanout
from xmae_dist.core.errors import InputError


def work(number: int) -> Iterator[tuple[int, str]]:
    if number < 0:
        raise InputError("task", value=number, expected="0 or more")
    yield number, "begun"
    yield number, "done"


def test_tasks_are_drawn_as_others_end(ray_local: None) -> None:
    drawn: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(120):
            drawn.append(number)
            yield number

    most = max(fanout._FEWEST_AT_ONCE, fanout._TASKS_A_CORE * fanout.cores())
    events: list[tuple[int, str]] = []
    ahead = 0
    for event in fanout.stream(work, tasks()):
        events.append(event)
        ahead = max(ahead, len(drawn) - sum(what == "done" for _, what in events))
    # A task that has told all counts until its end is seen.
    assert ahead <= 2 * most < 120
    assert sorted(events) == sorted((number, what) for number in range(120) for what in ("begun", "done"))


def test_no_task_and_one_task_need_no_cluster() -> None:
    import ray

    if ray.is_initialized():
        pytest.skip("a cluster is attached already")
    assert list(fanout.stream(work, iter(()))) == []
    assert list(fanout.stream(work, iter((7,)))) == [(7, "begun"), (7, "done")]
    assert not ray.is_initialized()


def test_an_error_of_a_task_is_its_own(ray_local: None) -> None:
    with pytest.raises(InputError, match="task"):
        list(fanout.stream(work, (number if number != 40 else -1 for number in range(60))))
