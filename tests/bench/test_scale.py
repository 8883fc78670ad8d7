"""`python -m bench.scale` at a small size: all operations run, here and at another commit, and growth is fitted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_table_is_made_beside_that_of_another_commit(tmp_path: Path) -> None:
    if subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("no checkout of git")
    words = [
        "--recordings",
        "60",
        "120",
        "240",
        "--cohorts",
        "2",
        "--against",
        "HEAD",
        "--only",
        "fingerprint",
        "inspect --json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "bench.scale", *words, "--json", str(tmp_path / "found.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found) == ["60", "120", "240"]
    for rows in found.values():
        assert list(rows) == ["ingest of the index", "fingerprint", "inspect --json"]
        for row in rows.values():
            assert len(row) == 2 and not any("failed" in one for one in row.values()), row
        assert (
            rows["fingerprint"]["now"]["result"] == rows["fingerprint"][next(reversed(rows["fingerprint"]))]["result"]
        )
    table = [line for line in done.stdout.splitlines() if line.startswith("| inspect --json")]
    assert len(table) == 1 and table[0].count("|") == 8 and "< 20 s" in table[0]
    assert (
        subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True).stdout.count(
            "bench-scale-tree"
        )
        == 0
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_operation_runs(tmp_path: Path) -> None:
    words = ["--recordings", "50", "--cohorts", "2", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, "-m", "bench.scale", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "found.json").read_text())["50"]
    peak_mib = {name: row["now"]["peak_mib"] for name, row in rows.items()}
    assert peak_mib["open a snapshot"] < 250, "no torch, and not the memory of the process that started it"
