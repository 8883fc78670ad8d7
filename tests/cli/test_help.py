"""Help at the widths of terminals: no line is too long, none ends before it is full, and no option is unexplained."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Iterator

import pytest

from xmae_dist.cli.main import COMMANDS, main
from xmae_dist.recipes import RECIPES

# `--seed INT`, `-h, --help`, `--json, --no-json`, `(default: 0)`: what there is without an explanation.
_NAME_OR_DEFAULT = re.compile(r"^-.*?(?=  |\n|$)|\((?:default|required)[^)]*\)")
CALLS = [*([name] for name in COMMANDS), *(["pretrain", recipe] for recipe in RECIPES)]


def _help(call: list[str], columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*call, "--help"])
    return said.getvalue().rstrip("\n").split("\n")


def _inside(lines: list[str]) -> list[str]:
    """The lines of the boxes, without the boxes; a rule and the end of a box as an empty line."""
    boxed = (line[2:-2].rstrip() for line in lines if line[0:1] in ("│", "╰"))
    return [re.sub(r"^─+$", "", line) for line in boxed]


def _broken_early(lines: list[str], room: int) -> Iterator[tuple[str, str]]:
    """Neighbouring lines of a text of which the second's first word has room on the first."""
    for before, after in itertools.pairwise(lines):
        indent = len(after) - len(after.lstrip())
        is_text = bool(before.strip() and after.strip()) and before[:indent].strip() != before.strip()
        beside_option = not before.startswith(" ") and indent > 0
        if not is_text or (indent == 0 and after.startswith("-")):
            continue
        if beside_option and before[indent - 2 : indent] != "  ":
            continue  # the text of an option begins below it
        if len(before) + 1 + len(after.split()[0]) <= room:
            yield before, after


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_help_fills_the_terminal(call: list[str], columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _help(call, columns, monkeypatch)
    assert max(map(len, lines)) <= columns
    boxed = _inside(lines)
    assert boxed or call == ["pretrain"]
    assert not list(_broken_early(boxed, columns - 4))
    if boxed:
        above = lines[: next(n for n, line in enumerate(lines) if line.startswith("╭"))]
        assert not list(_broken_early(above, columns))


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_option_is_explained(call: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(_inside(_help(call, 120, monkeypatch)))
    options = re.findall(r"^-.*(?:\n +.*)*", text, flags=re.MULTILINE)
    assert options or call == ["pretrain"]
    silent = [option for option in options if not re.search(r"[a-z]", _NAME_OR_DEFAULT.sub("", option))]
    assert not silent


def test_the_check_sees_a_break_at_a_line_of_the_source() -> None:
    broken = ["--windows INT  Windows of each", "               channel; 0: none."]
    assert list(_broken_early(broken, 60))
    assert not list(_broken_early(broken, 30))
