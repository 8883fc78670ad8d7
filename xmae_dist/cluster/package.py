"""What travels with a submitted job: the package's own source, and files of this machine that its command names.

Nothing else does: no working folder, so neither data nor credentials that happen to lie in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xmae_dist.core.errors import UsageError

_SOURCE = Path(__file__).resolve().parents[1]
_LEFT_BEHIND = shutil.ignore_patterns("__pycache__", "*.pyc")
_FILE_LIMIT_BYTES = 10 * 2**20


@dataclass(frozen=True, kw_only=True)
class Package:
    """A folder made for one job, and the job's command as it reads there."""

    folder: Path
    words: tuple[str, ...]
    n_files: int
    size_bytes: int


def pack(words: Sequence[str], folder: Path) -> Package:
    """Copies the source and the files that `words` name into `folder`.

    Raises UsageError for a folder of this machine, which the cluster's machines do not have, and for a file over
    10 MiB, which belongs on the object store.
    """
    shutil.copytree(_SOURCE, folder / _SOURCE.name, ignore=_LEFT_BEHIND)
    packed = tuple(_packed(word, number, folder) for number, word in enumerate(words))
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Package(folder=folder, words=packed, n_files=len(sizes), size_bytes=sum(sizes))


def _packed(word: str, number: int, folder: Path) -> str:
    """`word`, or where the file that it names lies in `folder`; `--option=path` keeps its option."""
    option, _, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    path = Path(value)
    # A cohort or a recipe may be called as a folder here is: what has neither a slash nor an ending is a name.
    named_as_a_path = "/" in value or path.suffix
    if not named_as_a_path or "://" in value or not path.exists():
        return word
    if path.is_dir():
        raise UsageError(
            option or "submit",
            value=f"{value}, a folder of this machine",
            expected="a URL that every machine of the cluster can read",
            fix="put it on the object store, or mount it on all machines and write file:///…",
        )
    if (size_bytes := path.stat().st_size) > _FILE_LIMIT_BYTES:
        raise UsageError(
            option or "submit",
            value=f"{value}, {size_bytes / 2**20:.0f} MiB",
            expected=f"at most {_FILE_LIMIT_BYTES // 2**20} MiB to travel with a job",
            fix="put it on the object store and give its URL",
        )
    target = folder / "inputs" / f"{number}-{path.name}"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
    there = str(target.relative_to(folder))
    return f"{option}={there}" if option else there
