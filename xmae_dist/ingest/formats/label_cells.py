"""Cells of a table as labels: what is empty, what is a number, what is text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_EMPTY = {"", "nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nat"}


def split_kinds(cells: Mapping[str, Any], numeric: set[str] | None = None) -> tuple[dict[str, float], dict[str, str]]:
    """Cells as (numeric labels, text labels); empty cells are left out.

    `numeric` names the columns that are numbers throughout; without it each cell decides for itself.
    """
    numbers: dict[str, float] = {}
    text: dict[str, str] = {}
    for name, cell in cells.items():
        if is_empty(cell):
            continue
        word = str(cell).strip()
        number = _number(word) if numeric is None or name in numeric else None
        if number is None:
            text[name] = word
        else:
            numbers[name] = number
    return numbers, text


def is_empty(cell: Any) -> bool:
    """Whether a cell says nothing: blank, or a word for "not known"."""
    return cell is None or str(cell).strip().lower() in _EMPTY


def all_numbers(cells: Iterable[str]) -> bool:
    """Whether every filled cell is a number, and one is filled."""
    filled = [cell for cell in cells if not is_empty(cell)]
    return bool(filled) and all(_number(cell) is not None for cell in filled)


def stray_words(cells: Sequence[str]) -> list[int]:
    """Where words stand in what is a column of numbers otherwise: at most half of its filled cells."""
    filled = [at for at, cell in enumerate(cells) if not is_empty(cell)]
    words = [at for at in filled if _number(cells[at]) is None]
    return words if words and len(words) <= 0.5 * len(filled) else []


def _number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
