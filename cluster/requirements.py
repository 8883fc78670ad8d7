"""Prints the third-party packages of a pyproject.toml, with those of the extras named: what an image installs first.

python cluster/requirements.py pyproject.toml formats gcs cloud
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: str, extras: list[str]) -> list[str]:
    """Dependencies of the project and of `extras`. Raises KeyError for an extra that there is not."""
    project = tomllib.loads(pyproject)["project"]
    own = re.compile(rf"{re.escape(project['name'])}\[(.+)\]$")

    def of(lines: list[str]) -> list[str]:
        found = []
        for line in lines:
            if extras_of_ours := own.match(line):
                for extra in extras_of_ours[1].split(","):
                    found += of(project["optional-dependencies"][extra.strip()])
            else:
                found.append(line)
        return found

    return list(dict.fromkeys(of([*project["dependencies"], f"{project['name']}[{','.join(extras)}]"])))


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]).read_text(), sys.argv[2:])))
