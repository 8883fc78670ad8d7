"""One task in detail: ROC and calibration, truth against prediction with Bland-Altman limits, confusion matrices."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xmae_dist.evaluate.report.compare import best
from xmae_dist.evaluate.report.figures import INK, plain
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.run import draws_of

MAX_POINTS = 1500
MAX_LINES = 6
MOST_BINS, PEOPLE_IN_BIN = 10, 15
_LEAST_RANGE = 0.2  # of the axes of a calibration


def shown(group: list[Result], limit: int) -> list[Result]:
    """Encoders of a task and its best controls, at most `limit`; the first encoder and the best control are in."""
    encoders = [r for r in group if r.role == "encoder"]
    controls = [r for r in group if r.role != "encoder"]
    ranked: list[Result] = []
    while controls:
        ranked.append(best(controls))
        controls.remove(ranked[-1])
    kept = encoders[: limit - 1] if ranked else encoders[:limit]
    return kept + ranked[: limit - len(kept)]


def binary_detail(group: list[Result], colour_of: dict[str, str]) -> Figure:
    """ROC curves (average of the folds' curves) and a calibration plot of the out-of-fold probabilities."""
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    roc, calibration = figure.subplots(1, 2)
    highest = _LEAST_RANGE
    for result in shown(group, MAX_LINES):
        style = {"color": colour_of[result.encoder], "lw": 1.8, "ls": "-" if result.role == "encoder" else "--"}
        grid, hits = _mean_roc(result)
        score = result.scores["auroc"].value
        roc.plot(grid, hits, label=f"{result.encoder}  {score:.3f}", **style)
        mean, share, low, high = _calibration(result)
        highest = max(highest, float(np.nanmax([mean, share])))
        if result.role == "encoder":
            calibration.vlines(mean, low, high, color=colour_of[result.encoder], lw=1.0, alpha=0.5)
            highest = max(highest, float(np.nanmax(high)))
        calibration.plot(mean, share, marker="o", ms=3.5, **style)
    for panel, x, y, title, end in (
        (roc, "false positive rate", "true positive rate", "ROC, mean of folds (AUROC)", 1.0),
        (
            calibration,
            "predicted probability",
            "observed share",
            f"Calibration, {calibration_bins(group[0])} bins of equal count",
            min(1.0, highest),  # of a rare label all points would lie in one corner
        ),
    ):
        limits = (-0.02 * end, 1.02 * end)
        panel.plot([0, end], [0, end], color=INK, lw=0.8, ls=":")
        panel.set(xlabel=x, ylabel=y, aspect="equal", xlim=limits, ylim=limits)
        panel.set_title(title, fontsize=9.5, loc="left")
        plain(panel, "both")
    roc.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def regression_detail(group: list[Result], colour_of: dict[str, str]) -> Figure:
    """Predicted against true and Bland-Altman, of the first encoder and of the best control, on the same axes."""
    pair = shown(group, 2)
    figure = Figure(figsize=(10.5, 2.75), layout="constrained")
    panels = figure.subplots(1, 2 * len(pair), squeeze=False)[0].reshape(len(pair), 2)
    unit = f" ({group[0].task.label_unit})" if group[0].task.label_unit else ""
    for (scatter, agreement), result in zip(panels, pair, strict=True):
        y_N, guess_N = result.scored.predictions.y_N, result.scored.predictions.pred_NC[:, 0]
        pick = np.linspace(0, len(y_N) - 1, min(len(y_N), MAX_POINTS)).astype(int)
        dots: dict[str, Any] = {"s": 7, "alpha": 0.45, "color": colour_of[result.encoder], "lw": 0}
        scatter.scatter(y_N[pick], guess_N[pick], **dots)
        scatter.axline((float(y_N.mean()), float(y_N.mean())), slope=1, color=INK, lw=0.8, ls=":")
        mae, r2 = result.scores["mae"].value, result.scores["r2"].value
        scatter.set_title(f"{result.encoder}\nMAE {mae:.3g}, R² {r2:.2f}", fontsize=9, loc="left")
        scatter.set(xlabel=f"true{unit}", ylabel=f"predicted{unit}")
        _agreement(agreement, result, pick, dots, unit)
        plain(scatter, "both")
    for column in panels.T:
        _same_limits(list(column))
    return figure


def _agreement(panel: Axes, result: Result, pick: np.ndarray, dots: dict[str, Any], unit: str) -> None:
    """Bland-Altman: bias and 1.96 standard deviations, each with its 95 % interval over subjects as a band.

    Bland & Altman 1986; people with several units weigh as often as they have units.
    """
    y_N, guess_N = result.scored.predictions.y_N, result.scored.predictions.pred_NC[:, 0]
    error_N = guess_N - y_N
    panel.scatter((y_N + guess_N)[pick] / 2, error_N[pick], **dots)
    weight_RN = _weights(result)
    mean_R = _share(weight_RN, error_N)
    spread_R = 1.96 * np.sqrt(np.maximum(_share(weight_RN, error_N**2) - mean_R**2, 0))
    bias, spread = float(error_N.mean()), 1.96 * float(error_N.std())
    for level, level_R, style in (
        (bias, mean_R, "-"),
        (bias - spread, mean_R - spread_R, "--"),
        (bias + spread, mean_R + spread_R, "--"),
    ):
        panel.axhline(level, color=INK, lw=0.9, ls=style)
        panel.axhspan(*np.nanquantile(level_R, [0.025, 0.975]), color=INK, alpha=0.08, lw=0)
    panel.set_title(f"Bland-Altman\nbias {bias:+.2g}, limits ±{spread:.3g}", fontsize=9, loc="left")
    panel.set(xlabel=f"mean of the two{unit}", ylabel=f"predicted − true{unit}")
    plain(panel, "both")


def _same_limits(panels: list[Axes]) -> None:
    for name in ("xlim", "ylim"):
        bounds = [getattr(panel, f"get_{name}")() for panel in panels]
        for panel in panels:
            panel.set(**{name: (min(b[0] for b in bounds), max(b[1] for b in bounds))})


def confusion_detail(group: list[Result], colour_of: dict[str, str]) -> Figure:
    """Row-normalised confusion matrix of encoders and the best control."""
    group = shown(group, 3)
    figure = Figure(figsize=(3.4 * len(group), 3.1), layout="constrained")
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


def calibration_bins(result: Result) -> int:
    """As many bins as leave some people in each: 3 for 56 people, 10 from 150 on."""
    return int(np.clip(result.n_subjects // PEOPLE_IN_BIN, 2, MOST_BINS))


def _calibration(result: Result) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability and share of positives in each bin of the predictions, with 95 % bounds over subjects."""
    p = result.scored.predictions
    order = np.argsort(p.pred_NC[:, 0])
    bins = [part for part in np.array_split(order, calibration_bins(result)) if len(part)]
    weight_RN = _weights(result)
    bounds = [np.nanquantile(_share(weight_RN[:, part], p.y_N[part]), [0.025, 0.975]) for part in bins]
    low, high = np.array(bounds).T
    mean = np.array([p.pred_NC[part, 0].mean() for part in bins])
    return mean, np.array([p.y_N[part].mean() for part in bins]), low, high


def _share(weight_RN: np.ndarray, value_N: np.ndarray) -> np.ndarray:
    total_R = weight_RN.sum(axis=1)
    return np.divide(weight_RN @ value_N, total_R, out=np.full(len(total_R), np.nan), where=total_R > 0)


def _weights(result: Result, most: int = 300) -> np.ndarray:
    """(R, N) how often each unit counts in the first draws of subjects."""
    code_N = np.unique(result.scored.predictions.subject_N, return_inverse=True)[1]
    draws_RS = draws_of(result.task, result.n_subjects, result.seed, min(result.n_replicates, most))
    return draws_RS[:, code_N]
