"""What pyproject.toml says of dependencies is true: each import is declared, each pin is within its bounds."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Modules that come with a declared distribution of another name, or one that tests do without.
_COMES_WITH = {
    "botocore": "aiobotocore",
    "aiohttp": "aiobotocore",
    "google": "gcsfs",
    "mlflow": "mlflow-skinny",
    "requests": "ray",
}
# The conformance suites are for those who test a store or a format of their own, with pytest.
_TEST_TOOLS = {"pytest"}


def declared() -> list[Requirement]:
    return [
        Requirement(one)
        for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
        for one in group
    ]


def imported() -> dict[str, Path]:
    """Top-level modules of others that the package imports -> a file that does."""
    found: dict[str, Path] = {}
    for path in (ROOT / "xmae_dist").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            else:
                continue
            found.update((name.partition(".")[0], path) for name in names)
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names}


def test_every_import_is_declared() -> None:
    names = {_plain(one.name) for one in declared()}
    provided = packages_distributions()
    for module, path in imported().items():
        if module in {"xmae_dist", *_TEST_TOOLS}:
            continue
        providers = {_plain(one) for one in (*provided.get(module, [module]), _COMES_WITH.get(module, module))}
        assert providers & names, f"{path.relative_to(ROOT)} imports {module}, which pyproject.toml does not name"


def test_every_dependency_of_the_package_has_a_lower_bound() -> None:
    for one in map(Requirement, PROJECT["dependencies"]):
        assert any(limit.operator == ">=" for limit in one.specifier), f"{one}: lowest versions cannot be resolved"


def test_the_pinned_set_is_within_the_bounds() -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for one in declared():
        if one.name in pinned:
            assert one.specifier.contains(pinned[one.name]), f"{one.name}: {pinned[one.name]} is not {one}"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
