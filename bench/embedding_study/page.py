"""The study's page, written from rows and results: the finding first, what failed included."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bench.embedding_study import comparing
from bench.embedding_study.arms import CEILINGS, RATES, TOGETHER, TRAINED, UNTRAINED
from bench.embedding_study.comparing import ByArm, Difference
from bench.embedding_study.probing import CURVE_TASKS, SUITE, Moves
from xmae_dist.evaluate.scores.metrics import METRICS

Row = dict[str, Any]
_METRIC = {task.name: METRICS[task.metric] for task in SUITE.tasks}


def write(path: Path, differences: Path, rows: Sequence[Row], by_arm: ByArm, budget: int, moves: Moves) -> None:
    """The page at `path`, and each difference that it counts as a line of `differences`."""
    ceiling = comparing.headroom(by_arm, moves)
    found = comparing.differences(by_arm, ceiling, moves)
    differences.write_text("".join(json.dumps(_line(one, budget)) + "\n" for one in found))
    arms = [row for row in rows if row["kind"] == "arm" and row["windows"] in (0, budget)]
    parts = [
        _HEAD,
        _finding(found, ceiling, by_arm, budget),
        _tally(found),
        _scores(by_arm, ceiling),
        _shares(by_arm, ceiling),
        _errors(arms),
        _curves(arms),
        _rates(rows, budget),
        _method(arms, budget),
    ]
    path.write_text("\n\n".join(part for part in parts if part) + "\n")


_HEAD = """# What frozen embeddings know

