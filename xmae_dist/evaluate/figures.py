"""Figures of the report, drawn from results alone; each function returns a matplotlib Figure.

One colour per encoder through all figures (Okabe & Ito's palette, safe for colour-blind readers); controls are grey
tones and open markers, so a print in black and white still tells them apart.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xmae_dist.evaluate.compare import Comparison
from xmae_dist.evaluate.metrics import METRICS, gained
from xmae_dist.evaluate.results import Result

ENCODER_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
CONTROL_COLOURS = ("#4d4d4d", "#8c8c8c", "#b3b3b3", "#666666")
INK, FAINT = "#222222", "#d9d9d9"
MAX_POINTS = 1500


def colours(results: list[Result]) -> dict[str, str]:
    """Encoder name -> colour, the same in every figure."""
    names = dict.fromkeys((r.encoder, r.role) for r in sorted(results, key=lambda r: (r.role != "encoder", r.encoder)))
    encoders = [name for name, role in names if role == "encoder"]
    controls = [name for name, role in names if role != "encoder"]
    chosen = {name: ENCODER_COLOURS[i % len(ENCODER_COLOURS)] for i, name in enumerate(encoders)}
    return chosen | {name: CONTROL_COLOURS[i % len(CONTROL_COLOURS)] for i, name in enumerate(controls)}


def score_forest(groups: dict[str, list[Result]], colour_of: dict[str, str]) -> Figure:
    """A panel per task: score and 95 % interval of each encoder, chance marked where it exists."""
    n_columns = min(3, len(groups))
    n_rows = -(-len(groups) // n_columns)
    rows_each = max(len(group) for group in groups.values())
    figure = Figure(figsize=(10.5, n_rows * (0.95 + 0.3 * rows_each)), layout="constrained")
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
    if (level := _without_signal(group[0])) is not None:
        panel.axvline(level, color=INK, lw=0.8, ls=":")
    panel.set_yticks(range(len(group)), [r.encoder for r in group] if names else [""] * len(group), fontsize=8.5)
    panel.set_ylim(len(group) - 0.4, -0.6)
    unit = f", {task.label_unit}" if task.metric == "mae" and task.label_unit else ""
    arrow = "→ better" if metric.higher_is_better else "← better"
    panel.set_title(task.title, fontsize=9.5, loc="left", color=INK, weight="bold", wrap=True)
    panel.set_xlabel(f"{metric.title}{unit}  ({arrow})", fontsize=8.5)
    panel.margins(x=0.08)
    _plain(panel, "x")


def _without_signal(result: Result) -> float | None:
    """The score of a prediction that knows nothing: chance, or for an error that of always saying the mean."""
    if result.task.metric == "mae":
        y_N = result.scored.predictions.y_N
        return float(np.abs(y_N - y_N.mean()).mean())
    return METRICS[result.task.metric].chance


def difference_forest(found: list[Comparison], titles: dict[str, str], colour_of: dict[str, str]) -> Figure:
    """A panel per pair of encoders; each row a task, the difference in standard errors' units of its own interval.

    Differences of different metrics share no scale, so each is divided by its standard error; the interval is the true
    one, drawn in the same units, and rows carry the difference in the metric's own unit as text.
    """
    pairs = list(dict.fromkeys((c.encoder, c.against) for c in found))
    tasks = list(dict.fromkeys(c.task for c in found))
    figure = Figure(figsize=(10.5, len(pairs) * (0.9 + 0.27 * len(tasks))), layout="constrained")
    panels = figure.subplots(len(pairs), 1, squeeze=False)[:, 0]
    for panel, (encoder, against) in zip(panels, pairs, strict=True):
        rows = [c for c in found if (c.encoder, c.against) == (encoder, against)]
        for y, row in enumerate(rows):
            _difference_row(panel, y, row, colour_of[encoder])
        panel.axvline(0, color=INK, lw=0.9)
        panel.set_yticks(range(len(rows)), [titles[c.task] for c in rows], fontsize=8.5)
        panel.set_ylim(len(rows) - 0.4, -0.6)
        limit = max(4.0, *(1.1 * abs(v) for v in panel.get_xlim()))
        panel.set_xlim(-limit, limit)
        panel.set_title(f"{encoder} against {against}", fontsize=9.5, loc="left", weight="bold", color=INK)
        panel.set_xlabel(f"difference / its standard error   (← {against} better   {encoder} better →)", fontsize=8.5)
        _plain(panel, "x")
    return figure


def _difference_row(panel: Axes, y: int, row: Comparison, colour: str) -> None:
    d, scale = row.difference, row.difference.se or 1.0
    clear = d.excludes(0.0)
    panel.plot([d.low / scale, d.high / scale], [y, y], color=colour, lw=2.2, alpha=1.0 if clear else 0.45)
    panel.plot(d.value / scale, y, "o", ms=6, color=colour if clear else "white", mec=colour, zorder=3)
    text = f"{d.value:+.3g} {gained(row.metric)}"
    panel.annotate(text, (1.005, y), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=INK)


def binary_detail(group: list[Result], colour_of: dict[str, str]) -> Figure:
    """ROC curves (average of the folds' curves) and a calibration plot of the out-of-fold probabilities."""
    figure = Figure(figsize=(8.2, 3.4), layout="constrained")
    roc, calibration = figure.subplots(1, 2)
    for result in group:
        style = {"color": colour_of[result.encoder], "lw": 1.8, "ls": "-" if result.role == "encoder" else "--"}
        grid, hits = _mean_roc(result)
        score = result.scores["auroc"].value
        roc.plot(grid, hits, label=f"{result.encoder}  {score:.3f}", **style)
        mean, share = _calibration(result)
        calibration.plot(mean, share, marker="o", ms=3.5, **style)
    for panel, x, y, title in (
        (roc, "false positive rate", "true positive rate", "ROC, mean of folds (AUROC)"),
        (calibration, "predicted probability", "observed share", "Calibration, tenths of predictions"),
    ):
        panel.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":")
        panel.set(xlabel=x, ylabel=y, aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        panel.set_title(title, fontsize=9.5, loc="left")
        _plain(panel, "both")
    roc.legend(fontsize=8, loc="lower right", frameon=False)
    return figure


def regression_detail(group: list[Result], colour_of: dict[str, str], mean_only: str) -> Figure:
    """Predicted against true, and Bland-Altman of the first encoder beside the last control."""
    shown = [group[0], *[r for r in group[1:] if r.encoder == mean_only]][:2]
    figure = Figure(figsize=(8.2, 3.0 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 2, squeeze=False)
    unit = f" ({group[0].task.label_unit})" if group[0].task.label_unit else ""
    for (scatter, agreement), result in zip(panels, shown, strict=True):
        y_N, guess_N = result.scored.predictions.y_N, result.scored.predictions.pred_NC[:, 0]
        pick = np.linspace(0, len(y_N) - 1, min(len(y_N), MAX_POINTS)).astype(int)
        dots: dict[str, Any] = {"s": 9, "alpha": 0.45, "color": colour_of[result.encoder], "lw": 0}
        scatter.scatter(y_N[pick], guess_N[pick], **dots)
        limits = [min(y_N.min(), guess_N.min()), max(y_N.max(), guess_N.max())]
        scatter.plot(limits, limits, color=INK, lw=0.8, ls=":")
        scores = result.scores
        scatter.set_title(
            f"{result.encoder}: MAE {scores['mae'].value:.3g}, R² {scores['r2'].value:.2f}", fontsize=9.5, loc="left"
        )
        scatter.set(xlabel=f"true{unit}", ylabel=f"predicted{unit}")
        _agreement(agreement, y_N[pick], guess_N[pick], guess_N - y_N, dots, unit)
        _plain(scatter, "both")
    return figure


def _agreement(
    panel: Axes, y_N: np.ndarray, guess_N: np.ndarray, error_N: np.ndarray, dots: dict[str, Any], unit: str
) -> None:
    panel.scatter((y_N + guess_N) / 2, guess_N - y_N, **dots)
    bias, spread = float(error_N.mean()), 1.96 * float(error_N.std(ddof=1))
    for level, style in ((bias, "-"), (bias - spread, "--"), (bias + spread, "--")):
        panel.axhline(level, color=INK, lw=0.9, ls=style)
    panel.set_title(f"Bland-Altman: bias {bias:+.2g}, limits ±{spread:.3g}", fontsize=9.5, loc="left")
    panel.set(xlabel=f"mean of true and predicted{unit}", ylabel=f"predicted − true{unit}")
    _plain(panel, "both")


def confusion_detail(group: list[Result], colour_of: dict[str, str]) -> Figure:
    """Row-normalised confusion matrix of each encoder."""
    figure = Figure(figsize=(min(10.5, 3.0 * len(group)), 3.1), layout="constrained")
    classes = [str(c if not isinstance(c, list | tuple) else "/".join(map(str, c))) for c in group[0].task.classes]
    for panel, result in zip(figure.subplots(1, len(group), squeeze=False)[0], group, strict=True):
        p = result.scored.predictions
        counts = np.zeros((len(classes), len(classes)))
        np.add.at(counts, (p.y_N.astype(int), p.pred_NC.argmax(axis=1)), 1)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(share.shape):
            panel.text(
                j,
                i,
                f"{share[i, j]:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[i, j] > 0.55 else INK,
            )
        panel.set_xticks(range(len(classes)), classes, fontsize=8)
        panel.set_yticks(range(len(classes)), classes, fontsize=8)
        panel.set_title(result.encoder, fontsize=9.5, color=colour_of[result.encoder])
        panel.set(xlabel="predicted", ylabel="true")
    return figure


def _mean_roc(result: Result) -> tuple[np.ndarray, np.ndarray]:
    p, grid, curves = result.scored.predictions, np.linspace(0, 1, 101), []
    for fold in np.unique(p.fold_N):
        here = p.fold_N == fold
        order = np.argsort(-p.pred_NC[here, 0], kind="stable")
        truth, score = p.y_N[here][order] > 0, p.pred_NC[here, 0][order]
        if truth.all() or not truth.any():
            continue
        ends = np.r_[np.flatnonzero(np.diff(score) != 0), len(score) - 1]
        hits, alarms = np.cumsum(truth)[ends] / truth.sum(), np.cumsum(~truth)[ends] / (~truth).sum()
        curves.append(np.interp(grid, np.r_[0.0, alarms], np.r_[0.0, hits]))
    return np.r_[0.0, grid], np.r_[0.0, np.mean(curves, axis=0)]


def _calibration(result: Result) -> tuple[np.ndarray, np.ndarray]:
    p = result.scored.predictions
    order = np.argsort(p.pred_NC[:, 0])
    tenths = [part for part in np.array_split(order, 10) if len(part)]
    return (np.array([p.pred_NC[part, 0].mean() for part in tenths]), np.array([p.y_N[part].mean() for part in tenths]))


def _marker(panel: Axes, x: float, y: float, result: Result, colour_of: dict[str, str]) -> None:
    colour = colour_of[result.encoder]
    panel.plot(x, y, "o", ms=6.5, mfc=colour if result.role == "encoder" else "white", mec=colour, mew=1.6, zorder=3)


def _plain(panel: Axes, grid: str) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=grid, color=FAINT, lw=0.6)  # type: ignore[arg-type]
    panel.set_axisbelow(True)
    panel.tick_params(labelsize=8.5)
