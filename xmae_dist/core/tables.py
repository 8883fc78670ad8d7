"""Tables on a terminal of any width, in which no number and no name is cut.

Columns are as narrow as their longest word at most. Where even that does not fit, each row is a block of lines, one a
column.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Sequence[str]
_BETWEEN = 2  # blanks between two columns, as rich's collapsed padding has them


def terminal() -> Console:
    """Standard output. Names are printed as they are, also where rich would read markup (`[b]`) or emoji (`:cat:`)."""
    return Console(markup=False, emoji=False)


def show(
    console: Console,
    title: str,
    columns: Row,
    rows: Sequence[Row],
    *,
    numbers: Sequence[str] = (),
    total: Row | None = None,
) -> None:
    """Prints a table; columns in `numbers` are right-aligned and stay on one line, `total` is a last row of its own."""
    # rich counts blanks before the first word as a part of it, so a word as wide as its column would be cut.
    every = [[cell.strip() for cell in row] for row in (*rows, *([total] if total else []))]
    cells = list(zip(columns, *every, strict=True))
    natural = [max(map(cell_len, column)) for column in cells]
    least = [
        width if name in numbers else max(map(_longest_word, column))
        for name, column, width in zip(columns, cells, natural, strict=True)
    ]
    room = console.width - _BETWEEN * (len(columns) - 1)
    if sum(least) > room:
        _show_blocks(console, title, columns, every)
        return
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for name, width in zip(columns, _widths(least, natural, room), strict=True):
        made.add_column(name, width=width, justify="right" if name in numbers else "left", overflow="fold")
    for row in every[: len(rows)]:
        made.add_row(*map(Text, row))
    if total:
        made.add_section()
        made.add_row(*map(Text, every[-1]))
    console.print(f"\n{_filled(title, console.width)}", style="italic", soft_wrap=True)
    console.print(made)


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _widths(least: Sequence[int], natural: Sequence[int], room: int) -> list[int]:
    """Of columns that fit into `room`: the widest give way first, none below its least."""
    widths = list(natural)
    while sum(widths) > room:
        widest = max((n for n in range(len(widths)) if widths[n] > least[n]), key=lambda n: widths[n])
        widths[widest] -= 1
    return widths


def _show_blocks(console: Console, title: str, columns: Row, rows: Sequence[Row]) -> None:
    name_width = max(map(cell_len, columns)) + 2 * _BETWEEN
    console.print(f"\n{_filled(title, console.width)}", style="italic", soft_wrap=True)
    for row in rows:
        console.print()
        for name, value in zip(columns, row, strict=True):
            console.print(_filled(value, console.width, f"  {name}".ljust(name_width)), soft_wrap=True)


def _filled(text: str, width: int, first: str = "") -> str:
    """`text` after `first`, its further lines below it."""
    lines = textwrap.wrap(text, max(width - len(first), 1), break_long_words=False, break_on_hyphens=False)
    return first + f"\n{' ' * len(first)}".join(lines)
