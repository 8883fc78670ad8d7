"""Encoders under other conditions: matrices of transfer between devices, curves of degradation and of few labels."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from xmae_dist.evaluate.encoders.degradation import TITLES, parse_degradation
from xmae_dist.evaluate.report.figures import INK, plain
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.scores.bootstrap import Interval
from xmae_dist.evaluate.scores.metrics import METRICS
from xmae_dist.evaluate.tasks import Task
from xmae_dist.evaluate.transfer.matrix import CLEAN, Cell, lost

LOSS_COLOUR, GAIN_COLOUR, EVEN_COLOUR = "#f4b8b0", "#b9dfc0", "#f2f2f2"


def transfer_matrices(by_encoder: Mapping[str, Sequence[Cell]], colour_of: Mapping[str, str]) -> Figure:
    """A matrix per encoder: rows trained on, columns tested on; shaded where a change of condition shows."""
    names = list(dict.fromkeys(c.tested for cells in by_encoder.values() for c in cells))
    side = 0.62 * len(names)
    width = min(10.5, len(by_encoder) * (1.5 + 1.75 * side))
    figure = Figure(figsize=(width, 1.0 + side), layout="constrained")
    for i, (panel, (encoder, cells)) in enumerate(
        zip(figure.subplots(1, len(by_encoder), squeeze=False)[0], by_encoder.items(), strict=True)
    ):
        _matrix(panel, cells, names, rows=i == 0)
        panel.set_title(encoder, fontsize=9.5, loc="left", weight="bold", color=colour_of.get(encoder, INK))
    return figure


def _matrix(panel: Axes, cells: Sequence[Cell], names: Sequence[str], *, rows: bool) -> None:
    home = {c.tested: c for c in cells if c.trained == c.tested}
    for cell in cells:
        x, y = names.index(cell.tested), names.index(cell.trained)
        at_home = cell.trained == cell.tested
        score = cell.result.headline
        change = Interval(value=0.0, low=0.0, high=0.0) if at_home else lost(cell, home[cell.tested])
        shade = EVEN_COLOUR if not change.excludes(0.0) else (LOSS_COLOUR if change.value < 0 else GAIN_COLOUR)
        face = "white" if at_home else shade
        panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fc=face, ec="#888888", lw=1.8 if at_home else 0.5))
        mark = "" if not change.excludes(0.0) else (" ▼" if change.value < 0 else " ▲")
        panel.text(x, y - 0.13, f"{score.value:.3g}{mark}", ha="center", va="center", fontsize=9, weight="bold")
        panel.text(x, y + 0.24, f"{score.low:.3g} to {score.high:.3g}", ha="center", va="center", fontsize=6.8)
    panel.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    panel.set_xticks(range(len(names)), [_short(n) for n in names], fontsize=8)
    panel.set_yticks(range(len(names)), [_short(n) for n in names] if rows else [""] * len(names), fontsize=8)
    panel.set_xlabel("tested on", fontsize=8.5)
    if rows:
        panel.set_ylabel("trained on", fontsize=8.5)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def _short(name: str) -> str:
    """A long name on two lines at its last hyphen, so that columns stay narrow."""
    front, hyphen, back = name.rpartition("-")
    return f"{front}-\n{back}" if hyphen and len(name) > 12 else name


def degradation_curves(by_encoder: Mapping[str, Sequence[Cell]], colour_of: Mapping[str, str]) -> Figure:
    """A panel per kind of degradation: score from clean (left) to worst (right), with intervals over subjects."""
    names = list(dict.fromkeys(c.tested for cells in by_encoder.values() for c in cells if c.tested != CLEAN))
    levels: dict[str, list[float]] = {}
    for name in names:
        found = parse_degradation(name)
        levels.setdefault(found.kind, []).append(found.level)
    figure = Figure(figsize=(10.5, 2.6), layout="constrained")
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    for panel, (kind, values) in zip(panels, levels.items(), strict=True):
        # Mildest first: a high rate and a high signal-to-noise ratio are mild, a high motion is not.
        ordered = sorted(values, reverse=kind != "motion")
        for i, cells in enumerate(by_encoder.values()):
            scores = {c.tested: c.result.headline for c in cells}
            curve = [scores[CLEAN], *(scores[f"{kind}={level:g}"] for level in ordered)]
            _curve(panel, np.arange(len(curve)) + 0.06 * (i - len(by_encoder) / 2), curve, cells[0].result, colour_of)
        panel.set_xticks(range(1 + len(ordered)), ["clean", *(f"{level:g}" for level in ordered)], fontsize=8.5)
        panel.set_xlabel(TITLES[kind], fontsize=8.5)
        plain(panel, "y")
    panels[0].set_ylabel(_axis(next(iter(by_encoder.values()))[0].result.task), fontsize=8.5)
    figure.legend(
        *panels[0].get_legend_handles_labels(), fontsize=8, frameon=False, loc="outside upper center", ncols=6
    )
    return figure


def few_label_curves(by_encoder: Mapping[str, Sequence[tuple[float, Result]]], colour_of: Mapping[str, str]) -> Figure:
    """Score against the number of labelled people, with intervals over subjects; the last point has all of them."""
    figure = Figure(figsize=(10.5, 2.9), layout="constrained")
    panel = figure.subplots()
    for i, curve in enumerate(by_encoder.values()):
        at = np.array([n for n, _ in curve]) * (1 + 0.015 * (i - len(by_encoder) / 2))
        _curve(panel, at, [r.headline for _, r in curve], curve[0][1], colour_of)
    panel.set_xscale("log")
    ticks = sorted({n for curve in by_encoder.values() for n, _ in curve})
    panel.set_xticks(ticks, [f"{n:g}" for n in ticks], fontsize=8.5)
    panel.minorticks_off()
    panel.set_xlabel("people with labels in training", fontsize=8.5)
    panel.set_ylabel(_axis(next(iter(by_encoder.values()))[0][1].task), fontsize=8.5)
    panel.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    plain(panel, "y")
    return figure


def _curve(
    panel: Axes, at: np.ndarray, scores: Sequence[Interval], result: Result, colour_of: Mapping[str, str]
) -> None:
    colour, encoder = colour_of[result.encoder], result.role == "encoder"
    value = [s.value for s in scores]
    panel.vlines(at, [s.low for s in scores], [s.high for s in scores], color=colour, lw=1.1, alpha=0.6)
    panel.plot(at, value, color=colour, lw=1.7, ls="-" if encoder else "--", marker="o", ms=4.5,
               mfc=colour if encoder else "white", label=result.encoder)  # fmt: skip


def _axis(task: Task) -> str:
    metric = METRICS[task.metric]
    unit = f", {task.label_unit}" if task.metric == "mae" and task.label_unit else ""
    return f"{metric.title}{unit} ({'↑' if metric.higher_is_better else '↓'} better)"
