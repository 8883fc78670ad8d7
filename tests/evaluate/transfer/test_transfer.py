"""Probes trained under one condition and tested under others: what a shift costs, on truth that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.data.corpora import corpus_of
from xmae_dist.cli.main import main
from xmae_dist.core.errors import InputError
from xmae_dist.data.store.materialise import materialise
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.evaluate.examples import Examples
from xmae_dist.evaluate.gathering import gathered_by
from xmae_dist.evaluate.pooling import embedded_here
from xmae_dist.evaluate.report.sections_shift import transfer_section
from xmae_dist.evaluate.run import EvaluateConfig
from xmae_dist.evaluate.tasks import Task
from xmae_dist.evaluate.transfer.matrix import Cell, RowRequest, conditions_of, fit_row, folds_of_conditions, lost
from xmae_dist.evaluate.transfer.requests import CellTable
from xmae_dist.model import bundle, presets

TASK = Task(name="rate", title="Rate", label="rate", kind="regression", metric="mae")
CONFIG = EvaluateConfig(n_replicates=200, n_train_replicates=50)
N_PEOPLE, N_WINDOWS, N_FEATURES = 40, 5, 6


def windows(*, shared_people: bool) -> tuple[pa.Table, np.ndarray]:
    """Two devices of 40 people (the same, or others) and embeddings in which device `b` turns the label's direction."""
    rng = np.random.default_rng(5)
    rows, embedding = [], []
    for device in ("a", "b"):
        for person in range(N_PEOPLE):
            level = np.random.default_rng(person).normal() if shared_people else rng.normal()
            for window in range(N_WINDOWS):
                y = level + 0.3 * rng.normal()
                x = rng.normal(size=N_FEATURES)
                x[0] += 4 * y
                x[1] = 4 * y * (1 if device == "a" else -1) + rng.normal()
                subject = f"p{person}" if shared_people else f"{device}{person}"
                rows.append({"subject_id": subject, "recording_id": f"{device}{person}", "cohort": device,
                             "start_s": 10.0 * window, "rate": y})  # fmt: skip
                embedding.append(x)
    table = pa.Table.from_pylist(rows)
    return table.append_column("window_id", pa.array(np.arange(len(rows)))), np.array(embedding, np.float32)


def conditions_by_cohort(table: pa.Table) -> dict[str, Examples]:
    return conditions_of(TASK, "cohort", gathered_by("cohort", [TASK], [table], limit=CONFIG.limit)["rate"])


def matrix(table: pa.Table, embedding_WE: np.ndarray) -> dict[tuple[str, str], Cell]:
    conditions = conditions_by_cohort(table)
    embedded = embedded_here(
        [units.windows for units in conditions.values()], table["window_id"].to_numpy(), embedding_WE
    )
    cells = []
    for trained in conditions:
        request = RowRequest(
            request=f"row {trained}", axis="cohort", trained=trained, suite="s", suite_title="S", task=TASK,
            encoder=EncoderSpec(name="e", kind="features", identity="e"), store="w", config=CONFIG,
        )  # fmt: skip
        cells += fit_row(request, conditions, dict.fromkeys(conditions, embedded))
    return {(c.trained, c.tested): c for c in cells}


@pytest.mark.parametrize("shared_people", [False, True])
def test_a_feature_that_turns_between_devices_costs_accuracy_and_the_interval_says_so(shared_people: bool) -> None:
    cells = matrix(*windows(shared_people=shared_people))
    assert set(cells) == {("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")}
    for device, other in (("a", "b"), ("b", "a")):
        home, away = cells[device, device], cells[other, device]
        assert home.result.headline.value < 0.3 and away.result.headline.value > home.result.headline.value + 0.1
        cost = lost(away, home)
        assert cost.high < 0, "an error that grows is a loss"
        assert cost.value == pytest.approx(home.result.headline.value - away.result.headline.value)
        none = lost(home, home)
        assert none.value == none.low == none.high == 0


def test_the_report_counts_what_a_change_of_device_costs() -> None:
    page = "".join(transfer_section(list(matrix(*windows(shared_people=False)).values()), {"e": "#0072B2"}))
    assert "Transfer by cohort" in page and "▼ 2" in page and "▲ 0" in page
    assert page.count("data:image/png;base64,") == 1
    assert transfer_section([], {}) == []


def test_devices_that_agree_lose_nothing_shown() -> None:
    table, embedding_WE = windows(shared_people=False)
    embedding_WE[:, 1] = 0
    cells = matrix(table, embedding_WE)
    cost = lost(cells["a", "b"], cells["b", "b"])
    assert cost.low < 0 < cost.high and abs(cost.value) < 0.05


def test_a_person_who_wears_both_devices_is_in_one_fold() -> None:
    table, _ = windows(shared_people=True)
    conditions = conditions_by_cohort(table)
    folds = folds_of_conditions(TASK, conditions, CONFIG)
    of_person: dict[str, set[int]] = {}
    for name, units in conditions.items():
        for subject, fold in zip(units.subject_N, folds[name], strict=True):
            of_person.setdefault(str(subject), set()).add(int(fold))
    assert len(of_person) == N_PEOPLE and all(len(found) == 1 for found in of_person.values())
    cells = matrix(table, windows(shared_people=True)[1])
    assert cells["a", "b"].result.scored.train_Q.std() > 0, "training on the tested people moves their score"


def test_one_condition_is_no_matrix() -> None:
    table, _ = windows(shared_people=False)
    few = table.filter(pa.compute.field("cohort") == "a")
    with pytest.raises(InputError, match="at least two"):
        conditions_by_cohort(few)


def test_the_command_makes_matrices_and_commits_each_row_once(tmp_path: Path, ray_local: None) -> None:
    place = f"file://{tmp_path}"
    for cohort in ("patch", "ring"):
        corpus_of(f"{place}/corpus", subjects=7, recordings=1, cohort=cohort)
    materialise(f"{place}/corpus", f"{place}/windows")
    bundle.save(f"{place}/bundle", presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={})
    (tmp_path / "suite.toml").write_text(
        '[[task]]\nname = "rate"\ntitle = "Heart rate"\nlabel = "heart_rate_bpm"\nkind = "regression"\n'
    )
    command = ["evaluate", "--windows", f"{place}/windows", "--bundle", f"{place}/bundle", "--out", f"{place}/out",
               "--suite", f"{place}/suite.toml", "--replicates", "100", "--transfer-by", "cohort",
               "--degrade", "rate=6.25", "noise=0"]  # fmt: skip
    assert main(command) == 0
    cells = CellTable(f"{place}/out").read()
    assert len(cells) == 3 * (2 * 2 + 3), "three encoders; two cohorts squared; clean and two degradations"
    score = {(c.axis, c.trained, c.tested): c.result.headline.value for c in cells
             if c.result.encoder == "rate + morphology"}  # fmt: skip
    assert score["degradation", "clean", "noise=0"] > score["degradation", "clean", "clean"]
    version = CellTable(f"{place}/out")._table.version()
    assert main(command) == 0
    assert CellTable(f"{place}/out")._table.version() == version, "nothing is committed twice"
    assert main([*command, "--transfer-by", "wrist"]) == 2
