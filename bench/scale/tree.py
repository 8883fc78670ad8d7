"""The working tree, or that of another commit: its own code is measured, by its own `bench.scale`."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmae_dist.testing.s3_server import S3Server

HERE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A checkout. Of another commit it is a worktree of git's, which goes with the block that it is entered for."""

    name: str
    root: Path
    worktree_of: Path | None = None

    @classmethod
    def of_commit(cls, commit: str) -> Tree:
        root = Path(tempfile.mkdtemp(prefix="bench-scale-tree-")) / "tree"
        _git(HERE, "worktree", "add", "--quiet", "--detach", str(root), commit)
        return cls(name=_git(root, "rev-parse", "--short", "HEAD"), root=root, worktree_of=HERE)

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        if self.worktree_of is not None:
            _git(self.worktree_of, "worktree", "remove", "--force", str(self.root))
            shutil.rmtree(self.root.parent)

    def row(self, words: Sequence[str], server: S3Server | None) -> dict[str, Any]:
        """What a process of its own says of itself, or is seen to take; or why it failed."""
        requests = server.requests() if server else 0
        environment = {**os.environ, **(server.environment() if server else {})}
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.root)}
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, *words], cwd=self.root, env=environment, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or ["nothing said"])[-1][-300:]}
        took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        row = json.loads(done.stdout) if done.stdout else {"cpu_s": round(took_s, 1), "peak_mib": None}
        return row | ({"requests": server.requests() - requests} if server else {})


def _git(where: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(where), *words], check=True, capture_output=True, text=True).stdout.strip()
