"""Encoders of several evaluations in one table, ours or not, computed from the predictions in their files.

No stated score is taken over: headlines, intervals and differences are computed here, from predictions whose digests
are checked. Two are compared where they predicted the same units of the same people in the same folds; where they did
not, both scores stand, and nothing is said of their difference. Memory: the predictions of all files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.evaluate.report.compare import Comparison, difference, pairable
from xmae_dist.evaluate.report.rows import Told
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.scores.bootstrap import Interval, holm
from xmae_dist.evaluate.scores.metrics import METRICS


@dataclass(frozen=True, kw_only=True)
class Board:
    """Every encoder on every task that it was evaluated on."""

    by_task: Mapping[str, Mapping[str, Told]]
    """By task (a name, with the suite's where two tasks share it), then by encoder."""
    names: Sequence[str]
    """Of encoders, in the order of the files."""
    reference: str
    found: Sequence[Comparison]
    """Each encoder against the reference, where both predicted the same; the task is a key of `by_task`."""

    def best(self, task: str) -> str:
        """The encoder with the best score, whether or not a difference is shown."""
        entries = self.by_task[task]
        sign = 1 if METRICS[next(iter(entries.values())).result.task.metric].higher_is_better else -1
        return max(entries, key=lambda name: sign * entries[name].result.headline.value)


def board(told: Iterable[Told], *, against: str = "", protocol: str = "linear") -> Board:
    """The table of all rows of one protocol with all labels. `against` is the reference; empty: the first encoder.

    Raises InputError where there are no rows, the reference is not among the encoders, or an encoder has two different
    results on a task.
    """
    rows = [one for one in told if one.result.protocol == protocol and not one.result.labelled_subjects]
    if not rows:
        raise InputError("leaderboard", value=f"no rows of protocol {protocol}", expected="one or more")
    name_of, task_of = _names(rows), _tasks(rows)
    by_task: dict[str, dict[str, Told]] = {}
    for one in rows:
        entries = by_task.setdefault(task_of[_identity(one)], {})
        _check_same(entries.setdefault(name_of[one.result.encoder_id], one), one)
    names = list(dict.fromkeys(name_of.values()))
    reference = against or names[0]
    if reference not in names:
        raise InputError("--against", value=against, expected=" | ".join(names))
    return Board(by_task=by_task, names=names, reference=reference, found=_against(by_task, names, reference))


def _names(rows: Sequence[Told]) -> dict[str, str]:
    """By identity: the encoder's name, with its identity where several have that name."""
    ids = dict.fromkeys((one.result.encoder, one.result.encoder_id) for one in rows)
    shared = {name for name, _ in ids if sum(name == other for other, _ in ids) > 1}
    return {identity: f"{name} {identity}" if name in shared else name for name, identity in ids}


def _tasks(rows: Sequence[Told]) -> dict[str, str]:
    """By identity of the task: its name, with the suite's where several have that name."""
    first: dict[str, Result] = {}
    for one in rows:
        first.setdefault(_identity(one), one.result)
    names = [result.task.name for result in first.values()]
    return {
        identity: result.task.name if names.count(result.task.name) == 1 else f"{result.task.name} ({result.suite})"
        for identity, result in first.items()
    }


def _identity(one: Told) -> str:
    return digest_json(one.result.task.identity())


def _check_same(first: Told, one: Told) -> None:
    """The same result may be in two files, another one of the same encoder may not."""
    a, b = first.result, one.result
    if not (_same_units(a, b) and np.array_equal(a.scored.predictions.pred_NC, b.scored.predictions.pred_NC)):
        raise InputError(
            f"task {b.task.name} of {b.encoder!r}",
            value=f"different predictions in {first.source} and {one.source}",
            expected="one result of an encoder on a task",
            fix="leave one of the files out, or give the encoders different names",
        )


def _against(by_task: Mapping[str, Mapping[str, Told]], names: Sequence[str], reference: str) -> list[Comparison]:
    """With Holm's correction over the tasks of a pair."""
    found = []
    for name in names:
        pairs = {
            task: paired
            for task, entries in by_task.items()
            if name != reference and {name, reference} <= set(entries)
            if (paired := _difference(entries[name].result, entries[reference].result)) is not None
        }
        adjusted = holm(np.array([one.p_value for one in pairs.values()]))
        found += [
            Comparison(
                task=task,
                encoder=name,
                against=reference,
                metric=by_task[task][name].result.task.metric,
                difference=one,
                p_holm=float(p_holm),
            )
            for (task, one), p_holm in zip(pairs.items(), adjusted, strict=True)
        ]
    return found


def _difference(a: Result, b: Result) -> Interval | None:
    """None where they did not predict the same. Not widened where either does not tell the effect of training."""
    if not all(len(one.scored.train_Q) for one in (a, b)):
        a, b = (replace(one, scored=replace(one.scored, train_Q=np.zeros(0))) for one in (a, b))
    return difference(a, b) if pairable(a, b) else None


def _same_units(a: Result, b: Result) -> bool:
    p, q = a.scored.predictions, b.scored.predictions
    return np.array_equal(a.unit_names, b.unit_names) and np.array_equal(p.fold_N, q.fold_N)
