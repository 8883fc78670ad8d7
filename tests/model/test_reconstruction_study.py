"""The page of the equal-budget study says what its rows say, a control that wins included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.reconstruction_study.measure import reached
from bench.reconstruction_study.table import write


def _row(preset: str, seed: int, own: float, pulse: float, lr: float = 1e-3, val_loss: float = 0.5) -> dict[str, Any]:
    probe = {"metric": "mae", "value": pulse, "units": 9, "subjects": 3}
    return {
        "dataset": "made_up",
        "preset": preset,
        "seed": seed,
        "lr": lr,
        "windows": 64,
        "batch": 8,
        "parameters": 7,
        "trained_windows": 64,
        "train_pool": 9,
        "train_subjects": 3,
        "test_windows": 4,
        "test_subjects": 2,
        "reconstructs": "ecg",
        "val_loss": val_loss,
        "windows_to_10_percent": 32,
        "errors": {"own": own, "other": 0.1, "none": 0.1, "mean": 0.2},
        "probes": {"heart_rate": probe},
    }


def test_a_control_that_wins_is_named(tmp_path: Path) -> None:
    rows = [_row("paper", 0, own=0.05, pulse=4.0), _row("paper", 1, own=0.06, pulse=5.0)]
    rows += [_row("joint", 0, own=0.07, pulse=4.1), _row("joint", 1, own=0.07, pulse=4.3)]
    rows += [_row("published", 0, own=0.04, pulse=6.0), _row("published", 1, own=0.045, pulse=6.0)]
    write(tmp_path / "page.md", rows)
    page = (tmp_path / "page.md").read_text()
    assert "- masked ECG error (own): **`published`**" in page  # no seed of paper reaches it
    assert "- heart_rate: `joint`\n" in page  # better on average, but not than every seed
    assert "| `paper` | 2 | 7 | 0.0550 ± 0.0071 |" in page


def test_a_learning_rate_that_lost_is_shown_and_left_out(tmp_path: Path) -> None:
    rows = [_row("paper", 0, 0.05, 4.0, lr=1e-3, val_loss=0.2), _row("paper", 0, 0.09, 9.0, lr=5e-4, val_loss=0.3)]
    write(tmp_path / "page.md", rows)
    page = (tmp_path / "page.md").read_text()
    assert "| `paper` | 0.001 | 0.2000 | taken |" in page
    assert "| `paper` | 1 | 7 | 0.0500 |" in page


def test_ten_percent_counts_from_where_it_stays() -> None:
    assert reached([[10, 0.8, 1.0], [20, 0.95, 1.0], [30, 0.9, 1.0], [40, 0.5, 1.0]]) == 30
    assert reached([[10, 0.8, 1.0], [20, 0.95, 1.0]]) is None
    assert reached([[10, 0.8, 1.0], [20, 0.7, 1.0]]) == 10
