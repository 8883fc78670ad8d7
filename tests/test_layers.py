"""Imports point down the layers only, and each heavy library stays in its place (docs/architecture.md)."""

from __future__ import annotations

import ast
import graphlib
import re
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
    "cluster",
    "storage",
    "signals",
    "simulate",
    "core",
}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "cluster": {"core"},
    "storage": {"core"},
    "signals": {"core"},
    "simulate": {"core"},
    "data": {"cluster", "storage", "signals", "core"},
    "model": {"storage", "signals", "core"},
    "ingest": {"data", "cluster", "storage", "signals", "simulate", "core"},
    "train": {"data", "cluster", "model", "storage", "signals", "core"},
    "evaluate": {"data", "cluster", "model", "storage", "signals", "core"},
    "embed": {"data", "cluster", "model", "storage", "signals", "core"},
    "recipes": ALL_BUT_TOP,
    "cli": ALL_BUT_TOP | {"recipes"},
    "testing": ALL_BUT_TOP | {"recipes", "cli"},
}
# Rooms of a layer, upper floors first: a room or file imports from its own floor's room and from floors below.
# What stands side by side on a floor does not import one another.
FLOORS: dict[str, list[set[str]]] = {
    "data": [{"exchange"}, {"stream", "store"}, {"windows"}, {"order", "clocks"}],
    "train": [
        {"launch"},
        {"trainer"},
        {"worker"},
        {"loop", "order", "sizing"},
        {"job", "process_group"},
        {"config", "checkpoints", "validation"},
        {"engines", "survival"},
        {"observe"},
        {"step"},
    ],
    "evaluate": [
        {"promotion"},
        {"fanout", "report", "withdrawal"},
        {"embedding", "finetune", "transfer"},
        {"run"},
        {"protocols"},
        {"chosen", "results", "kept", "environment"},
        {"gathering"},
        {"examples"},
        {"pooling", "labels", "names"},
        {"members", "tasks"},
        {"scores", "encoders"},
    ],
    "ingest": [
        {"run", "simulated"},
        {"commits", "report", "withdrawal"},
        {"gather", "relabel"},
        {"noted", "register"},
        {"convert", "grouping", "suggest", "outcomes"},
        {"admission"},
        {"discover", "labels", "check", "written"},
        {"naming", "readers"},
        {"datasets"},
        {"offer", "roots", "twins"},
        {"formats"},
    ],
}
RAY_LIVES_IN = {
    "cluster/demand.py",
    "cluster/fanout.py",
    "cluster/gpus.py",
    "cluster/private_ray.py",
    "cluster/spares.py",
    "cluster/submission.py",
    "data/stream/read_ahead.py",
    "train/launch.py",
    "train/trainer.py",
    "train/process_group.py",
    "train/survival/watch.py",
    "train/observe/prometheus.py",
    "train/worker.py",
    "evaluate/embedding.py",
    "evaluate/fanout.py",
    "embed/pipeline.py",
    "testing/local_machines.py",
}
DEEPSPEED_LIVES_IN = {"train/engines/deepspeed.py"}
TORCH_FREE = ("core", "cluster", "storage", "signals", "simulate", "ingest", "recipes", "data")
TORCH_IN_DATA = {"data/stream/collate.py"}


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


def room(name: str) -> str:
    """The room of a dotted name or path inside its layer: the folder or the file that stands there."""
    return name.split(".")[2] if name.count(".") >= 2 else ""


def in_rooms() -> list[Path]:
    return [
        file
        for file in modules()
        if layer(file) in FLOORS and file.parent.name + file.name != layer(file) + "__init__.py"
    ]


@pytest.mark.parametrize("file", in_rooms(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(file: Path) -> None:
    place = file.relative_to(PACKAGE)
    here, mine = place.parts[0], place.parts[1].removesuffix(".py")
    floor_of = {name: number for number, floor in enumerate(FLOORS[here]) for name in floor}
    assert mine in floor_of, (
        f"{place}: {here}/{mine} stands on no floor; give it one in FLOORS and docs/architecture.md"
    )
    for name in imported(file):
        there = room(name)
        if not name.startswith(f"xmae_dist.{here}.") or there not in floor_of or there == mine:
            continue
        assert floor_of[there] > floor_of[mine], (
            f"{place} imports {name}: {here}/{there} does not lie below {here}/{mine}. Move the type or constant that "
            f"both need down to the lower of the two, or the code that needs it up (docs/architecture.md, floors)"
        )


def module_name(file: Path) -> str:
    parts = ("xmae_dist", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_two_modules_need_one_another() -> None:
    names = {module_name(file) for file in modules()}
    needs = {
        module_name(file): {name for name in imported(file) if name in names} - {module_name(file)}
        for file in modules()
    }
    # Importing a package and a name from it lists both; a module does not need the package that it stands in.
    needs = {name: {other for other in others if not name.startswith(f"{other}.")} for name, others in needs.items()}
    try:
        tuple(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as error:
        pytest.fail(f"imports go in a circle: {' -> '.join(error.args[1])}; move what both need to a file below them")


def test_a_room_says_what_belongs_in_it() -> None:
    for layer_name in FLOORS:
        for init in sorted((PACKAGE / layer_name).rglob("__init__.py")):
            tree = ast.parse(init.read_text())
            assert ast.get_docstring(tree), f"{init.relative_to(PACKAGE)}: one sentence that says what belongs here"
            assert len(tree.body) == 1, f"{init.relative_to(PACKAGE)} re-exports; import from the file that defines"


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


def test_the_picture_of_the_floors_is_the_one_that_is_kept() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    for layer_name, floors in FLOORS.items():
        drawn = page.split(f"\n{layer_name:<12}", 1)[1].split("\n\n", 1)[0].split("```")[0]
        lines = [line[:60].strip() for line in f"{' ' * 12}{drawn}".splitlines()]
        assert [set(re.findall(r"\w+", line.replace("(suites/)", ""))) for line in lines] == floors, layer_name
