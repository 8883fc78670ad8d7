"""A program of `bench/` run by its path has its folder first on the path: no file there may hide a package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
PROGRAMS = sorted(path.name for path in BENCH.glob("*.py") if '__name__ == "__main__"' in path.read_text())
"""Those that are run; the others are parts of several."""


def test_no_file_hides_an_installed_module() -> None:
    ours = [path.stem for path in BENCH.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    found = "import importlib.util, sys\nprint(*(name for name in sys.argv[1:] if importlib.util.find_spec(name)))"
    done = subprocess.run([sys.executable, "-I", "-c", found, *ours], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_says_what_it_does(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / name), "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "usage:" in done.stdout
