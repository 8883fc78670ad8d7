"""Whether one bundle may take the place of another, by what evaluations say of both.

Each task that the present bundle was evaluated on is compared in its headline metric. Where both have predictions of
the same people, units and folds, the difference is paired by people; else its interval comes from both intervals, as
of independent samples. A margin says how much worse is still as good: an absolute one for scores with an upper end, a
share of the present error for errors. The change is refused where

- a task of the present bundle was not evaluated with the other,
- a task is worse by more than its margin, and the interval of the difference lies below zero, or
- the mean over tasks of (difference / margin) is below -1, and shown to be below zero, tasks taken as independent: what
  each is too small to tell they say together.

Memory: the results of two bundles in one evaluation (8 bytes a unit and prediction column).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xmae_dist.core.errors import InputError, some_of
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.evaluate.report.compare import difference, pairable
from xmae_dist.evaluate.results import Result, ResultTable
from xmae_dist.evaluate.scores.bootstrap import Interval
from xmae_dist.evaluate.scores.metrics import METRICS

WORSE, NOT_SHOWN, AS_GOOD, BETTER = "worse", "not shown", "as good", "better"
_NORMAL_95 = 1.959964

Key = tuple[str, str, str, int]
"""Task, what decides its numbers, protocol, labelled people."""


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How much worse is still as good."""

    score: float = 0.02
    """Of metrics that have an upper end (AUROC, F1, R², correlation, …): absolute."""
    error_share: float = 0.05
    """Of errors: a share of the present bundle's."""

    def of(self, metric: str, present: float) -> float:
        if math.isfinite(METRICS[metric].bounds[1]):
            return self.score
        return self.error_share * abs(present)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The results of one bundle in one evaluation."""

    evaluation: str
    version: int
    """Of the table of results."""
    results: Mapping[Key, Result]


@dataclass(frozen=True, kw_only=True)
class TaskVerdict:
    """One task: how the new bundle does against the present one."""

    task: str
    protocol: str
    labelled_subjects: int
    metric: str
    new: float
    present: float
    difference: Interval
    """Positive: the new bundle is better, whichever way the metric points."""
    margin: float
    paired: bool
    """By people, on equal units and folds."""
    n_subjects: int

    @property
    def verdict(self) -> str:
        d = self.difference
        if d.value < -self.margin and d.high < 0:
            return WORSE
        if d.low > 0:
            return BETTER
        return AS_GOOD if d.low >= -self.margin else NOT_SHOWN


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """All tasks, and what follows."""

    tasks: tuple[TaskVerdict, ...]
    missing: tuple[str, ...]
    """Tasks that the present bundle was evaluated on and the new one was not."""
    failure: str = ""
    """Why nothing could be compared."""

    @property
    def mean_in_margins(self) -> Interval:
        """Mean over tasks of difference / margin; NaN where no task has a margin."""
        counted = [one for one in self.tasks if one.margin > 0]
        if not counted:
            return Interval(value=math.nan, low=math.nan, high=math.nan)
        mean = sum(one.difference.value / one.margin for one in counted) / len(counted)
        return _normal(mean, math.hypot(*(one.difference.se / one.margin for one in counted)) / len(counted))

    def refusals(self) -> list[str]:
        """Why the new bundle may not take the place of the present one; empty where it may."""
        if self.failure:
            return [f"it cannot be compared: {self.failure}"]
        said = [f"not evaluated on {some_of(self.missing)}, which the present one was"] if self.missing else []
        if worse := [one.task for one in self.tasks if one.verdict == WORSE]:
            said.append(f"worse beyond its margin on {some_of(worse)}")
        mean = self.mean_in_margins
        if mean.value < -1 and mean.high < 0:
            said.append(f"worse by {-mean.value:.1f} margins on the mean of {len(self.tasks)} tasks")
        return said

    def to_dict(self) -> dict[str, Any]:
        tasks = [{**dataclasses.asdict(one), "verdict": one.verdict} for one in self.tasks]
        return {"tasks": [_finite(one) for one in tasks], "missing": list(self.missing), "refusals": self.refusals()}


def evidence(evaluation_url: str, model_id: str) -> Evidence:
    """What an evaluation found of a bundle. Raises InputError where it has nothing of it, or two of one task."""
    table = ResultTable(evaluation_url)
    found = table.read(encoders={model_id})
    if not found:
        there = table.encoders()
        raise InputError(
            f"evaluation {evaluation_url}",
            value=f"no result of bundle {model_id}",
            expected=f"results of it; there are some of {some_of(there) or 'none'}",
            fix=f"`xmae evaluate --bundle URL --out {evaluation_url}`, without --readout",
        )
    return Evidence(evaluation=evaluation_url, version=table.version(), results=_by_key(found))


def judge(new: Evidence, present: Evidence, margins: Margins) -> Judgement:
    """The new bundle against the present one, task by task. Raises InputError where they have no task in common."""
    shared = [key for key in present.results if key in new.results]
    if not shared:
        raise InputError(
            f"evaluation {new.evaluation}",
            value="no task that the present bundle was evaluated on",
            expected=f"some of {some_of(sorted({key[0] for key in present.results}))}, defined alike",
            fix="evaluate both bundles in one command",
        )
    return Judgement(
        tasks=tuple(_verdict(new.results[key], present.results[key], margins) for key in shared),
        missing=tuple(sorted({key[0] for key in present.results if key not in new.results})),
    )


def _by_key(results: Iterable[Result]) -> dict[Key, Result]:
    found: dict[Key, Result] = {}
    for one in results:
        key = (one.task.name, digest_json(one.task.identity()), one.protocol, one.labelled_subjects)
        if key in found:
            raise InputError(
                f"results of task {one.task.name}",
                value=f"two for {one.encoder!r}",
                expected="one evaluation (store, seed, bundle) in a folder",
                fix="use another --out for another evaluation",
            )
        found[key] = one
    return found


def _verdict(new: Result, present: Result, margins: Margins) -> TaskVerdict:
    metric, paired = new.task.metric, pairable(new, present)
    return TaskVerdict(
        task=new.task.name,
        protocol=new.protocol,
        labelled_subjects=new.labelled_subjects,
        metric=metric,
        new=new.headline.value,
        present=present.headline.value,
        difference=difference(new, present) if paired else _independent(metric, new.headline, present.headline),
        margin=margins.of(metric, present.headline.value),
        paired=paired,
        n_subjects=new.n_subjects,
    )


def _independent(metric: str, new: Interval, present: Interval) -> Interval:
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    return _normal(sign * (new.value - present.value), math.hypot(new.se, present.se))


def _normal(value: float, se: float) -> Interval:
    return Interval(value=value, low=value - _NORMAL_95 * se, high=value + _NORMAL_95 * se, se=se)


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    """Without NaN, which JSON does not have."""
    return {
        name: _finite(value) if isinstance(value, dict) else None if value != value else value
        for name, value in fields.items()
    }
