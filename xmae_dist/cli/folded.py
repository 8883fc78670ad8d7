"""Text folded to the width of the terminal."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping

_WIDEST = 120


def paragraphs(text: str) -> list[str]:
    """Each on one line; blank lines are between them."""
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip())]


def folded(text: str, first: str = "", others: str = "") -> str:
    """One paragraph; `first` and `others` begin its first line and all others."""
    columns = min(shutil.get_terminal_size().columns, _WIDEST)
    return textwrap.fill(
        text, columns, initial_indent=first, subsequent_indent=others, break_on_hyphens=False, break_long_words=False
    )


def rows(meaning: Mapping[str, str]) -> str:
    """A paragraph for each name, all beginning in one column."""
    width = max(map(len, meaning)) + 4
    return "\n".join(folded(text, f"  {name}".ljust(width), " " * width) for name, text in meaning.items())
