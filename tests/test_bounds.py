"""The oldest versions that are tested are the oldest that pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_lowest_set_is_that_of_the_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["ingest"]]
    lowest = dict(re.findall(r"^([\w-]+)==([\w.]+)$", (ROOT / "constraints-lowest.txt").read_text(), re.MULTILINE))
    for one in declared:
        name, _, bound = re.match(r"([\w-]+)(\[[^]]*\])?>=([\w.]+)", one).groups()  # type: ignore[union-attr]
        if name == "torch":
            continue  # of which the project's index has one build for CPUs alone
        tested = lowest[name]
        assert (tested + ".0.0").startswith(bound + "."), f"{name}: {bound} is allowed, {tested} is tested"


def test_the_pinned_set_is_within_the_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for one in project["dependencies"]:
        name = re.match(r"[\w-]+", one).group()  # type: ignore[union-attr]
        here = [int(part) for part in pinned[name].split(".") if part]
        for operator, bound in re.findall(r"(>=|<)([\d.]+)", one):
            limit = [int(part) for part in bound.split(".")]
            assert (here >= limit) if operator == ">=" else (here < limit), f"{name}: {pinned[name]} is not {one}"
