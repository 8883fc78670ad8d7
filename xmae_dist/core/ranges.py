"""The range of every number that a person can set, looked up by its name, checked in one place.

A number is finite and 0 or more unless a table below says otherwise. So an option that is added is checked from the
first day, and only what is unusual has to be declared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from xmae_dist.core.errors import ConfigError

# Zero of these would be nothing to do, or nothing to do it with.
_ABOVE_ZERO = frozenset(
    {
        "block_steps",
        "chunk_windows",
        "collective_timeout_s",
        "epoch_windows",
        "global_batch",
        "heads",
        "hours",
        "keep_recent",
        "max_actors",
        "max_offset_s",
        "micro_batch",
        "min_workers",
        "minutes",
        "part_mib",
        "peak_lr",
        "peak_tflops",
        "poll_s",
        "rate_hz",
        "read_windows",
        "recordings",
        "replicates",
        "resize_check_s",
        "shard_windows",
        "silence_s",
        "steps",
        "stride_s",
        "subjects",
        "tasks",
        "temperature",
        "threads",
        "width",
        "window_s",
        "worker_cpus",
        "workers",
        "world",
    }
)
# -1 is "no limit" of these.
_OR_UNLIMITED = frozenset({"max_failures", "max_controller_failures"})
_ANY_SIGN = frozenset({"lag_window_s"})
_SHARES = ("_fraction", "_ratio", "_ratio_start", "_ratio_end", "fractions", "dropout", "beta1", "beta2", "min_quality")
# What the libraries below take as 64-bit integers.
_MOST = 2**63 - 1


def check_numbers(settings: Any, named: Callable[[tuple[str, ...]], str]) -> None:
    """Raises ConfigError for the first number in a dataclass, or in one inside it, that is out of its range.

    `named` makes of the fields that lead to a number the name by which a person knows it.
    """
    for path, number in _numbers(settings, ()):
        expected = _missed(path[-1], number)
        if expected:
            raise ConfigError(named(path), value=number, expected=expected)


def _numbers(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    """(fields that lead there, number) of every number in dataclasses, tuples and mappings."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _numbers(getattr(value, field.name), (*path, field.name))
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _numbers(one, path)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _numbers(one, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def _missed(name: str, number: float) -> str:
    """What was expected of a number of this name, "" where it is as expected."""
    if not math.isfinite(number):
        return "a finite number"
    if abs(number) > _MOST:
        return "a number of 64 bits"
    if name in _ANY_SIGN:
        return ""
    if name in _OR_UNLIMITED:
        return "" if number >= -1 else "0 or more, or -1 for no limit"
    if name.endswith(_SHARES):
        return "" if 0 <= number <= 1 else "0 to 1"
    if name in _ABOVE_ZERO:
        return "" if number > 0 else "a number above 0"
    return "" if number >= 0 else "0 or more"
