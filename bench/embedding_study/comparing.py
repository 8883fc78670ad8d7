"""From results to what the page says: paired differences by people, Holm's correction, headroom.

A task has headroom where a ceiling is better than chance by an interval that excludes zero. Others are nulls: so
many people cannot show that anything of them is in a pulse, and a difference found there is a false one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.embedding_study.arms import ATTENTIVE, CEILINGS, LARGER, PAPER_SIZE, SEEDLESS, TOGETHER, TRAINED
from bench.embedding_study.score import Score, difference
from xmae_dist.evaluate.scores.bootstrap import Interval, holm
from xmae_dist.evaluate.scores.metrics import METRICS

LEADS = ("cross_beats", "cross")
ByTask = Mapping[str, Sequence[Score]]
"""Scores of an arm by task, one for each seed."""
ByArm = Mapping[str, ByTask]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`arm` against `other` on one task; positive: `arm` is better."""

    arm: str
    other: str
    task: str
    seeds: int
    found: Interval
    p_holm: float
    """Over the tasks with headroom of this pair; NaN for a null."""

    @property
    def sign(self) -> int:
        """1 better, -1 worse, 0 where the interval holds zero."""
        return int(np.sign(self.found.value)) if self.found.excludes(0.0) else 0

    @property
    def sure(self) -> int:
        """As `sign`, after Holm."""
        return self.sign if self.p_holm < 0.05 else 0


def headroom(by_arm: ByArm) -> dict[str, float]:
    """By task with headroom the best ceiling's score. Empty until chance and both ceilings are there."""
    if not {"constant", *CEILINGS} <= set(by_arm):
        return {}
    found = {}
    for task, chance in by_arm["constant"].items():
        clear = [by_arm[name][task] for name in CEILINGS if difference(by_arm[name][task], chance).low > 0]
        if clear:
            sign = 1 if METRICS[chance[0].metric].higher_is_better else -1
            found[task] = max((score(group) for group in clear), key=lambda value: sign * value)
    return found


def room(by_arm: ByArm, other: str, open_tasks: Iterable[str]) -> list[str]:
    """Tasks on which a ceiling is better than an arm: where so many people can show that anything is."""
    mine = by_arm[other]
    return [
        task
        for task in open_tasks
        if task in mine and any(difference(by_arm[name][task], mine[task]).low > 0 for name in CEILINGS)
    ]


def score(group: Sequence[Score]) -> float:
    """Mean over seeds."""
    return float(np.mean([one.value for one in group]))


def share(value: float, chance: float, ceiling: float) -> float:
    """Of the way from chance to the ceiling."""
    return (value - chance) / (ceiling - chance)


def pairs(arms: Iterable[str]) -> list[tuple[str, str]]:
    """Leads against all of their size that is no ceiling, what an embedding adds to features, and what size adds."""
    there = list(arms)
    rivals = [name for name in there if name not in (*CEILINGS, "constant", *TOGETHER, *ATTENTIVE, *LARGER)]
    found = [(lead, other) for lead in LEADS if lead in there for other in rivals if other != lead]
    both = [(name, "features") for name in TOGETHER if name in there and "features" in there]
    found += [(name, fixed) for name, fixed in ATTENTIVE.items() if {name, fixed} <= set(there)]
    found += [(name, small) for name, small in PAPER_SIZE.items() if {name, small} <= set(there)]
    leads = [name for name in PAPER_SIZE if PAPER_SIZE[name] in LEADS and name in there]
    found += [(lead, other) for lead in leads for other in (*LARGER, "features") if other in there and other != lead]
    return found + both + [(name, TOGETHER[name]) for name in TOGETHER if name in there and TOGETHER[name] in TRAINED]


def differences(by_arm: ByArm, open_tasks: Iterable[str]) -> list[Difference]:
    """Of every pair on every task that both have, at the seeds that both have."""
    counted = set(open_tasks)
    return [one for names in pairs(by_arm) for one in between(names, [by_arm[name] for name in names], counted)]


def between(names: Sequence[str], scores: Sequence[ByTask], open_tasks: Iterable[str]) -> list[Difference]:
    """Of the first of two against the second, on every task that both have, at the seeds that both have."""
    (arm, other), counted = names, set(open_tasks)
    tasks = [task for task in scores[0] if task in scores[1]]
    seeds = min(len(one[tasks[0]]) for name, one in zip(names, scores, strict=True) if name not in SEEDLESS)
    by_task = {task: difference(*(one[task][:seeds] for one in scores)) for task in tasks}
    real = [task for task in tasks if task in counted]
    adjusted = dict(zip(real, holm(np.array([by_task[task].p_value for task in real])), strict=True))
    return [
        Difference(arm=arm, other=other, task=task, seeds=seeds, found=one, p_holm=float(adjusted.get(task, np.nan)))
        for task, one in by_task.items()
    ]
