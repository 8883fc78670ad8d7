"""From which folder recordings take their names, so that naming `data` or `data/subject_01` gives the same ones.

A folder is left for its parent while a folder beside it holds a file of the same relative path: then the name of the
folder is what tells the two apart.
"""

from __future__ import annotations

import posixpath
from typing import Any

from xmae_dist.storage import uri

_HIGHEST = 4
_BESIDE = 50


def named_from(url: str, first: str | None) -> str:
    """What stands before names relative to the folder `url`, in which `first` (relative to it) was found first."""
    fs, folder = uri.filesystem(url)
    prefix = ""
    for _ in range(_HIGHEST):
        parent, name = posixpath.split(folder.rstrip("/"))
        # A bucket has no folders beside it.
        if first is None or not name or not parent.strip("/"):
            break
        if not any(_holds(fs, beside, prefix + first) for beside in _folders_beside(fs, parent, folder)):
            break
        prefix, folder = f"{name}/{prefix}", parent
    return prefix


def _folders_beside(fs: Any, parent: str, folder: str) -> list[str]:
    try:
        listed = fs.ls(parent, detail=True)
    except (OSError, ValueError):
        return []  # a parent that may not be listed: nothing beside is known
    found = [item["name"] for item in listed if item["type"] == "directory"]
    return [name for name in found if name.strip("/") != folder.strip("/")][:_BESIDE]


def _holds(fs: Any, folder: str, path: str) -> bool:
    try:
        return bool(fs.isfile(f"{folder}/{path}"))
    except OSError:
        return False
