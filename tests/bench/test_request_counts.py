"""`bench/request_counts.py` at a small size: the budget of requests, and one copy of a checkpoint for all ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_requests_stay_within_their_budget(tmp_path: Path) -> None:
    words = ["--parts", "24", "--ranks", "8", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "request_counts.py"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "found.json").read_text())
    (block,) = (row for name, row in rows.items() if name.startswith("a block"))
    assert float(block["each"].split()[0]) <= 1.1
    (restore,) = (row for name, row in rows.items() if " restore, " in name)
    assert restore["each"] == "1.000 copies read"
    assert restore["requests"] <= 8 * 6, "two askings of few long ranges a rank"
