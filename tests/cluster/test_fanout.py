"""Work over a cluster: all of it is done, and tasks are made when they are needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from xmae_dist.cluster import fanout
from xmae_dist.core.errors import InputError


def _worker() -> Callable[[int], Iterator[tuple[int, str]]]:
    """Within a function, so that it travels by value: this module is not on the path of the cluster's processes."""

    def work(number: int) -> Iterator[tuple[int, str]]:
        if number < 0:
            raise InputError("task", value=number, expected="0 or more")
        yield number, "begun"
        yield number, "done"

    return work


work = _worker()


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
    program = (
        "import ray\n"
        "from xmae_dist.cluster import fanout\n"
        "work = lambda number: iter([(number, 'begun'), (number, 'done')])\n"
        "print(list(fanout.stream(work, iter(()))), list(fanout.stream(work, iter((7,)))), ray.is_initialized())\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=_alone())
    assert told.stdout.strip() == "[] [(7, 'begun'), (7, 'done')] False"


def _alone() -> dict[str, str]:
    """An environment that names no cluster."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def test_an_error_of_a_task_is_its_own(ray_local: None) -> None:
    with pytest.raises(InputError, match="task"):
        list(fanout.stream(work, (number if number != 40 else -1 for number in range(60))))