Written by `make model-study` from `bench/results/embedding-study.jsonl` (a row for each arm and seed) and the
predictions kept with it; `bench/results/embedding-study-differences.jsonl` has every difference counted here, with its
interval. Reconstruction on an equal budget, `published` and `challenge2015` included, is another page:
[reconstruction-study.md](reconstruction-study.md)."""


def _finding(found: Sequence[Difference], ceiling: Mapping[str, float], by_arm: ByArm, budget: int) -> str:
    if not found or not ceiling:
        return "**No finding yet: chance, a ceiling or an arm to compare is missing.**"
    lead = found[0].arm
    trained = f"{budget:,} windows, {found[0].seeds} seed{'s' * (found[0].seeds > 1)}"
    lines = [f"**`{lead}` after {trained}, on {len(ceiling)} tasks with headroom:**"]
    for other in dict.fromkeys(one.other for one in found if one.arm == lead):
        lines.append(f"- against `{other}`: {_counted([o for o in found if (o.arm, o.other) == (lead, other)])}.")
    nulls = [name for name in by_arm["constant"] if name not in ceiling]
    lines.append(f"- Without headroom, so nulls: {', '.join(nulls) or 'none'}.")
    return "\n".join(lines)


def _counted(pair: Sequence[Difference]) -> str:
    real = [one for one in pair if one.p_holm == one.p_holm]
    better, worse = ([o for o in real if o.sign == sign] for sign in (1, -1))
    sure = {sign: sum(one.sure == sign for one in real) for sign in (1, -1)}
    text = f"better on {len(better)} ({sure[1]} after Holm), worse on {len(worse)} ({sure[-1]})"
    return text + (f": worse on {', '.join(one.task for one in worse)}" if worse else "")


def _tally(found: Sequence[Difference]) -> str:
    lines = [
        "## Pairs\n",
        "Paired differences on the same people, draws and folds; *better*, *worse*: the 95 % interval excludes zero;",
        "in brackets after Holm over tasks with headroom. *Nulls*: differences found where there is nothing to find.\n",
        "| arm | against | seeds | better | worse | no difference shown | nulls |\n|---|---|---|---|---|---|---|",
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
    return "\n".join(lines) if found else ""


def _undecided(real: Sequence[Difference]) -> int:
    return sum(one.sign == 0 for one in real)


def _scores(by_arm: ByArm, ceiling: Mapping[str, float]) -> str:
    lines = [
        "## Scores\n",
        "Mean over seeds; in the last columns chance and the better ceiling. MAE in the task's unit is better low.\n",
        "| task | " + " | ".join(f"`{arm}`" for arm in _shown(by_arm)) + " | chance | ceiling |",
        "|---" * (len(_shown(by_arm)) + 3) + "|",
    ]
    for task in _tasks(by_arm):
        cells = [_cell(by_arm[arm].get(task)) for arm in _shown(by_arm)]
        chance = _cell(by_arm.get("constant", {}).get(task))
        top = f"{ceiling[task]:.3f}" if task in ceiling else "null"
        lines.append(f"| {task}, {_METRIC[task].title} | {' | '.join(cells)} | {chance} | {top} |")
    return "\n".join(lines)


def _shares(by_arm: ByArm, ceiling: Mapping[str, float]) -> str:
    if not ceiling:
        return ""
    lines = [
        "## Share of the headroom\n",
        "0 % is chance, 100 % the better of two ceilings: a probe on the simulator's own state of each window, and one",
        "on the noiseless pulse. Both are linear probes, so an embedding may pass them.\n",
        "| task | " + " | ".join(f"`{arm}`" for arm in _shown(by_arm)) + " |",
        "|---" * (len(_shown(by_arm)) + 1) + "|",
    ]
    for task, top in ceiling.items():
        chance = comparing.score(by_arm["constant"][task])
        groups = [by_arm[arm].get(task) for arm in _shown(by_arm)]
        cells = [f"{100 * comparing.share(comparing.score(g), chance, top):.0f} %" if g else "" for g in groups]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _errors(arms: Sequence[Row]) -> str:
    lines = [
        "## Reconstruction\n",
        "Masked mean squared error on held-out people, of what an arm rebuilds.\n",
        "| arm | seeds | own | other | none | mean | CPU, s |\n|---|---|---|---|---|---|---|",
    ]
    for name in TRAINED:
        rows = [row for row in arms if row["arm"] == name]
        if rows:
            kinds = ("own", "other", "none", "mean")
            cells = [_spread([row["errors"][kind] for row in rows]) if rows[0]["errors"] else "" for kind in kinds]
            seconds = mean(row["cpu_s"] for row in rows)
            lines.append(f"| `{name}` | {len(rows)} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines) if len(lines) > 3 else ""


def _curves(arms: Sequence[Row]) -> str:
    lines = [
        "## Scores against windows seen\n",
        "All points but the last lie before the learning rate came to its end.\n",
    ]
    for task in CURVE_TASKS:
        rows = {name: [row for row in arms if row["arm"] == name and row.get("curve")] for name in TRAINED}
        rows = {name: group for name, group in rows.items() if group and task in group[0]["curve"][0][1]}
        if rows:
            seen = [point[0] for point in next(iter(rows.values()))[0]["curve"]]
            lines.append(f"| {task}, {_METRIC[task].title} | " + " | ".join(f"{n:,}" for n in seen) + " |")
            lines.append("|---" * (len(seen) + 1) + "|")
            for name, group in rows.items():
                cells = [_spread([row["curve"][i][1][task] for row in group]) for i in range(len(seen))]
                lines.append(f"| `{name}` | {' | '.join(cells)} |")
            lines.append("")
    return "\n".join(lines).rstrip() if len(lines) > 2 else ""


def _rates(rows: Sequence[Row], budget: int) -> str:
    lines = [
        "## Learning rates\n",
        "By the loss on validation people, at a quarter of the budget and the first seed. Arms with heads take that of",
        "the arm without.\n",
        "| objective | rate | validation loss | |\n|---|---|---|---|",
    ]
    for family in RATES:
        tried = [r for r in rows if (r["kind"], r["arm"], r["windows"]) == ("rate", family, budget // 4)]
        best = min(tried, key=lambda row: row["val_loss"], default=None)
        for row in sorted(tried, key=lambda row: row["lr"]):
            taken = "taken" if row is best and len(tried) == len(RATES[family]) else ""
            lines.append(f"| `{family}` | {row['lr']:g} | {row['val_loss']:.4f} | {taken} |")
    return "\n".join(lines) if len(lines) > 4 else ""


def _method(arms: Sequence[Row], budget: int) -> str:
    if not arms:
        return ""
    lines = ["## How\n"]
    for told in [row for row in arms if "train_people" in row][:1]:
        lines += [
            f"- Trained arms, size `tiny`: {budget:,} windows each in batches of 32,",
            f"  drawn from {told['train_windows']:,} windows of {told['train_people']} people.",
        ]
    lines += [
        f"- Probed: {arms[0]['probed_windows']:,} windows of {arms[0]['held_out']} other people; half of all are",
        "  at bedside monitors, half on telemetry units, ten minutes each. Nested folds by person; intervals by",
        "  resampling people, 1,000 draws.",
        "- Readout `spectrum` for every model: mean, standard deviation and log power of the tokens over time.",
        "- A recording or person is mean, standard deviation, least and largest of its windows (`--pooling moments`).",
    ]
    about = {**{name: arm.about for name, arm in TRAINED.items()}, **UNTRAINED}
    lines += [f"- `{name}`: {text}." for name, text in about.items() if any(row["arm"] == name for row in arms)]
    return "\n".join(lines)


def _shown(by_arm: ByArm) -> list[str]:
    order = [*TRAINED, "random", "features", *TOGETHER, *CEILINGS]
    return [name for name in order if name in by_arm]


def _tasks(by_arm: ByArm) -> list[str]:
    present = {task for tasks in by_arm.values() for task in tasks}
    return [task.name for task in SUITE.tasks if task.name in present]


def _cell(group: Sequence[Any] | None) -> str:
    return "" if not group else _spread([one.headline.value for one in group])


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread}"


def _line(one: Difference, budget: int) -> Row:
    found = {name: float(f"{getattr(one.found, name):.6g}") for name in ("value", "low", "high", "p_value")}
    holm = {"p_holm": float(f"{one.p_holm:.6g}")} if one.p_holm == one.p_holm else {}
    names = {"arm": one.arm, "other": one.other, "task": one.task, "seeds": one.seeds, "budget": budget}
    return {**names, **found, **holm}
