"""Rows of the study to a page of tables: mean and spread over seeds, and in words what beats `paper`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from xmae_dist.evaluate.scores.metrics import METRICS

Row = dict[str, Any]
_ORDER = (
    *("paper", "published", "tiny", "reversed", "joint", "symmetric", "ppg_mae_50", "ppg_mae_75", "ecg_mae_80"),
    *("clip", "random"),
)


def write(path: Path, rows: list[Row]) -> None:
    """The page at `path`, from whatever rows there are."""
    chosen = _chosen(rows)
    parts = [_HEAD, _rates(rows)]
    for dataset, windows in dict.fromkeys((row["dataset"], row["windows"]) for row in rows):
        runs = _by_preset(row for row in chosen if (row["dataset"], row["windows"]) == (dataset, windows))
        if runs:
            title = f"## {dataset}, {windows:,} windows"
            parts += [title, _budget(runs), _errors(runs), _probes(runs), _verdict(runs)]
    path.write_text("\n\n".join(part for part in parts if part) + "\n")


_HEAD = """# Equal budget: `paper`, `published` and the controls

Written by `make reconstruction-study` from `bench/results/reconstruction-study.jsonl`, a row for each run. Every
model saw the same windows in the same order and number of steps.

- **Errors** are masked mean squared errors on test subjects, of the signal that a model reconstructs (the ECG unless
  "PPG" is written beside its name), in windows scaled to [-1, 1]. *own*: with the window's own source; *other*: with
  another subject's; *none*: with zeros in its place; *mean*: every sample predicted as the mean of all masked samples,
  which differs between presets because their masks do. *own against other* is own / other - 1: below zero if the
  source is used. *windows to 10 %* is the number of windows seen at the first of 16 evaluations from which own stays at
  least 10 % below other, for each seed ("not": never). Presets with one signal have no other source, so own, other and
  none are the same.
- **Probes** are linear, on the frozen embedding of held-out subjects (n: how many have the label), cross-validated by
  subject. MAE, a mean absolute error, is better low: in years (age), beats/min (heart_rate), breaths/min
  (respiration_rate), mmHg (pressures), kg/m² (bmi) and ms (sdnn, pulse_arrival of simulated people; s of
  challenge2015). AUROC is better high. `ecg_mae_80` embeds the ECG, all others the PPG.
- **Cells** give the mean and, where there are several seeds, ± their standard deviation: the spread of training, not of
  subjects.

Two warnings. AUROCs far below 0.5 do not mean that a model knows the label in reverse: 44 people are few, the same
ones for every model, so such a column (potassium, heart failure, sex) is noise, and so is a name in the lists of what
is better on it. And `pulse_arrival` and `pulse_arrival_change` of challenge2015 are by an earlier definition in every
row made before 29 November 2026, which are all but those of `reversed`, `joint` and `symmetric`: the time to the next
foot, often another beat's (docs/adr/0012). Do not compare these three presets with others in these two columns."""


def _chosen(rows: list[Row]) -> list[Row]:
    """Rows but those of the learning rates that lost."""
    lost = {(row["preset"], row["lr"]) for row in _compared(rows) if row is not _best(rows, row)}
    return [row for row in rows if (row["preset"], row["lr"]) not in lost]


