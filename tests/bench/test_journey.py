"""`bench/journey.py` at a small size: every stage comes to its end, and says what it took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDINGS = 320


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "journey.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_journey(tmp_path: Path) -> None:
    words = ["--recordings", str(RECORDINGS), "--segments-a-person", "8", "--json", str(tmp_path / "found.json")]
    words += ["--keep", str(tmp_path / "journey")]
    done = run(words)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    stages = {one["name"]: one for one in json.loads((tmp_path / "found.json").read_text())["stages"]}
    assert list(stages) == [
        "ingest", "inspect", "windows", "pretrain, 20 steps", "export",
        "tick that embeds all", "tick with nothing new", "evaluate",
    ]  # fmt: skip
    assert all(one["cpu_s"] > 0 and one["own_mb"] > 50 and one["tree_mb"] >= one["own_mb"] for one in stages.values())
    print(done.stdout, stages["inspect"]["said"][-300:], stages["tick that embeds all"]["said"][-600:])
    took = tmp_path / "journey" / "took.jsonl"
    lines = took.read_text().splitlines()
    took.write_text("\n".join(lines[:-1]) + "\n")  # cut off while it evaluated
    assert run(words).returncode == 0
    again = {one["name"]: one for one in json.loads((tmp_path / "found.json").read_text())["stages"]}
    assert again["evaluate"].pop("cut_off") == 1 and not any(
        again[name]["cut_off"] for name in stages if name != "evaluate"
    )
    assert all(again[name] == stages[name] for name in stages if name != "evaluate")
    assert "recordings" in run([*words, "--recordings", "640"]).stderr, "a folder of another journey is refused"
