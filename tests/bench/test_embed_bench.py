"""`bench/embed.py` runs to its end at a small size, and its ways give the same number of windows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "embed.py"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_ways_side_by_side(tmp_path: Path) -> None:
    words = ["--preset", "tiny", "--recordings", "2", "--minutes", "3", "--rounds", "1", "--no-ray"]
    command = [sys.executable, str(BENCH), *words, "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["cpu_ms_a_window"]) >= {"bare", "worker", "published"} and found["windows"] > 20
    assert 0 < found["bare / worker"] < 1.2 and found["published / worker"] > 0