def _compared(rows: list[Row]) -> list[Row]:
    """Runs that differ from another in the learning rate alone."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["dataset"], row["windows"], row["preset"], row["seed"]].append(row)
    return [row for group in groups.values() if len(group) > 1 for row in group]


def _best(rows: list[Row], row: Row) -> Row:
    same = [r for r in rows if all(r[k] == row[k] for k in ("dataset", "windows", "preset", "seed"))]
    return min(same, key=lambda r: r["val_loss"])


def _by_preset(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["preset"]].append(row)
    return {name: found[name] for name in _ORDER if name in found}


def _rates(rows: list[Row]) -> str:
    compared = sorted(_compared(rows), key=lambda row: (_ORDER.index(row["preset"]), row["lr"]))
    lines = [
        "## Learning rates",
        "Of two rates, the one with the lower loss on validation subjects was chosen, with the first dataset and\n"
        "the first seed, and kept for all datasets and seeds. Presets that are not named use the rate of `paper`.\n"
        "Losses of presets with different objectives cannot be compared.\n",
        "| preset | rate | validation loss | |\n|---|---|---|---|",
    ]
    for row in compared:
        taken = "taken" if row is _best(rows, row) else ""
        lines.append(f"| `{row['preset']}` | {row['lr']:g} | {row['val_loss']:.4f} | {taken} |")
    return "\n".join(lines) if compared else ""


def _budget(runs: dict[str, list[Row]]) -> str:
    row = next(row for rows in runs.values() for row in rows)
    return (
        f"Batches of {row['batch']}, drawn from {row['train_pool']:,} windows of "
        f"{row['train_subjects']} subjects; errors on\n{row['test_windows']} windows of {row['test_subjects']} "
        "other subjects."
    )


def _errors(runs: dict[str, list[Row]]) -> str:
    lines = [
        "| preset | seeds | parameters | own | other | none | mean | own against other | windows to 10 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in runs.items():
        if rows[0]["errors"] is None:
            lines.append(f"| `{name}` | {len(rows)} | {rows[0]['parameters']:,} | reconstructs nothing | | | | | |")
            continue
        cells = [_spread([row["errors"][kind] for row in rows], 4) for kind in ("own", "other", "none", "mean")]
        gain = _spread([100 * (row["errors"]["own"] / row["errors"]["other"] - 1) for row in rows], 1)
        label = f"`{name}`" + (" (PPG)" if rows[0]["reconstructs"] == "ppg" else "")
        lines.append(
            f"| {label} | {len(rows)} | {rows[0]['parameters']:,} | {' | '.join(cells)} | {gain} % | {_reached(rows)} |"
        )
    return "\n".join(lines)


def _reached(rows: list[Row]) -> str:
    seen = [f"{row['windows_to_10_percent']:,}" if row["windows_to_10_percent"] else "not" for row in rows]
    return ", ".join(seen) if rows[0]["trained_windows"] else ""


def _probes(runs: dict[str, list[Row]]) -> str:
    tasks = _tasks(runs)
    if not tasks:
        return ""
    head = [f"{name}, {METRICS[about['metric']].title} (n = {about['subjects']})" for name, about in tasks.items()]
    lines = ["| preset | " + " | ".join(head) + " |", "|---|" + "---|" * len(head)]
    for name, rows in runs.items():
        cells = [_spread(_values(rows, task), 3) for task in tasks]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _tasks(runs: dict[str, list[Row]]) -> dict[str, Any]:
    return {task: about for rows in runs.values() for row in rows for task, about in row["probes"].items()}


def _values(rows: list[Row], task: str) -> list[float]:
    return [row["probes"][task]["value"] for row in rows if task in row["probes"]]


def _verdict(runs: dict[str, list[Row]]) -> str:
    """Who is better than `paper`, by mean over seeds, in each column; and whether seeds of the two overlap."""
    if "paper" not in runs:
        return ""
    lines = [
        "Better than `paper` by the mean over seeds. In bold: every seed of the preset is better than every seed of "
        "`paper`\n(only with two seeds or more; people are not resampled, so this is no test). `ecg_mae_80` masks "
        "otherwise, so its\nerror is not compared:\n"
    ]
    ecg = [name for name, rows in runs.items() if rows[0]["reconstructs"] == "ecg" and name != "ecg_mae_80"]
    columns: dict[str, tuple[Callable[[Row], float | None], bool, list[str]]] = {
        "masked ECG error (own)": (lambda row: row["errors"]["own"], False, ecg)
    }
    for task, about in _tasks(runs).items():
        get = lambda row, task=task: row["probes"].get(task, {}).get("value")  # noqa: E731
        columns[task] = (get, METRICS[about["metric"]].higher_is_better, list(runs))
    for column, (get, high, names) in columns.items():
        lines.append(f"- {column}: {_better(runs, names, get, high)}")
    return "\n".join(lines)


def _better(runs: dict[str, list[Row]], names: list[str], get: Callable[[Row], float | None], high: bool) -> str:
    sign = 1.0 if high else -1.0
    scores = {name: [sign * v for row in runs[name] if (v := get(row)) is not None] for name in names}
    own = scores.pop("paper", [])
    winners = [name for name, values in scores.items() if values and own and mean(values) > mean(own)]
    return (
        ", ".join(f"**`{n}`**" if len(scores[n]) > 1 and min(scores[n]) > max(own) else f"`{n}`" for n in winners)
        or "none"
    )


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return ""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"
