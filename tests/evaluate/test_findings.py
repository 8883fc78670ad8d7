"""What the report says of a task in words: against a constant, against the controls, in one precision."""

from __future__ import annotations

import json

import numpy as np
import pytest

from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.evaluate.encoders.pretrained import Pretrained
from xmae_dist.evaluate.report import findings
from xmae_dist.evaluate.report.compare import comparisons
from xmae_dist.evaluate.report.figures_tasks import calibration_bins
from xmae_dist.evaluate.report.sections import render
from xmae_dist.evaluate.report.write import as_json
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.scores.bootstrap import Interval, Predictions, Scored
from xmae_dist.evaluate.tasks import Task

AGE = Task(name="age", title="Age", label="age", kind="regression", unit="subject", label_unit="years")
SICK = Task(name="sick", title="Sick", label="sick", kind="binary", unit="subject")


def _result(task: Task, encoder: str, *, noise: float, people: int = 56, seed: int = 3) -> Result:
    """Predictions that are the truth with so much noise; `headline` from a plain normal interval."""
    rng = np.random.default_rng(seed)
    y_N = rng.normal(50, 10, people) if task.kind == "regression" else np.arange(people) % 2.0
    guess_N = y_N + noise * rng.normal(size=people)
    p = Predictions(
        subject_N=np.array([f"s{i:03d}" for i in range(people)]),
        y_N=y_N,
        pred_NC=(guess_N if task.kind == "regression" else 1 / (1 + np.exp(-guess_N)))[:, None],
        fold_N=np.arange(people) % 5,
    )
    value = float(np.abs(guess_N - y_N).mean()) if task.metric == "mae" else 1.0 - noise / 2
    near = Interval(value=value, low=0.9 * value, high=min(1.1 * value, 1.0 if task.metric == "auroc" else np.inf))
    return Result(
        request=f"{task.name}-{encoder}", suite="s", suite_title="Suite", task=task, encoder=encoder,
        encoder_id=f"id-{encoder}", role="encoder" if encoder == "xmae" else "control", store="w", seed=0,
        n_replicates=50, scores={task.metric: near, "r2": near, "mae": near, "auroc": near}, n_windows=people, n_fits=1,
        seconds=1.0, penalties={0: 1.0}, unit_names=p.subject_N, scored=Scored(predictions=p, train_Q=np.zeros(50)),
    )  # fmt: skip


def test_an_encoder_that_knows_the_label_beats_a_constant_and_one_that_does_not_does_not() -> None:
    knows, guesses = _result(AGE, "xmae", noise=1.0), _result(AGE, "xmae", noise=40.0)
    y_N = knows.scored.predictions.y_N
    assert findings.constant(knows) == pytest.approx(np.abs(y_N - y_N.mean()).mean())
    assert findings.beats_constant(knows) is True
    assert findings.beats_constant(guesses) is False
    assert findings.constants_beaten([[knows], [guesses]], "xmae") == (1, 2)
    assert findings.constant(_result(SICK, "xmae", noise=0.1)) == 0.5


def test_the_sentence_names_score_constant_and_controls() -> None:
    group = [_result(AGE, "xmae", noise=1.0), _result(AGE, "random init", noise=20.0, seed=4)]
    group[1] = Result(**{**vars(group[1]), "scored": _on_the_same_truth(group)})
    said = findings.sentence(group[0], group, comparisons(group))
    assert said.startswith("xmae has MAE 0.")
    assert "better than a constant (" in said and "better than random init" in said


def _on_the_same_truth(group: list[Result]) -> Scored:
    truth, p = group[0].scored.predictions.y_N, group[1].scored.predictions
    fixed = Predictions(subject_N=p.subject_N, y_N=truth, pred_NC=p.pred_NC, fold_N=p.fold_N)
    return Scored(predictions=fixed, train_Q=np.zeros(50))


def test_scores_of_a_task_have_one_precision() -> None:
    def of(*values: float) -> int:
        one = _result(AGE, "xmae", noise=1.0)
        made = (Interval(value=value, low=value - 2, high=value + 3) for value in values)
        return findings.decimals([Result(**{**vars(one), "scores": {"mae": score}}) for score in made])

    assert (of(4.27, 9.9), of(4.27, 12.0), of(0.08, 0.124), of(0.0), of(250.0)) == (2, 1, 3, 3, 0)


def test_few_people_make_few_calibration_bins() -> None:
    assert [calibration_bins(_result(SICK, "xmae", noise=0.5, people=n)) for n in (12, 56, 400)] == [2, 3, 10]


def test_the_page_and_json_say_which_encoders_these_are() -> None:
    results = [_result(SICK, "xmae", noise=0.3), _result(SICK, "random init", noise=0.4)]
    known = {
        "id-xmae": Pretrained(
            trained=True, split=SplitConfig(), cohorts=("icu",), url="s3://b/bundle", snapshot="abc123", steps=300,
            windows=19_200,
        ),
        "id-random init": Pretrained(trained=False),
    }  # fmt: skip
    found = comparisons(results)
    page = render(results, found, [], [], {}, known, {})
    for told in ("id-xmae", "s3://b/bundle", "abc123", "19,200", "pretrained on icu", "none: never trained"):
        assert told in page, told
    assert page.index("better than a constant") < page.index("<h2>Scores")
    assert "▲ 0" not in page and "▼ 0" not in page, "no mark and no colour where there is nothing"
    document = as_json(results, found, {}, known)
    assert json.loads(json.dumps(document["encoders"]))[0] == {
        "name": "xmae", "role": "encoder", "id": "id-xmae", "trained": True, "cohorts": ["icu"],
        "url": "s3://b/bundle", "run": "", "snapshot": "abc123", "steps": 300, "windows": 19_200,
    }  # fmt: skip
    assert [(r["constant"], r["better_than_constant"]) for r in document["results"]] == [(0.5, True)] * 2
