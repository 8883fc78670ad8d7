"""Evaluations of bundles as their tables hold them: predictions of people, scored and committed as a fit's are."""

from __future__ import annotations

import numpy as np

from xmae_dist.evaluate.results import Result, ResultTable, request_id
from xmae_dist.evaluate.run import draws_of
from xmae_dist.evaluate.scores import bootstrap, metrics
from xmae_dist.evaluate.scores.bootstrap import Predictions, Scored
from xmae_dist.evaluate.tasks import Task

DRAWS = 300


def task_of(name: str, kind: str = "binary") -> Task:
    return Task(name=name, title=name, label=name, kind=kind, unit="subject")  # type: ignore[arg-type]


def result_of(model_id: str, task: Task, *, signal: float, people: int = 60, luck: int = 0, name: str = "s") -> Result:
    """A result whose predictions tell the truth by `signal` beside noise: of people, and of the bundle."""
    whose = np.random.default_rng([people, sum(task.name.encode())])
    y_N = np.arange(people) % 2 if task.kind == "binary" else whose.normal(60, 10, people)
    shared_N = whose.normal(0, 1, people)
    own_N = np.random.default_rng([luck, sum(model_id.encode()), sum(task.name.encode())]).normal(0, 0.5, people)
    told_N = signal * (y_N - np.mean(y_N)) + shared_N + own_N
    p = Predictions(
        subject_N=np.array([f"{name}{i:03d}" for i in range(people)]),
        y_N=y_N.astype(float),
        pred_NC=(told_N + (0 if task.kind == "binary" else 60))[:, None],
        fold_N=np.arange(people) // 2 % 5,
    )
    draws_RS = draws_of(task, people, 0, DRAWS)
    names = metrics.metrics_of(task.kind)
    return Result(
        request=request_id(model=model_id, task=task.identity(), people=people, name=name),
        suite="s",
        suite_title="s",
        task=task,
        encoder=model_id,
        encoder_id=model_id,
        role="encoder",
        store="store",
        seed=0,
        n_replicates=DRAWS,
        scores={one: bootstrap.score_interval(one, p, draws_RS) for one in names},
        n_windows=people,
        n_fits=5,
        seconds=0.1,
        penalties={},
        unit_names=p.subject_N,
        scored=Scored(predictions=p, train_Q=np.zeros(20)),
    )


def evaluated(url: str, *results: Result) -> str:
    """The URL of an evaluation that holds these results."""
    for one in results:
        ResultTable(url).commit(one)
    return url
