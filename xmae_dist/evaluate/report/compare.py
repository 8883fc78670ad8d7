"""What the results say: encoders of a task side by side, paired differences, and how often one beats another."""

from dataclasses import dataclass

import numpy as np

from xmae_dist.core.errors import InputError
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.run import draws_of
from xmae_dist.evaluate.scores.bootstrap import Interval, holm, paired_difference
from xmae_dist.evaluate.scores.metrics import METRICS


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Score of `encoder` minus that of `against` on one task; positive means `encoder` is better."""

    task: str
    encoder: str
    against: str
    metric: str
    difference: Interval
    p_holm: float

    @property
    def verdict(self) -> str:
        if not self.difference.excludes(0.0):
            return "no difference shown"
        return "better" if self.difference.value > 0 else "worse"


@dataclass(frozen=True, kw_only=True)
class Tally:
    """On how many tasks an encoder is better or worse than another with an interval that excludes zero."""

    encoder: str
    against: str
    better: int
    worse: int
    tasks: int
    better_after_holm: int
    worse_after_holm: int


def by_task(results: list[Result], *, protocol: str = "linear", labelled_subjects: int = 0) -> dict[str, list[Result]]:
    """Results of each task by one protocol, encoders before controls.

    Raises InputError when there are none at all, or two of one encoder: seeds are mixed.
    """
    if not results:
        raise InputError("results", value="none", expected="one or more", fix="run `xmae evaluate` first")
    groups: dict[str, list[Result]] = {}
    asked = [r for r in results if (r.protocol, r.labelled_subjects) == (protocol, labelled_subjects)]
    for result in sorted(asked, key=lambda r: (r.role != "encoder", r.encoder)):
        group = groups.setdefault(result.task.name, [])
        if any(r.encoder == result.encoder for r in group):
            raise InputError(
                f"results of task {result.task.name}",
                value=f"two for {result.encoder!r}",
                expected="one evaluation (store, seed, bundle) in a folder",
                fix="use another --out for another evaluation",
            )
        group.append(result)
    return groups


def comparisons(results: list[Result], *, protocol: str = "linear", labelled_subjects: int = 0) -> list[Comparison]:
    """Each encoder against every other encoder and control of its task, with Holm's correction over tasks."""
    groups = by_task(results, protocol=protocol, labelled_subjects=labelled_subjects).values()
    found = [(a, b, _difference(a, b)) for group in groups for a, b in _pairs(group)]
    adjusted: dict[tuple[str, str, str], float] = {}
    for pair in {(a.encoder, b.encoder) for a, b, _ in found}:
        same = [(a, b, d) for a, b, d in found if (a.encoder, b.encoder) == pair]
        p_values = holm(np.array([d.p_value for _, _, d in same]))
        adjusted |= {(a.task.name, *pair): float(p) for (a, _, _), p in zip(same, p_values, strict=True)}
    return [
        Comparison(
            task=a.task.name, encoder=a.encoder, against=b.encoder, metric=a.task.metric, difference=d,
            p_holm=adjusted[a.task.name, a.encoder, b.encoder],
        )
        for a, b, d in found
    ]  # fmt: skip


def tallies(found: list[Comparison]) -> list[Tally]:
    pairs = dict.fromkeys((c.encoder, c.against) for c in found)
    rows = {pair: [c for c in found if (c.encoder, c.against) == pair] for pair in pairs}
    return [
        Tally(
            encoder=encoder,
            against=against,
            better=sum(c.verdict == "better" for c in same),
            worse=sum(c.verdict == "worse" for c in same),
            tasks=len(same),
            better_after_holm=sum(c.verdict == "better" and c.p_holm < 0.05 for c in same),
            worse_after_holm=sum(c.verdict == "worse" and c.p_holm < 0.05 for c in same),
        )
        for (encoder, against), same in rows.items()
    ]


def best(group: list[Result]) -> Result:
    """The result with the best headline score."""
    sign = 1 if METRICS[group[0].task.metric].higher_is_better else -1
    return max(group, key=lambda r: sign * r.headline.value)


def _pairs(group: list[Result]) -> list[tuple[Result, Result]]:
    return [
        (a, b) for i, a in enumerate(group) if a.role == "encoder" for b in group[i + 1 :] if b.role != "checkpoint"
    ]


def pairable(a: Result, b: Result) -> bool:
    """Whether two results are of one task's same people, units, truths, folds and draws."""
    p, q = a.scored.predictions, b.scored.predictions
    same = (
        (a.unit_names, b.unit_names), (p.subject_N, q.subject_N), (p.y_N, q.y_N), (p.fold_N, q.fold_N)
    )  # fmt: skip
    drawn = [(one.task.identity(), one.seed, one.n_replicates, len(one.scored.train_Q)) for one in (a, b)]
    return drawn[0] == drawn[1] and all(np.array_equal(left, right) for left, right in same)


def difference(a: Result, b: Result) -> Interval:
    """Headline score of `a` minus that of `b`, paired by people; positive means `a` is better. They are `pairable`."""
    draws_RS = draws_of(a.task, a.n_subjects, a.seed, a.n_replicates)
    return paired_difference(a.task.metric, a.scored, b.scored, draws_RS)


def _difference(a: Result, b: Result) -> Interval:
    if not pairable(a, b):
        raise InputError(
            f"results of task {a.task.name}",
            value=f"{a.encoder!r} and {b.encoder!r} predicted different units",
            expected="the same windows, folds and seed",
            fix="evaluate both in one command",
        )
    return difference(a, b)
