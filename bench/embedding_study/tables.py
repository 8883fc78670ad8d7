"""Tables that pages of studies of embeddings share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from bench.embedding_study.arms import ATTENTIVE, CEILINGS, RANDOM, TOGETHER, TRAINED
from bench.embedding_study.comparing import ByArm, Difference
from bench.embedding_study.probing import Probes
from xmae_dist.evaluate.scores.metrics import METRICS
from xmae_dist.evaluate.tasks import Suite, Task

Row = dict[str, Any]


def counted(pair: Sequence[Difference]) -> str:
    """Of one pair: how many tasks are better and worse, and which are worse."""
    real = [one for one in pair if one.p_holm == one.p_holm]
    better, worse = ([o for o in real if o.sign == sign] for sign in (1, -1))
    sure = {sign: sum(one.sure == sign for one in real) for sign in (1, -1)}
    text = f"better on {len(better)} ({sure[1]} after Holm), worse on {len(worse)} ({sure[-1]} after Holm)"
    return text + (f": {', '.join(one.task for one in worse)}" if worse else "")


def tally(found: Sequence[Difference]) -> str:
    """Every pair, and how to read it."""
    lines = [
        "## Pairs\n",
        "Differences are paired: the same people, draws and folds. *better*, *worse*: tasks with headroom on which",
        "the 95 % interval of the difference excludes zero; in brackets those that remain after Holm's correction",
        "over these tasks. *nulls*: differences on tasks without headroom, where there is nothing to find.\n",
        pairs(found),
    ]
    return "\n".join(lines) if found else ""


def pairs(found: Sequence[Difference]) -> str:
    """A row a pair."""
    lines = [
        "| arm | against | seeds | better | worse | no difference shown | nulls |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, other in dict.fromkeys((one.arm, one.other) for one in found):
        pair = [one for one in found if (one.arm, one.other) == (arm, other)]
        real = [one for one in pair if one.p_holm == one.p_holm]
        cells = [
            f"{sum(o.sign == s for o in real)} ({sum(o.sure == s for o in real)})" if s else str(_undecided(real))
            for s in (1, -1, 0)
        ]
        nulls = sum(one.sign != 0 for one in pair if one not in real)
        lines.append(
            f"| `{arm}` | `{other}` | {pair[0].seeds} | {' | '.join(cells)} | {nulls} of {len(pair) - len(real)} |"
        )
    return "\n".join(lines)


def _undecided(real: Sequence[Difference]) -> int:
    return sum(one.sign == 0 for one in real)


def scores(by_arm: ByArm, suite: Suite, ceiling: Mapping[str, float]) -> str:
    """A row a task, a column an arm."""
    lines = [
        "## Scores\n",
        "Mean over seeds, ± their standard deviation. The last columns are chance and the better of the two ceilings.",
        "Of MAE, a mean absolute error, low values are better; of the other metrics, high ones.\n",
        "| task | " + " | ".join(f"`{arm}`" for arm in shown(by_arm)) + " | chance | ceiling |",
        "|---" * (len(shown(by_arm)) + 3) + "|",
    ]
    for one in tasks(by_arm, suite):
        task = one.name
        cells = [cell(by_arm[arm].get(task)) for arm in shown(by_arm)]
        chance = cell(by_arm.get("constant", {}).get(task))
        top = f"{ceiling[task]:.3f}" if task in ceiling else "null"
        lines.append(f"| {task}, {_metric(one)} | {' | '.join(cells)} | {chance} | {top} |")
    return "\n".join(lines)


def errors(trained: Sequence[Row]) -> str:
    """A row for each trained arm and learning rate, those included that are not compared."""
    lines = [
        "## Reconstruction and cost\n",
        "*own*, *other*, *none*, *mean*: masked mean squared error, on held-out people, of the signal that an arm",
        "reconstructs ([glossary](glossary.md#model-and-training)). *rank*: over how many directions the features of",
        "the embedding spread. The last columns are CPU seconds of one core: for 1,000 windows of training, and for",
        "the whole row with its probes and curves.\n",
        "| arm | learning rate | seeds | own | other | none | mean | rank | CPU s per 1,000 windows | CPU s in all |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    heading = len(lines)
    for name, lr in sorted({(row["arm"], row["lr"]) for row in trained if row["arm"] in TRAINED}):
        rows = [row for row in trained if (row["arm"], row["lr"]) == (name, lr)]
        kinds = ("own", "other", "none", "mean")
        cells = [spread([row["errors"][kind] for row in rows]) if rows[0]["errors"] else "" for kind in kinds]
        thousand = [1000 * row["train_s"] / row["windows"] for row in rows if "train_s" in row]
        rank = [f"{mean(row['rank'] for row in rows):.0f}" if all("rank" in row for row in rows) else ""]
        seconds = [f"{mean(thousand):.1f}" if thousand else "", f"{mean(row['cpu_s'] for row in rows):.0f}"]
        lines.append(f"| `{name}` | {lr:g} | {len(rows)} | {' | '.join(cells + rank + seconds)} |")
    return "\n".join(lines) if len(lines) > heading else ""


def curves(arms: Sequence[Row], probes: Probes) -> str:
    """A table a task: a row an arm, a column a number of windows."""
    lines = [
        "## Scores against windows seen\n",
        "A column for each number of windows seen. Only the last is of the finished schedule: before it, the learning",
        "rate had not yet fallen to zero.\n",
    ]
    heading = len(lines)
    for one in probes.suite.only(probes.curve_tasks).tasks:
        task = one.name
        rows = {name: [row for row in arms if row["arm"] == name and row.get("curve")] for name in TRAINED}
        rows = {name: group for name, group in rows.items() if group and task in group[0]["curve"][0][1]}
        if rows:
            seen = [point[0] for point in next(iter(rows.values()))[0]["curve"]]
            lines.append(f"| {task}, {_metric(one)} | " + " | ".join(f"{n:,}" for n in seen) + " |")
            lines.append("|---" * (len(seen) + 1) + "|")
            for name, group in rows.items():
                cells = [spread([row["curve"][i][1][task] for row in group]) for i in range(len(seen))]
                lines.append(f"| `{name}` | {' | '.join(cells)} |")
            lines.append("")
    return "\n".join(lines).rstrip() if len(lines) > heading else ""


def shown(by_arm: ByArm) -> list[str]:
    """Arms in the order of columns."""
    order = [*TRAINED, *RANDOM, "features", *TOGETHER, *ATTENTIVE, *CEILINGS]
    return [name for name in order if name in by_arm]


def tasks(by_arm: ByArm, suite: Suite) -> list[Task]:
    """Those that some arm was probed on."""
    present = {task for tasks in by_arm.values() for task in tasks}
    return [task for task in suite.tasks if task.name in present]


def _metric(task: Task) -> str:
    """Its name, and the unit of errors."""
    title = METRICS[task.metric].title
    return f"{title} in {task.label_unit}" if task.metric == "mae" and task.label_unit else title


def cell(group: Sequence[Any] | None) -> str:
    """Scores of an arm's seeds; empty where there are none."""
    return "" if not group else spread([one.value for one in group])


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several."""
    beside = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{beside}"
