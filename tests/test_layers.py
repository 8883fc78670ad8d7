"""Imports point down the layers only, and each heavy library stays in its place (docs/architecture.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "xmae_dist"
ALL_BUT_TOP = {
    "ingest",
    "train",
    "evaluate",
    "embed",
    "data",
    "model",
    "storage",
    "signals",
    "simulate",
    "core",
}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "storage": {"core"},
    "signals": {"core"},
    "simulate": {"core"},
    "data": {"storage", "signals", "core"},
    "model": {"storage", "core"},
    "ingest": {"data", "storage", "signals", "simulate", "core"},
    "train": {"data", "model", "storage", "signals", "core"},
    "evaluate": {"data", "model", "storage", "signals", "core"},
    "embed": {"data", "model", "storage", "signals", "core"},
    "recipes": ALL_BUT_TOP,
    "cli": ALL_BUT_TOP | {"recipes"},
    "testing": ALL_BUT_TOP | {"recipes", "cli"},
}
RAY_LIVES_IN = {
    "data/materialise.py",
    "data/stream.py",
    "data/fanout.py",
    "train/launch.py",
    "train/trainer.py",
    "train/watch.py",
    "train/prometheus.py",
    "train/worker.py",
    "evaluate/fanout.py",
    "embed/pipeline.py",
    "testing/local_cluster.py",
}
DEEPSPEED_LIVES_IN = {"train/engine_deepspeed.py"}
TORCH_FREE = ("core", "storage", "signals", "simulate", "ingest", "recipes", "data")
TORCH_IN_DATA = {"data/collate.py"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import; the project imports absolutely"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0]


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_module_imports_only_from_layers_below(file: Path) -> None:
    here = layer(file)
    if here == "__init__.py":
        return
    assert here in MAY_IMPORT, f"{here} is no layer of the design"
    for name in imported(file):
        if name.startswith("xmae_dist."):
            there = name.split(".")[1]
            assert there == here or there in MAY_IMPORT[here] or there == "__version__", (
                f"{file.relative_to(PACKAGE)} imports {name}: {here} must not know {there}"
            )


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_their_rooms(file: Path) -> None:
    place = str(file.relative_to(PACKAGE))
    roots = {name.split(".")[0] for name in imported(file)}
    if place not in RAY_LIVES_IN:
        assert "ray" not in roots, f"{place} imports Ray; it belongs in {sorted(RAY_LIVES_IN)}"
    if place not in DEEPSPEED_LIVES_IN:
        assert "deepspeed" not in roots, f"{place} imports DeepSpeed; it belongs in {sorted(DEEPSPEED_LIVES_IN)}"
    if place.split("/")[0] in TORCH_FREE and place not in TORCH_IN_DATA:
        assert "torch" not in roots, f"{place} imports torch: a CPU data node need not have it"


def test_no_room_is_called_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
    assert not [file for file in modules() if drawers & set(file.stem.split("_"))]
