"""Prints the third-party packages of a pyproject.toml, with those of the extras named: what an image installs first.

python cluster/requirements.py pyproject.toml ingest gcs cloud
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: str, extras: list[str]) -> list[str]:
    """Dependencies of the project and of `extras`. Raises KeyError for an extra that there is not."""
    project = tomllib.loads(pyproject)["project"]
    found = list(project["dependencies"])
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return [line for line in found if not line.startswith(f"{project['name']}[")]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]).read_text(), sys.argv[2:])))
