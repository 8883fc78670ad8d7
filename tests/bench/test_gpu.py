"""`bench/gpu.py` on the CPU: what a GPU machine will run once must not have rotted when it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(600)
def test_every_row_is_made(tmp_path: Path) -> None:
    words = ["--device", "cpu", "--presets", "tiny", "--batch", "2", "--seconds", "0.05", "--zero", "0"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "gpu.py"), *words, "--json", str(tmp_path / "found.json")],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {row.pop("label"): row for row in found["rows"]}
    assert list(rows) == [
        "plain published, fp32",
        "tiny, eager",
        "tiny, where a step's time lies",
        "tiny, in the loop",
        "tiny, embedding",
        "tiny, DeepSpeed ZeRO 0",
    ]
    assert not [label for label, row in rows.items() if "not_run" in row], rows
    for label in ("plain published, fp32", "tiny, eager", "tiny, DeepSpeed ZeRO 0"):
        assert rows[label]["windows_per_s"] > 0 and 0 < rows[label]["of_measured_peak"] < 1.5
    assert 0 < rows["tiny, where a step's time lies"]["kernels_ms"] <= rows["tiny, where a step's time lies"]["step_ms"]
    assert rows["tiny, in the loop"]["loop_over_bare"] > 0.5
    assert found["about"]["device"] == "CPU" and found["about"]["type"] == "fp32"


def test_a_machine_without_a_gpu_says_that_nothing_was_run() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("here is one")
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "gpu.py")], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout) == (0, "not run on a GPU: no CUDA device here\n")
