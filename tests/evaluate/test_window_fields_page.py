"""docs/window-fields.md names every field of a window specification, and those that are compared with an encoder's."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate.encoders.frozen import MUST_MATCH, MUST_MATCH_OF_ECG

PAGE = Path(__file__).resolve().parents[2] / "docs/window-fields.md"


def _rows() -> dict[str, str]:
    """Field -> what the page says of whether it must match."""
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", PAGE.read_text(), flags=re.MULTILINE)
    return {name: said for names, said in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_page_names_every_field() -> None:
    assert set(_rows()) == {field.name for field in dataclasses.fields(WindowSpec)}


def test_the_page_says_which_fields_are_compared() -> None:
    said = _rows()
    assert {name for name, must in said.items() if must == "yes"} == set(MUST_MATCH)
    assert {name for name, must in said.items() if must.startswith("only")} == set(MUST_MATCH_OF_ECG)
