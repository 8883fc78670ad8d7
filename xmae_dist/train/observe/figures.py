"""Figures of a run, drawn from its stored metrics and panels alone, so they can be drawn again at any time.

Shapes: B windows, L samples, N patches. Masks are boolean, True where a patch is masked.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xmae_dist.storage import uri
from xmae_dist.train.observe.metrics import Row, read_metrics
from xmae_dist.train.observe.verdict import uses_source

_INK, _REBUILT, _SOURCE, _SHADE = "#22303c", "#d1495b", "#2a7f9e", "#f0e6d2"
PARTS = ("forward", "backward", "optimizer", "communication", "data", "validation", "checkpoint", "other")
_SHARES = (
    "#2a7f9e", "#66a5bd", "#8d96a3", "#edae49", "#d1495b", "#66a182", "#22303c", "#cfd6dc", "#a56cc1", "#e08e79",
)  # fmt: skip
_SOURCES = {
    "own": ("own source", _REBUILT, "o-"),
    "other": ("another subject's source", "#edae49", "s--"),
    "none": ("no source (zeros)", "#66a182", "^:"),
    "mean": ("no model: the mean", "#8d96a3", "-."),
}
_LEAST_SPAN = 0.1
"""Least height of an axis as a share of its values: noise must not look like a cliff."""


def draw_run(run_url: str) -> list[str]:
    """Draws what the run has numbers for; returns the URLs of the pictures."""
    pictures = []
    rows = read_metrics(run_url)
    if rows:
        pictures.append(_store(curves(rows), uri.join(run_url, "figures", "curves.png")))
    panels = [url for url in uri.list_urls(uri.join(run_url, "figures")) if url.endswith(".npz")]
    if panels:
        with np.load(io.BytesIO(uri.read_bytes(panels[-1]))) as panel:
            drawn = reconstructions(panel, _validated(rows, int(panel["step"])))
            pictures.append(_store(drawn, uri.join(run_url, "figures", "reconstructions.png")))
    return pictures


def _validated(rows: list[Row], step: int) -> Row | None:
    """The validation of a step, if there is one."""
    return next((row for row in rows if row["kind"] == "validation" and row["step"] == step), None)


def curves(rows: list[Row]) -> Figure:
    """Losses, validation errors, learning rate, speed, and what the time was spent on, over steps."""
    steps = [row for row in rows if row["kind"] == "step"]
    checks = [row for row in rows if row["kind"] == "validation"]
    figure = Figure(figsize=(10.5, 6.6), layout="constrained")
    axes = figure.subplots(2, 3)
    step = np.array([row["step"] for row in steps])
    loss = np.array([row["loss"] for row in steps])
    _curve(axes[0, 0], step, loss, "training loss (masked MSE)")
    axes[0, 0].plot(step, _smooth(loss), color=_REBUILT, lw=1.8, label="smoothed")
    _errors_by_source(axes[0, 1], checks)
    _errors_by_cohort(axes[0, 2], checks)
    _curve(axes[1, 0], step, np.array([row["lr"] for row in steps]), "learning rate")
    speed = np.array([row["windows_per_s"] for row in steps])
    _curve(axes[1, 1], step, speed, "windows per second")
    axes[1, 1].set_ylim(0)
    _time_split(axes[1, 2], steps)
    for axis in axes.flat:
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        _legend_below(axis)
    return figure


def _errors_by_source(axis: Axes, checks: list[Row]) -> None:
    for name, (label, color, style) in _SOURCES.items():
        if checks and name in checks[0]:
            axis.plot(*_points(checks, [row[name] for row in checks]), style, ms=3, color=color, label=label)
    _least_span(axis)
    said = "" if not checks or uses_source(checks[-1]) else "\nown is not clearly below other and none"
    axis.set_title(f"held-out masked error by input{said}", loc="left", fontsize=9)


def _errors_by_cohort(axis: Axes, checks: list[Row]) -> None:
    cohorts = sorted({name for row in checks for name in row.get("cohorts", {})})
    for name, color in zip(cohorts, _SHARES, strict=False):  # more than ten could not be told apart
        errors = [row.get("cohorts", {}).get(name, np.nan) for row in checks]
        axis.plot(*_points(checks, errors), "o-", ms=3, color=color, label=name)
    _least_span(axis)
    axis.set_title("held-out masked error by cohort, own source", loc="left", fontsize=9)


def _points(checks: list[Row], values: list[float]) -> tuple[list[int], list[float]]:
    return [row["step"] for row in checks], values


def _least_span(axis: Axes) -> None:
    """Widens an axis whose values differ by less than a share of themselves."""
    low, high = axis.get_ylim()
    middle, least = (low + high) / 2, _LEAST_SPAN * abs(low + high) / 2
    if axis.lines and high - low < least:
        axis.set_ylim(middle - least / 2, middle + least / 2)


def _legend_below(axis: Axes) -> None:
    """Below the axis, where it covers nothing."""
    if axis.get_legend_handles_labels()[1]:
        axis.legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _time_split(axis: Axes, steps: list[Row]) -> None:
    """Shares of the time of about 60 spans of steps, stacked."""
    spans = np.array_split(np.arange(len(steps)), min(len(steps), 60))
    seconds = np.array([[sum(steps[i].get(f"{part}_s", 0.0) for i in span) for span in spans] for part in PARTS])
    at = [steps[span[0]]["step"] for span in spans]
    axis.stackplot(at, seconds / np.maximum(seconds.sum(0), 1e-9), labels=PARTS, colors=_SHARES, step="post")
    axis.set_title("share of time (rank 0)", loc="left", fontsize=9)
    axis.set_ylim(0, 1)


def reconstructions(panel: Mapping[str, Any], errors: Mapping[str, float] | None = None) -> Figure:
    """Each window: its target with masked spans shaded and the reconstruction over it, its source below.

    `errors`: those of the validation of that step, for the title.
    """
    count = len(panel["ecg"])
    target, source = ("ecg", "ppg") if str(panel["reconstructs"]) == "ecg" else ("ppg", "ecg")
    columns = 2 if count > 1 else 1
    rows = -(-count // columns)
    figure = Figure(figsize=(5.25 * columns, 2.4 * rows + 0.5), layout="constrained")
    validated = f"   masked error: own {errors['own']:.4f}, none {errors['none']:.4f}" if errors else ""
    figure.suptitle(
        f"Held-out windows after step {int(panel['step'])}: {target.upper()} reconstructed from {source.upper()}"
        f"{validated}\nshaded: hidden from the model; black: recorded; red: reconstructed",
        fontsize=9,
    )
    grids = figure.subfigures(rows, columns, squeeze=False)
    for number in range(count):
        upper, lower = grids[number // columns][number % columns].subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": [2, 1]}
        )
        _window(upper, lower, panel, number, target, source)
    return figure


def _window(upper: Axes, lower: Axes, panel: Mapping[str, Any], number: int, target: str, source: str) -> None:
    signal_L = panel[target][number]
    time_s = np.arange(len(signal_L)) / float(panel["rate_hz"])
    hidden_L = np.repeat(panel["mask"][number], len(signal_L) // panel["mask"].shape[1])
    upper.fill_between(time_s, 0, 1, where=hidden_L, transform=upper.get_xaxis_transform(), color=_SHADE, lw=0)
    upper.plot(time_s, signal_L, color=_INK, lw=0.9)
    upper.plot(time_s, np.where(hidden_L, panel["rebuilt"][number], np.nan), color=_REBUILT, lw=1.1)
    error = float(np.mean((panel["rebuilt"][number] - signal_L)[hidden_L] ** 2))
    upper.set_title(f"{panel['captions'][number]}   (masked error {error:.3f})", fontsize=8, loc="left")
    lower.plot(time_s, panel[source][number], color=_SOURCE, lw=1.1)
    upper.set_ylabel(target.upper(), fontsize=8)
    lower.set_ylabel(source.upper(), fontsize=8)
    lower.set_xlabel("seconds", fontsize=8)
    lower.set_xlim(0, time_s[-1])
    for axis in (upper, lower):
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_yticks([])
        axis.tick_params(labelsize=7)


def _curve(axis: Axes, x: NDArray[np.int64], y: NDArray[np.float64], title: str) -> None:
    axis.plot(x, y, color="#b9c2cb" if "loss" in title else _SOURCE, lw=1)
    axis.set_title(title, loc="left", fontsize=9)


def _smooth(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean over about a fiftieth of the run, shorter at its ends."""
    half = max(1, len(y) // 100)
    total = np.concatenate([[0.0], np.cumsum(y)])
    start = np.maximum(np.arange(len(y)) - half, 0)
    stop = np.minimum(np.arange(len(y)) + half + 1, len(y))
    return (total[stop] - total[start]) / (stop - start)


def _store(figure: Figure, url: str) -> str:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150, facecolor="white")
    uri.write_bytes(url, picture.getvalue())
    return url
