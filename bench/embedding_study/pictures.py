"""The study's two pictures: how far each task's headroom is used and against whom that is better, and the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from bench.embedding_study import comparing
from bench.embedding_study.arms import PAPER_SIZE, TRAINED
from bench.embedding_study.comparing import ByArm, Difference
from bench.embedding_study.probing import Probes
from xmae_dist.evaluate.report.figures import CONTROL_COLOURS, ENCODER_COLOURS, FAINT, INK
from xmae_dist.evaluate.scores.metrics import METRICS

Row = dict[str, Any]
HEADROOM, CURVES = "embedding-study-headroom.png", "embedding-study-curves.png"
FURTHER = "embedding-study-further-headroom.png"
_MARKS = {2: ("^", True), 1: ("^", False), 0: (".", True), -1: ("v", False), -2: ("v", True)}
"""Of a difference: twice its sign where it remains after Holm; a marker, filled or not."""


def draw(path: Path, found: Sequence[Difference], ceiling: Mapping[str, float], by_arm: ByArm) -> Path | None:
    """Shares of the headroom and the leading arm's differences, a row a task; None before there is a ceiling."""
    if not found or not ceiling:
        return None
    lead = found[0].arm
    arms = [name for name in ("random", "features", lead, f"features + {lead}") if name in by_arm]
    colour_of = dict(zip(arms, (CONTROL_COLOURS[1], INK, *ENCODER_COLOURS), strict=False))
    tasks = [task for task in ceiling if all(task in by_arm[name] for name in arms)]
    share_of = {name: [_share(by_arm, name, task, ceiling[task]) for task in tasks] for name in arms}
    order = sorted(range(len(tasks)), key=lambda k: share_of[lead][k])
    others = list(dict.fromkeys(one.other for one in found if one.arm == lead))

    figure = Figure(figsize=(11, 1.9 + 0.3 * len(tasks)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1.25, 1])
    for place, k in enumerate(order):
        left.plot([0, 100], [place, place], color=FAINT, lw=0.8, zorder=0)
        for name in arms:
            marker = "o" if name not in ("random", "features") else "D"
            left.plot(
                100 * share_of[name][k], place, marker, ms=6, color=colour_of[name], label=name if not place else None
            )
        for column, other in enumerate(others):
            _mark(right, column, place, next(o for o in found if (o.arm, o.other, o.task) == (lead, other, tasks[k])))
    left.axvline(100, color=INK, lw=0.8, ls=":")
    left.set_yticks(range(len(tasks)), [tasks[k] for k in order], fontsize=9)
    left.set_xlabel("share of the headroom, %: 0 is chance, 100 the better ceiling", fontsize=9)
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(arms), fontsize=8.5, frameon=False)
    rooms = {other: set(comparing.room(by_arm, other, tasks)) for other in others}
    for column, other in enumerate(others):
        for place, k in enumerate(order):
            if tasks[k] not in rooms[other]:
                right.axvspan(column - 0.5, column + 0.5, *_band(place, len(tasks)), color=FAINT, alpha=0.6, lw=0)
    right.set(xlim=(-0.5, len(others) - 0.5), ylim=(-0.5, len(tasks) - 0.5))
    right.set_xticks(range(len(others)), others, rotation=40, ha="right", fontsize=8.5)
    right.tick_params(length=0)
    right.set_title(
        f"{lead} against each control:\n▲ better, ▼ worse, filled after Holm;\n"
        "grey: no ceiling is shown to be better than the control",
        fontsize=9,
    )
    for axes in (left, right):
        axes.spines[["top", "right", "left"]].set_visible(False)
    return _saved(figure, path)


def draw_curves(folder: Path, arms: Sequence[Row], probes: Probes) -> Path | None:
    """Scores against windows seen, a panel a task: mean and span over seeds; None before an arm is trained.

    A larger arm is dashed, in the colour of the small one.
    """
    trained = {name: [row for row in arms if row["arm"] == name and row.get("curve")] for name in TRAINED}
    trained = {name: rows for name, rows in trained.items() if rows}
    if not trained:
        return None
    leads = [name for name in comparing.LEADS if name in trained]
    colour_of = dict(zip(leads, ENCODER_COLOURS, strict=False))
    rest = [name for name in trained if name not in leads and PAPER_SIZE.get(name) not in trained]
    tones = (*ENCODER_COLOURS[len(leads) :], *CONTROL_COLOURS)
    colour_of |= dict(zip(rest, (tones[k % len(tones)] for k in range(len(rest))), strict=True))
    colour_of |= {name: colour_of[PAPER_SIZE[name]] for name in trained if name not in colour_of}
    tasks = probes.suite.only(probes.curve_tasks).tasks
    columns = 3
    figure = Figure(figsize=(11, 3.1 * -(-len(tasks) // columns) + 0.6), layout="constrained")
    panels = figure.subplots(-(-len(tasks) // columns), columns, squeeze=False).ravel()
    for panel, task in zip(panels, tasks, strict=False):
        for name, rows in trained.items():
            known = [row["curve"] for row in rows if task.name in row["curve"][0][1]]
            if not known:
                continue
            seen = [point[0] for point in known[0]]
            values = [[curve[i][1][task.name] for curve in known] for i in range(len(seen))]
            panel.plot(
                seen,
                [mean(one) for one in values],
                "--o" if name in PAPER_SIZE else "-o",
                ms=3,
                lw=2 if name in leads else 1,
                color=colour_of[name],
                label=name,
            )
            if len(known) > 1:
                span = [min(one) for one in values], [max(one) for one in values]
                panel.fill_between(seen, *span, color=colour_of[name], alpha=0.12, lw=0)
        higher = METRICS[task.metric].higher_is_better
        unit = f", {task.label_unit}" if task.metric == "mae" and task.label_unit else ""
        panel.set_title(
            f"{task.name}: {METRICS[task.metric].title}{unit} ({'up' if higher else 'down'} is better)", fontsize=9
        )
        panel.set_xscale("log")
        panel.set_xlabel("windows seen", fontsize=8.5)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(tasks) :]:
        panel.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6), fontsize=8.5, frameon=False)
    return _saved(figure, folder / CURVES)


def _share(by_arm: ByArm, arm: str, task: str, top: float) -> float:
    return comparing.share(comparing.score(by_arm[arm][task]), comparing.score(by_arm["constant"][task]), top)


def _mark(axes: Any, column: int, place: int, one: Difference) -> None:
    marker, filled = _MARKS[2 * one.sign if one.sure else one.sign]
    colour = {1: ENCODER_COLOURS[0], -1: ENCODER_COLOURS[1], 0: CONTROL_COLOURS[1]}[one.sign]
    axes.plot(column, place, marker, ms=8 if one.sign else 3, color=colour, mfc=colour if filled else "white")


def _band(place: int, count: int) -> tuple[float, float]:
    """A row's span in shares of the axes' height."""
    return place / count, (place + 1) / count


def _saved(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    return path
