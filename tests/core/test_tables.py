"""A table holds every word of its cells whole, at any width of the terminal, and is no wider where it is a table."""

from __future__ import annotations

import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from xmae_dist.core import tables

# What rich reads as markup or emoji, ids of devices with paths, numbers with signs, other scripts, and nothing.
IDS = ("[bold]p01[/bold]", ":cat:", "night/2026-11-29/ward_3-bed_11/record-0007", "-1,234,567.89", "患者七", "[/]", "")
WORDS = st.one_of(st.sampled_from(IDS), st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=60))
CELLS = st.lists(WORDS, max_size=4).map(" ".join)


def _printed(width: int, columns: list[str], rows: list[list[str]], numbers: list[str]) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False, emoji=False, color_system=None)
    tables.show(console, "of people", columns, rows, numbers=numbers, total=rows[0])
    return out.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(20, 200),
    rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=4),
    numbers=st.lists(st.floats(allow_nan=False).map(lambda value: f"{value:,.3f}"), min_size=4, max_size=4),
)
@example(width=60, rows=[["[bold]p01[/bold]", "[bold]p01[/bold]", " 00000000000、、、"]], numbers=["0.000"] * 4)
def test_no_word_is_cut(width: int, rows: list[list[str]], numbers: list[str]) -> None:
    table = [[*row, number] for row, number in zip(rows, numbers, strict=False)]
    words = _printed(width, ["recording", "rate (Hz)", "what", "hours"], table, ["hours"]).split()
    for row in [*table, table[0]]:
        for word in " ".join(row).split():
            assert word in words
            words.remove(word)  # as often as it was given


@pytest.mark.parametrize("width", [80, 120])
def test_ids_that_fit_beside_one_another_make_a_table(width: int) -> None:
    columns, row = ["cohort", "recording", "hours"], ["patch_watch-chest_patch", "p017/2026-11-29", "1,234.56"]
    lines = _printed(width, columns, [row], ["hours"]).splitlines()
    assert max(map(len, lines)) <= width
    assert [line.split() for line in lines].count(row) == 2, "its own line, and that of the total"


def test_ids_that_do_not_fit_make_blocks() -> None:
    row = ["a" * 50, "b" * 50, "1,234.56"]
    lines = _printed(80, ["cohort", "recording", "hours"], [row], ["hours"]).splitlines()
    assert [line.split() for line in lines][3:6] == [["cohort", row[0]], ["recording", row[1]], ["hours", row[2]]]


def test_the_terminal_prints_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    tables.terminal().print("s3://bucket/[b]x[/b] :cat:", soft_wrap=True)
    assert capsys.readouterr().out == "s3://bucket/[b]x[/b] :cat:\n"
