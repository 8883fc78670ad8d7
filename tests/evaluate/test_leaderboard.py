"""Files of results are whole in themselves: scores are computed from them again, and what is wrong in one is found."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from xmae_dist.cli.main import main
from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.evaluate import environment
from xmae_dist.evaluate.encoders.pretrained import Pretrained
from xmae_dist.evaluate.report import page, rows
from xmae_dist.evaluate.report.compare import difference
from xmae_dist.evaluate.report.leaderboard import board
from xmae_dist.evaluate.report.leaderboard_page import markdown
from xmae_dist.evaluate.report.rows import read
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.scores.bootstrap import Predictions, Scored
from xmae_dist.evaluate.tasks import Task
from xmae_dist.storage import parquet

FROZEN = Path(__file__).parent / "frozen"
TASKS = (
    Task(name="age", title="Age", label="age", kind="regression", unit="subject", label_unit="years"),
    Task(name="sick", title="Sick", label="sick", kind="binary", unit="subject"),
)
PEOPLE = 60


def result(task: Task, encoder: str, noise: float, *, people: int = PEOPLE) -> Result:
    """The truth with so much noise, the effect of training included."""
    rng = np.random.default_rng([len(encoder), round(10 * noise)])
    y_N = np.random.default_rng(0).normal(50, 10, people) if task.kind == "regression" else np.arange(people) % 2.0
    guess_N = y_N + noise * rng.normal(size=people) * (10 if task.kind == "regression" else 1)
    p = Predictions(
        subject_N=np.array([f"s{i:03d}" for i in range(people)]),
        y_N=y_N,
        pred_NC=(guess_N if task.kind == "regression" else 1 / (1 + np.exp(-guess_N)))[:, None],
        fold_N=np.arange(people) // 2 % 5,
    )
    made = Result(
        request=f"{task.name}-{encoder}", suite="made", suite_title="Made", task=task, encoder=encoder,
        encoder_id=f"id-{encoder}", role="encoder", store="w", seed=0, n_replicates=200, scores={}, n_windows=people,
        n_fits=1, seconds=1.0, penalties={0: 1.0}, unit_names=p.subject_N,
        scored=Scored(predictions=p, train_Q=0.01 * rng.normal(size=50)),
    )  # fmt: skip
    return dataclasses.replace(made, scores={task.metric: rows.recomputed(made)})


def write(path: Path, results: list[Result], known: dict[str, Pretrained] | None = None) -> str:
    path.write_bytes(rows.encoded(results, known or {}, {results[0].request: {"numpy": "2.0"}}))
    return f"file://{path}"


def test_a_file_gives_back_what_was_written_and_says_whom_pretraining_saw(tmp_path: Path) -> None:
    written = [result(task, "ours", 0.3) for task in TASKS]
    known = {"id-ours": Pretrained(trained=True, split=SplitConfig(train_subjects=("s001",)), cohorts=("made",))}
    told = list(read(write(tmp_path / "results.parquet", written, known)))
    assert [vars(one.result.headline) for one in told] == [
        pytest.approx(vars(one.headline), nan_ok=True) for one in written
    ]
    assert all(
        np.array_equal(one.result.scored.predictions.pred_NC, mine.scored.predictions.pred_NC)
        for one, mine in zip(told, written, strict=True)
    )
    split = known["id-ours"].split
    share = sum(split.of(f"s{i:03d}") == "train" for i in range(PEOPLE)) / PEOPLE
    assert [one.overlap for one in told] == [share] * 2 and 0 < share < 1
    assert [one.environment for one in told] == [{"numpy": "2.0"}, None]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_files_of_every_version_are_read(version: str) -> None:
    told = list(read(f"file://{FROZEN / f'results-{version}.parquet'}"))
    assert [one.result.task.name for one in told] == ["age", "sick"]
    assert [round(one.result.headline.value, 6) for one in told] == [2.281849, 0.994444]
    assert [one.overlap for one in told] == ([None, None] if version == "v1" else [1.0, 1.0])


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    table = parquet.decode((FROZEN / "results-v2.parquet").read_bytes())
    later = table.replace_schema_metadata({"format": "xmae-results/v3"})
    (tmp_path / "later.parquet").write_bytes(parquet.encode(later))
    with pytest.raises(InputError, match=r"xmae-results/v3; expected xmae-results/v2"):
        next(read(f"file://{tmp_path / 'later.parquet'}"))


def test_others_need_predictions_alone_and_are_compared_as_ours_are(tmp_path: Path) -> None:
    ours, theirs = (result(TASKS[0], name, noise) for name, noise in (("ours", 0.2), ("theirs", 0.9)))
    ours_url = write(tmp_path / "ours.parquet", [ours])
    row = {name: value for name, value in theirs.to_row().items() if name in rows.REQUIRED}
    (tmp_path / "theirs.parquet").write_bytes(parquet.encode(pa.Table.from_pylist([row])))
    made = board([*read(ours_url), *read(f"file://{tmp_path / 'theirs.parquet'}")], against="theirs")
    # The folds' and draws' seed and number are those of every evaluation unless a file says otherwise.
    assert made.found == []
    row |= {"n_replicates": 200}
    (tmp_path / "theirs.parquet").write_bytes(parquet.encode(pa.Table.from_pylist([row])))
    made = board([*read(ours_url), *read(f"file://{tmp_path / 'theirs.parquet'}")], against="theirs")
    (found,) = made.found
    plain = [
        dataclasses.replace(one, scored=dataclasses.replace(one.scored, train_Q=np.zeros(0))) for one in (ours, theirs)
    ]
    assert found.difference == difference(*plain) and found.verdict == "better"
    text = markdown(made, {})
    assert "- `ours`: better on 1 (1 after Holm), worse on 0 (0), of 1 with the same people and folds" in text
    assert "- `theirs`: best score on 0." in text and "not stated" in text


def test_a_changed_prediction_or_a_score_that_is_not_theirs_is_found(tmp_path: Path) -> None:
    row = result(TASKS[0], "ours", 0.3).to_row()
    for change, said in (
        ({"pred_value": np.zeros(PEOPLE)}, "predictions of task age"),
        ({"value": 0.1}, "mae of 'ours'"),
    ):
        (tmp_path / "bad.parquet").write_bytes(parquet.encode(pa.Table.from_pylist([row | change])))
        with pytest.raises(IntegrityError, match=said):
            list(read(f"file://{tmp_path / 'bad.parquet'}"))
    del row["pred_fold"]
    (tmp_path / "bad.parquet").write_bytes(parquet.encode(pa.Table.from_pylist([row])))
    with pytest.raises(InputError, match="no column pred_fold"):
        list(read(f"file://{tmp_path / 'bad.parquet'}"))


def test_other_people_are_shown_and_not_compared(tmp_path: Path) -> None:
    a = write(tmp_path / "a.parquet", [result(TASKS[1], "ours", 0.3)])
    b = write(tmp_path / "b.parquet", [result(TASKS[1], "elsewhere", 0.3, people=40)])
    made = board([*read(a), *read(b)])
    assert made.reference == "ours" and made.found == []
    assert "`elsewhere`: no task of the same people and folds" in markdown(made, {})
    assert "| sick | AUROC ↑ | 60 / 40 |" in markdown(made, {})


def test_an_encoder_has_one_result_on_a_task(tmp_path: Path) -> None:
    first, other = result(TASKS[0], "ours", 0.3), result(TASKS[0], "ours", 0.5)
    a, b = write(tmp_path / "a.parquet", [first]), write(tmp_path / "b.parquet", [other])
    assert len(board([*read(a), *read(a)]).by_task["age"]) == 1
    with pytest.raises(InputError, match="different predictions"):
        board([*read(a), *read(b)])
    renamed = write(tmp_path / "b.parquet", [dataclasses.replace(other, encoder_id="id-second")])
    assert list(board([*read(a), *read(renamed)]).names) == ["ours id-ours", "ours id-second"]


def test_the_command_writes_page_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = result(TASKS[0], "a|b <script>", 0.9)
    files = [str(write(tmp_path / f"{i}.parquet", [one])) for i, one in enumerate((result(TASKS[0], "ours", 0.2), odd))]
    assert main(["leaderboard", *files, "--out", str(tmp_path / "board.md")]) == 0
    text = (tmp_path / "board.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("| age | MAE, years ↓ | 60 |")]
    assert len(table) == 1 and "▼" in table[0] and "a\\|b &lt;script>" in text
    capsys.readouterr()
    assert main(["leaderboard", *files, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["encoder"] for one in told["scores"]] == ["ours", "a|b <script>"]
    assert told["differences"][0]["verdict"] == "worse" and len(told["files"][0]["sha256"]) == 64
    assert main(["leaderboard", files[0], "--against", "nobody"]) == 2


def test_fits_are_noted_with_what_made_them(tmp_path: Path) -> None:
    out = f"file://{tmp_path}"
    assert environment.recalled(out) == {}
    environment.remember(out, ["a", "b"])
    environment.remember(out, ["c"])
    found = environment.recalled(out)
    assert set(found) == {"a", "b", "c"} and found["a"] == environment.here()
    assert {"numpy", "torch", "python", "system"} <= set(found["c"])


def test_a_figure_names_the_rows_it_was_made_from() -> None:
    drawn = page.picture(b"", "a picture", rows=["one", "two", "one"])
    assert 'Made from 2 rows of <a href="results.parquet">' in drawn
    assert "<code>one</code> <code>two</code></details>" in drawn
    assert "<details>" not in page.picture(b"", "a picture of a run")
