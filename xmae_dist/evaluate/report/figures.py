"""Forest plots of the report, and what all its figures share: colours, markers, axes.

One colour per encoder through all figures (Okabe & Ito's palette, safe for colour-blind readers); controls are grey
tones and open markers, so a print in black and white still tells them apart.
"""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from xmae_dist.evaluate.report.compare import Comparison
from xmae_dist.evaluate.report.findings import constant
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.scores.metrics import METRICS

ENCODER_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
CONTROL_COLOURS = ("#4d4d4d", "#8c8c8c", "#b3b3b3", "#666666", "#a6a6a6")
INK, FAINT = "#222222", "#d9d9d9"
# What fits above a panel of three in a row: a longer title would run into its neighbour.
_TITLE_CHARS = 32


def colours(results: list[Result]) -> dict[str, str]:
    """Encoder name -> colour, the same in every figure."""
    names = dict.fromkeys((r.encoder, r.role) for r in sorted(results, key=lambda r: (r.role != "encoder", r.encoder)))
    encoders = [name for name, role in names if role == "encoder"]
    controls = [name for name, role in names if role != "encoder"]
    chosen = {name: ENCODER_COLOURS[i % len(ENCODER_COLOURS)] for i, name in enumerate(encoders)}
    return chosen | {name: CONTROL_COLOURS[i % len(CONTROL_COLOURS)] for i, name in enumerate(controls)}


def score_forest(groups: dict[str, list[Result]], colour_of: dict[str, str]) -> Figure:
    """A panel per task: score and 95 % interval of each encoder, chance marked where it exists."""
    n_columns = 3
    n_rows = -(-len(groups) // n_columns)
    rows_each = max(len(group) for group in groups.values())
    # Titles of two lines stand below the axis labels of the row above.
    layout = ConstrainedLayoutEngine(h_pad=0.1)
    figure = Figure(figsize=(10.5, n_rows * (1.05 + 0.3 * rows_each)), layout=layout)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for i, (panel, group) in enumerate(zip(axes, groups.values(), strict=False)):
        _score_panel(panel, group, colour_of, names=i % n_columns == 0)
    for panel in axes[len(groups) :]:
        panel.set_visible(False)
    return figure


def _score_panel(panel: Axes, group: list[Result], colour_of: dict[str, str], *, names: bool) -> None:
    task, metric = group[0].task, METRICS[group[0].task.metric]
    for row, result in enumerate(group):
        score = result.headline
        panel.plot([score.low, score.high], [row, row], color=colour_of[result.encoder], lw=2.2, solid_capstyle="butt")
        _marker(panel, score.value, row, result, colour_of)
    if (level := constant(group[0])) is not None:
        panel.axvline(level, color=INK, lw=0.8, ls=":")
    panel.set_yticks(range(len(group)), [r.encoder for r in group] if names else [""] * len(group), fontsize=8.5)
    panel.set_ylim(len(group) - 0.4, -0.6)
    unit = f", {task.label_unit}" if task.metric == "mae" and task.label_unit else ""
    arrow = "→ better" if metric.higher_is_better else "← better"
    panel.set_title(textwrap.fill(task.title, _TITLE_CHARS), fontsize=9.5, loc="left", color=INK, weight="bold")
    panel.set_xlabel(f"{metric.title}{unit}  ({arrow})", fontsize=8.5)
    panel.margins(x=0.08)
    plain(panel, "x")


def difference_forest(rows: list[Comparison], titles: dict[str, str], colour_of: dict[str, str]) -> Figure:
    """One pair of encoders; each row a task, the difference in standard errors' units of its own interval.

    Differences of different metrics share no scale, so each is divided by its standard error; the interval is the true
    one, drawn in the same units, and rows carry the difference in the metric's own unit as text.
    """
    encoder, against = rows[0].encoder, rows[0].against
    figure = Figure(figsize=(10.5, 0.9 + 0.27 * len(rows)), layout="constrained")
    panel = figure.subplots()
    for y, row in enumerate(rows):
        _difference_row(panel, y, row, colour_of[encoder])
    panel.axvline(0, color=INK, lw=0.9)
    panel.set_yticks(range(len(rows)), [titles[c.task] for c in rows], fontsize=8.5)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    limit = max(4.0, *(1.1 * abs(v) for v in panel.get_xlim()))
    panel.set_xlim(-limit, limit)
    panel.set_title(f"{encoder} against {against}", fontsize=9.5, loc="left", weight="bold", color=INK)
    panel.set_xlabel(f"difference / its standard error   (← {against} better   {encoder} better →)", fontsize=8.5)
    plain(panel, "x")
    return figure


def _difference_row(panel: Axes, y: int, row: Comparison, colour: str) -> None:
    d, scale = row.difference, row.difference.se or 1.0
    clear = d.excludes(0.0)
    panel.plot([d.low / scale, d.high / scale], [y, y], color=colour, lw=2.2, alpha=1.0 if clear else 0.45)
    panel.plot(d.value / scale, y, "o", ms=6, color=colour if clear else "white", mec=colour, zorder=3)
    panel.annotate(
        _in_words(d.value, row.metric),
        (1.005, y),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8,
        color=INK,
    )


def _in_words(gain: float, metric: str) -> str:
    """A difference in the metric's own unit: `+0.0562 AUROC`, `1.31 more MAE`."""
    if METRICS[metric].higher_is_better:
        return f"{gain:+.3g} {METRICS[metric].title}"
    return f"{abs(gain):.3g} {'less' if gain >= 0 else 'more'} {METRICS[metric].title}"


def _marker(panel: Axes, x: float, y: float, result: Result, colour_of: dict[str, str]) -> None:
    colour = colour_of[result.encoder]
    panel.plot(x, y, "o", ms=6.5, mfc=colour if result.role == "encoder" else "white", mec=colour, mew=1.6, zorder=3)


def plain(panel: Axes, grid: str) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=grid, color=FAINT, lw=0.6)  # type: ignore[arg-type]
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=8.5)
    panel.xaxis.label.set_fontsize(8.5)
    panel.yaxis.label.set_fontsize(8.5)
