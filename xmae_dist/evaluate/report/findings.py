"""What a task's results say in a sentence: against a constant prediction, and against the other encoders."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from xmae_dist.evaluate.report.compare import Comparison
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.scores.metrics import METRICS

_MOST_DECIMALS = 4


def constant(result: Result) -> float | None:
    """The score of a prediction that knows nothing of the signal: chance, or for an error that of always predicting
    the mean (for a Brier score the share of positives). None where a constant has no such score.
    """
    metric, y_N = result.task.metric, result.scored.predictions.y_N
    if metric == "mae":
        return float(np.abs(y_N - y_N.mean()).mean())
    if metric == "brier":
        return float(y_N.mean() * (1 - y_N.mean()))
    if metric == "balanced_accuracy":
        return 1.0 / max(2, result.scored.predictions.pred_NC.shape[1])
    return METRICS[metric].chance


def beats_constant(result: Result) -> bool | None:
    """Whether the whole interval is better than a constant; None where a constant has no score."""
    level = constant(result)
    if level is None:
        return None
    score = result.headline
    return score.low > level if METRICS[result.task.metric].higher_is_better else score.high < level


def decimals(group: Sequence[Result]) -> int:
    """Decimals for all scores of a task and their intervals: three significant digits of the largest score."""
    largest = max((abs(r.headline.value) for r in group if math.isfinite(r.headline.value)), default=0.0)
    if largest == 0.0:
        return _MOST_DECIMALS - 1
    return min(_MOST_DECIMALS, max(0, 2 - math.floor(math.log10(largest))))


def sentence(result: Result, group: Sequence[Result], found: Iterable[Comparison]) -> str:
    """What an encoder's result on a task means; `group`: all results of the task, `found`: their comparisons."""
    digits, score, level = decimals(group), result.headline, constant(result)
    unit = f" {result.task.label_unit}" if result.task.metric == "mae" and result.task.label_unit else ""
    value = f"{METRICS[result.task.metric].title} {score.value:.{digits}f}{unit}"
    parts = [f"{result.encoder} has {value} [{score.low:.{digits}f}, {score.high:.{digits}f}]"]
    if level is not None:
        said = "better than" if beats_constant(result) else "not shown to be better than"
        parts.append(f"{said} a constant ({level:.{digits}f})")
    mine = [c for c in found if (c.task, c.encoder) == (result.task.name, result.encoder)]
    for verdict, words in (
        ("better", "better than"),
        ("worse", "worse than"),
        ("no difference shown", "no difference shown from"),
    ):
        if others := [c.against for c in mine if c.verdict == verdict]:
            parts.append(f"{words} {', '.join(others)}")
    return "; ".join(parts)


def constants_beaten(groups: Iterable[Sequence[Result]], encoder: str) -> tuple[int, int]:
    """On how many tasks an encoder is shown to be better than a constant, and of how many that have one."""
    mine = [beats_constant(r) for group in groups for r in group if r.encoder == encoder]
    known = [beaten for beaten in mine if beaten is not None]
    return sum(known), len(known)
