"""Operations to measure, by name. Each runs in a process of its own on a corpus that is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Run = Callable[[str], object]
"""Given the URL of the corpus. What it returns is printed; what it writes, it takes back."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One row of the table."""

    name: str
    run: Run
    aim: str
    """At 5 M recordings in 100 cohorts, two channels each."""


OPERATIONS: dict[str, Operation] = {}


def operation(name: str, aim: str = "") -> Callable[[Run], Run]:
    """Puts a function into the register."""

    def register(run: Run) -> Run:
        OPERATIONS[name] = Operation(name=name, run=run, aim=aim)
        return run

    return register
