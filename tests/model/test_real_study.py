"""The study on real people: what a strap says of a window, whether a source is used, and what its page says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from bench.embedding_study import training
from bench.embedding_study.arms import TRAINED, fitted
from bench.embedding_study.people import Windows
from bench.embedding_study.score import Score
from bench.embedding_study.unfinished import Unfinished
from bench.real_study import page, pairs
from bench.real_study.__main__ import _simulated
from bench.real_study.corpora import Phone, strap_labels
from bench.real_study.phones import results
from xmae_dist.model import bundle
from xmae_dist.model.diagnose import window_errors


def test_a_strap_tells_rate_and_rmssd_of_the_intervals_inside_a_window() -> None:
    rr_s = np.tile([0.9, 1.1], 20)
    told = strap_labels(rr_s, 5.0, 10.0)
    # Intervals inside [5, 15]: the sixth, from 5.0, to the last that ends by 15.0.
    assert told == {"strap_bpm": pytest.approx(60.0, rel=0.02), "strap_rmssd_ms": pytest.approx(200.0)}
    assert strap_labels(rr_s, 0.0, 5.0) == {} == strap_labels(rr_s, 38.0, 10.0), "too few beats"


def test_how_far_own_lies_below_other_is_of_people() -> None:
    rng = np.random.default_rng(0)
    other_S = rng.uniform(0.05, 0.1, 60)
    found = pairs.reduction(0.7 * other_S * rng.uniform(0.9, 1.1, 60), other_S)
    assert found["low"] < found["value"] < found["high"] and found["low"] > 0.25 and found["high"] < 0.35
    assert pairs.reduction(other_S, other_S) == {"value": 0.0, "low": 0.0, "high": 0.0}


def beats(delay_s: float, phase_s: np.ndarray) -> np.ndarray:
    """Windows of 4 s with a narrow wave a second, `delay_s` after each beat."""
    at_s = (np.arange(400) / 100.0 - phase_s[:, None] - delay_s) % 1.0
    return (2 * np.exp(-(((at_s - 0.5) / 0.06) ** 2)) - 1).astype(np.float32)


@pytest.mark.slow
def test_a_pressure_is_rebuilt_from_its_own_ecg(tmp_path: Path) -> None:
    phase_s = np.random.default_rng(1).uniform(0, 1, 320)
    names = [f"p{i % 8}" for i in range(320)]
    windows = Windows(
        torch.tensor(beats(0.3, phase_s)), torch.tensor(beats(0.0, phase_s)), pa.table({"subject_id": names})
    )
    spec = SimpleNamespace(length=400, rate_hz=100.0)
    people = SimpleNamespace(train=windows, probed=windows, store=SimpleNamespace(spec=spec))
    run = training.Run(seed=0, lr=4e-3, windows=150 * training.BATCH)
    row = pairs.trained(pairs.PRESSURE, people, run, Unfinished(folder=tmp_path))
    assert row["people"] == 8 and row["windows_tested"] == 320
    assert row["below_other"]["low"] > 0.3, "the delay of 0.3 s is learned"
    config = pairs.PRESSURE.config(people)
    model = training.initial(config, 0)
    error = window_errors(model, windows.ecg_ML, windows.ppg_ML, np.array(names), training.fixed_masks(config, 320))
    untrained = pairs.used(model, windows)
    by_person = [np.mean([e for e, name in zip(error["own"], names, strict=True) if name == f"p{i}"]) for i in range(8)]
    assert untrained["errors"]["own"] == pytest.approx(np.mean(by_person), rel=1e-5)


def test_the_page_says_what_was_found_and_what_cannot_be(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    count, each = 20, 6
    rate = rng.uniform(50, 110, count * each)
    labels = pa.array(
        [[("strap_bpm", one), ("strap_rmssd_ms", 30 + one / 10)] for one in rate], pa.map_(pa.string(), pa.float64())
    )
    person = np.repeat(np.arange(count), each)
    table = pa.table(
        {
            "window_id": np.arange(count * each),
            "subject_id": [f"p{i:02d}" for i in person],
            "recording_id": [f"r{i:02d}" for i in person],
            "cohort": ["welltory"] * len(person),
            "start_s": np.tile(5.0 * np.arange(each), count),
            "labels": labels,
            "label_text": pa.array([[]] * len(person), pa.map_(pa.string(), pa.string())),
        }
    )
    phone = Phone("welltory", Windows(torch.empty(0), torch.empty(0), table), "made")
    knows, guesses = (rate[:, None] + noise * rng.normal(size=(len(rate), 1)) for noise in (1.0, 20.0))
    found = [*results("cross", "cross-0", knows, phone), *results("features", "features", guesses, phone)]
    below = {"value": 0.41, "low": 0.3, "high": 0.5}
    beside = [
        {"kind": "phone", "what": "welltory", "arm": "cross", "seed": 0},
        {
            "kind": "pair",
            "what": "ecg_from_ppg",
            "arm": "cross",
            "seed": 0,
            "people": 44,
            "below_other": below,
            "errors": {"own": 0.05, "other": 0.09, "none": 0.08, "mean": 0.12},
        },
    ]
    told = page.Told([], beside, [], 57_600)
    scores = [Score.of(one) for one in found]
    bare = {"a": [scores[2]], "b": [scores[0]]}
    by_arm = {"constant": {"a": [scores[2]], "b": [scores[2]]}, "features": bare, "cross": bare}
    page.write(tmp_path / "page.md", told, by_arm, scores)
    text = (tmp_path / "page.md").read_text()
    assert "masked ECG error with the own PPG 41 % [30, 50] below that with another's (44 held-out patients)" in text
    assert "| `cross` | 0 | 44 | 0.0500 | 0.0900 | 0.0800 | 0.1200 | 41 % [30, 50] |" in text
    assert (
        "On 1 of 2 tasks no arm, features included, is shown to be better than no input at all (`constant`): a." in text
    )
    assert "- welltory, Heart rate: `cross` is better than features (+" in text
    rows = [line for line in text.splitlines() if line.startswith("| welltory, heart_rate, MAE, beats/min | 20, 120")]
    assert len(rows) == 2 and "▲" in next(row for row in rows if "`cross`" in row)
    assert "Which recordings of `welltory` share a person is not published" in text


def test_encoders_of_the_simulated_study_are_those_of_the_rate_of_the_patients_arms(tmp_path: Path) -> None:
    for arm, lr in (("cross", 2e-3), ("cross", 8e-3), ("contrastive_beats, paper size", 1e-3)):
        lineage = {"arm": arm, "seed": 0, "windows": 64, "lr": lr}
        model = training.initial(fitted(TRAINED["cross"], 200, 100.0), 0)
        bundle.save(str(tmp_path / f"{arm}-{lr}"), model, window_spec={}, lineage=lineage)
    found = _simulated(tmp_path, 0)
    assert {name: Path(load.args[0]).name for name, load in found.items()} == {"cross, simulated 64": "cross-0.002"}
    assert not _simulated(tmp_path, 1)
