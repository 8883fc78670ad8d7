"""The study of embeddings: its ceilings are the simulator's, its differences those of its scores, its page says so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bench.embedding_study import ceilings, comparing, page
from bench.embedding_study.arms import NAMES, RATES, TOGETHER, TRAINED, UNTRAINED
from bench.embedding_study.people import SPLIT, Windows, cohorts
from bench.embedding_study.probing import Moves, results
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate.results import Result
from xmae_dist.signals.beats import pulse_feet
from xmae_dist.simulate.cohorts import simulate_subject, subject_id, worn

PEOPLE, EACH = 40, 6
SPECS = tuple(dataclasses.replace(spec, minutes=1.0) for spec in cohorts(4))


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Windows of four simulated people, as far as ceilings need them."""
    names = [(subject_id(spec, i), name) for spec in SPECS for i in range(2) for name in worn(spec, i)]
    columns = list(zip(*[(*name, 10.0 * k) for name in names for k in range(5)], strict=True))
    return pa.table(dict(zip(("subject_id", "recording_id", "start_s"), columns, strict=True)))


def test_the_noiseless_pulse_has_the_feet_of_the_recording(table: pa.Table) -> None:
    pulse_ML = ceilings.noiseless(SPECS, table, WindowSpec())
    recording = simulate_subject(SPECS[0], 0)[0]
    row = table["recording_id"].to_pylist().index(recording.recording_id) + 2
    found_s = pulse_feet(pulse_ML[row].astype(float), 100.0) + 20.0
    true_s = recording.truth.arrival_device_s[recording.truth.strength > 0.5]
    inner_s = found_s[(found_s > 21) & (found_s < 29)]
    assert len(inner_s) >= 5
    assert np.abs(inner_s[:, None] - true_s).min(axis=1).max() < 0.03
    assert np.abs(pulse_ML).max() == 1.0


def test_the_state_of_a_window_holds_its_rate(table: pa.Table) -> None:
    state_MF = ceilings.latent(SPECS, table, 10.0)
    assert state_MF.shape[0] == 20 and np.isfinite(state_MF).all()
    rate_M = []
    for name, start_s in zip(table["recording_id"].to_pylist(), table["start_s"].to_pylist(), strict=True):
        wearing = next(found[name] for spec in SPECS for i in range(2) if name in (found := worn(spec, i)))
        at_s = wearing.clock.device_s(wearing.pulses.arrival_s)
        here = (at_s >= start_s) & (at_s < start_s + 10)
        rate_M.append(np.log(wearing.session.beats.rr_before_s[here].mean()))
    assert np.corrcoef(rate_M, state_MF[:, 0])[0, 1] > 0.999


def probed(arm: str, noise: float, seed: int = 0) -> list[Result]:
    """Results of an embedding that is age and noise, by people of whom only age is in it."""
    rng = np.random.default_rng(1)
    age = np.repeat(rng.uniform(20, 80, PEOPLE), EACH)
    person = np.repeat(np.arange(PEOPLE), EACH)
    labels = [
        [("age", a), ("ldl_mg_dl", b)] for a, b in zip(age, np.repeat(rng.normal(130, 20, PEOPLE), EACH), strict=True)
    ]
    table = pa.table(
        {
            "window_id": np.arange(PEOPLE * EACH),
            "subject_id": [f"p{i:02d}" for i in person],
            "recording_id": [f"r{i:02d}" for i in person],
            "cohort": ["made"] * len(person),
            "start_s": np.tile(10.0 * np.arange(EACH), PEOPLE),
            "labels": pa.array(labels, pa.map_(pa.string(), pa.float64())),
            "label_text": pa.array([[]] * len(person), pa.map_(pa.string(), pa.string())),
        }
    )
    embedding = (
        np.zeros((len(person), 1))
        if noise < 0
        else age[:, None] + noise * np.random.default_rng(seed).normal(size=(len(person), 1))
    )
    return results(arm, f"{arm}-{seed}", embedding, Windows(None, None, table), "made")


@pytest.fixture(scope="module")
def by_arm() -> dict[str, dict[str, list[Result]]]:
    arms = {
        "constant": [probed("constant", -1)],
        "latent": [probed("latent", 0.5)],
        "noiseless": [probed("noiseless", 1.0)],
        "cross": [probed("cross", 4.0, seed) for seed in (1, 2)],
        "random": [probed("random", 60.0, seed) for seed in (3, 4, 5)],
    }
    return {
        arm: {name: [one for run in runs for one in run if one.task.name == name] for name in ("age", "ldl")}
        for arm, runs in arms.items()
    }


def test_what_is_not_in_the_signal_is_a_null(by_arm: dict[str, dict[str, list[Result]]]) -> None:
    assert set(comparing.headroom(by_arm, Moves())) == {"age"}


def test_a_difference_is_that_of_the_mean_scores(by_arm: dict[str, dict[str, list[Result]]]) -> None:
    moves = Moves()
    found = comparing.differences(by_arm, comparing.headroom(by_arm, moves), moves)
    assert {(one.arm, one.other, one.seeds) for one in found} == {("cross", "random", 2)}
    age, ldl = found
    mine, other = (np.mean([one.headline.value for one in by_arm[arm]["age"][:2]]) for arm in ("cross", "random"))
    assert age.found.value == pytest.approx(other - mine) and age.sign == 1 and age.sure == 1
    assert age.found.low < age.found.value < age.found.high
    assert np.isnan(ldl.p_holm), "a null takes no part in Holm's correction"
    assert comparing.share(6.0, 12.0, 0.0) == 0.5


def test_the_page_says_what_was_found(by_arm: dict[str, dict[str, list[Result]]], tmp_path: Path) -> None:
    page.write(tmp_path / "page.md", tmp_path / "differences.jsonl", [], by_arm, 64, Moves())
    text = (tmp_path / "page.md").read_text()
    assert "- against `random`: better on 1 (1 after Holm), worse on 0 (0).\n" in text
    assert "| `cross` | `random` | 2 | 1 (1) | 0 (0) | 0 | 0 of 1 |" in text
    assert "nulls: ldl." in text and "**`cross` after 64 windows, 2 seeds, on 1 tasks with headroom:**" in text
    assert len((tmp_path / "differences.jsonl").read_text().splitlines()) == 2


def test_arms_are_what_the_study_says() -> None:
    assert set(NAMES) == {*TRAINED, *UNTRAINED, *TOGETHER}
    sizes = {(arm.config.width, arm.config.ppg_depth) for arm in TRAINED.values()}
    assert sizes == {(64, 1)}, "all of one size"
    assert {arm.family for arm in TRAINED.values()} == set(RATES) and all(len(set(r)) == 3 for r in RATES.values())
    assert SPLIT.fractions[2] * 1000 > 430, "at least 400 people are held out of 1,000, however the hash falls"
