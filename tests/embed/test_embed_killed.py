"""SIGKILL at every write of a job: the table is as if nothing had happened, and readers never see part of a request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.embed.jobs import ENCODER, embed, told
from tests.embed.polling import polled
from xmae_dist.embed.backlog import View
from xmae_dist.embed.sweep import sweep
from xmae_dist.storage.corpus import Corpus

JOB = """
import os, signal, sys
from tests.embed import jobs
from xmae_dist.embed import difference
from xmae_dist.storage import uri
difference._MOST_RECORDINGS = 2
left = int(sys.argv[3])
def dying(write):
    def wrapped(*args, **options):
        global left
        left -= 1
        if left == 0 and sys.argv[4] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = write(*args, **options)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    return wrapped
for name in ("write_bytes", "create_exclusively", "delete"):
    setattr(uri, name, dying(getattr(uri, name)))
print(jobs.embed(sys.argv[1], sys.argv[2], "watch"))
"""


def record(corpus: Corpus, part_id: str, people: dict[str, int], cohort: str = "watch") -> None:
    with corpus.begin_part(cohort, part_id) as part:
        ppg = part.channel("ppg", dtype=np.float32, rate_hz=100.0, unit="nu")
        rows = [
            ppg.add(np.full(9, value, np.float32), subject_id=name, recording_id=name, clock_id=name)
            for name, value in people.items()
        ]
    corpus.commit_part(rows, part_id)


def job(corpus: str, table: str, write: int, when: str) -> int:
    command = [sys.executable, "-c", JOB, corpus, table, str(write), when]
    return subprocess.run(command, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode


def killed_and_resumed(root: str, writes: list[int], when: str) -> list[int]:
    """A request that adds, replaces and takes away, killed at each of `writes` in turn; returns exit statuses."""
    corpus, table = Corpus.create(f"{root}/corpus"), f"{root}/table"
    record(corpus, "a", {"s0": 1, "s1": 1, "s2": 1})
    embed(corpus.url, table, "watch")
    before = told(table)
    corpus.withdraw(["s0", "s1"])
    corpus.readmit(["s1"])
    record(corpus, "b", {"s1": 2, "s3": 2, "s4": 2})
    recorded = corpus.snapshot().table(["recording_id", "digest"]).to_pylist()
    after = {
        ("watch", row["recording_id"], start_s): float(int(row["digest"][:4], 16))
        for row in recorded
        for start_s in (0.0, 10.0)
    }
    assert after != before
    with polled(table, [before, after]):
        statuses = [job(corpus.url, table, write, when) for write in writes]
        embed(corpus.url, table, "watch")
    assert told(table) == after
    assert View.of(corpus.url, table).behind(ENCODER) == []
    sweep(table, grace_s=0.0)
    assert told(table) == after
    files = [
        path for path in Path(table.removeprefix("file://")).rglob("*.parquet") if path.parent.name != "_delta_log"
    ]
    assert files and not any(b"s0" in path.read_bytes() for path in files), "footers name the first and last person"
    return statuses


def test_killed_before_facts_and_after_the_commit(tmp_path: Path) -> None:
    statuses = killed_and_resumed(f"file://{tmp_path}", [5, 12], "after")
    assert -signal.SIGKILL in statuses


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", range(1, 19))
def test_killed_at_every_write(tmp_path: Path, write: int, when: str) -> None:
    (status,) = killed_and_resumed(f"file://{tmp_path}", [write], when)
    assert status in (-signal.SIGKILL, 0)
