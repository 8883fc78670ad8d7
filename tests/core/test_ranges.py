"""Every number that a command or a recipe takes has its range; what is out of it is told before anything happens."""

from __future__ import annotations

import dataclasses
import importlib
import math
import typing
from collections.abc import Iterator
from typing import Any

import pytest

from xmae_dist.cli.main import COMMANDS, main
from xmae_dist.core.errors import ConfigError
from xmae_dist.core.ranges import check_numbers
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.recipes import RECIPES, recipe


def _alternatives(hint: Any) -> Iterator[Any]:
    yield hint
    for inner in typing.get_args(hint):
        yield from _alternatives(inner)


def _numbers(kind: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type]]:
    for field in dataclasses.fields(kind):
        for hint in _alternatives(typing.get_type_hints(kind)[field.name]):
            if dataclasses.is_dataclass(hint):
                yield from _numbers(hint, (*path, field.name))
            elif hint in (int, float):
                yield (*path, field.name), hint


def _nested(path: tuple[str, ...], number: float) -> Any:
    """A dataclass with this number at this path, and nothing else."""
    value: Any = number
    for name in reversed(path):
        value = dataclasses.make_dataclass("Settings", [name])(value)
    return value


_OPTIONS = sorted(
    {
        (command, *found)
        for command in COMMANDS
        for found in _numbers(importlib.import_module(f"xmae_dist.cli.{command.replace('-', '_')}").Args)
    },
    key=str,
)


@pytest.mark.parametrize(("command", "path", "kind"), _OPTIONS, ids=lambda part: str(part))
def test_an_option_out_of_its_range_is_refused(command: str, path: tuple[str, ...], kind: type) -> None:
    bad = [-(2**40), 2**63] if kind is int else [math.inf, -math.inf, math.nan]
    for number in bad if path[-1] != "lag_window_s" else bad[1:]:
        with pytest.raises(ConfigError, match=r"--option: got .*; expected "):
            check_numbers(_nested(path, number), lambda _: "--option")


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_within_their_ranges(name: str) -> None:
    check_numbers(recipe(name), "--".join)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["windows", "--window-s", "inf"], "windows.window_s: got inf; expected a finite number"),
        (["windows", "--window-s", "nan"], "windows.window_s: got nan; expected a finite number"),
        (["windows", "--tasks", "0"], "--tasks: got 0; expected a number above 0"),
        (["windows", "--chunk-windows", "0"], "--chunk-windows: got 0; expected a number above 0"),
        (["windows", "--snapshot", "-1"], "--snapshot: got -1; expected 0 or more"),
        (["windows", "--max-gap-fraction", "1.5"], "windows.max_gap_fraction: got 1.5; expected 0 to 1"),
        (["windows", "--fractions", "nan", "0.5", "0.5"], "split.fractions: got nan; expected a finite number"),
        (["simulate", "bedside", "--minutes", "inf"], "--minutes: got inf; expected a finite number"),
        (["pretrain", "debug_cpu2", "--run", "r", "--train.steps", "0"], "--train.steps: got 0; expected a number"),
        (["pretrain", "debug_cpu2", "--run", "r", "--optimizer.eps", "nan"], "--optimizer.eps: got nan; expected"),
    ],
)
def test_it_is_one_line_and_status_2(
    argv: list[str], said: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--corpus", str(tmp_path / "none"), *(["--out", str(tmp_path)] if argv[0] == "windows" else [])]
    assert main([*argv, *place]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"xmae {argv[0]}: error: {said}") and told.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_specification_made_in_code_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"windows.rate_hz: got 0; expected a number above 0"):
        WindowSpec(rate_hz=0)
