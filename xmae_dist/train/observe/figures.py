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

_INK, _REBUILT, _SOURCE, _SHADE = "#22303c", "#d1495b", "#2a7f9e", "#f0e6d2"
PARTS = ("forward", "backward", "optimizer", "communication", "data", "validation", "checkpoint", "other")
_SHARES = (
    "#2a7f9e", "#66a5bd", "#8d96a3", "#edae49", "#d1495b", "#66a182", "#22303c", "#cfd6dc", "#a56cc1", "#e08e79",
)  # fmt: skip
_SOURCES = {
    "own": ("own source", _REBUILT),
    "other": ("another subject's source", "#edae49"),
    "none": ("no source", "#66a182"),
    "mean": ("predicting the mean", "#8d96a3"),
}


def draw_run(run_url: str) -> list[str]:
    """Draws what the run has numbers for; returns the URLs of the pictures."""
    pictures = []
    rows = read_metrics(run_url)
    if rows:
        pictures.append(_store(curves(rows), uri.join(run_url, "figures", "curves.png")))
    panels = [url for url in uri.list_urls(uri.join(run_url, "figures")) if url.endswith(".npz")]
    if panels:
        with np.load(io.BytesIO(uri.read_bytes(panels[-1]))) as panel:
            pictures.append(_store(reconstructions(panel), uri.join(run_url, "figures", "reconstructions.png")))
    return pictures


def curves(rows: list[Row]) -> Figure:
    """Losses, validation errors, learning rate, speed, and what the time was spent on, over steps."""
    steps = [row for row in rows if row["kind"] == "step"]
    checks = [row for row in rows if row["kind"] == "validation"]
    figure = Figure(figsize=(15, 6.6), layout="constrained")
    axes = figure.subplots(2, 3)
    step = np.array([row["step"] for row in steps])
    loss = np.array([row["loss"] for row in steps])
    _curve(axes[0, 0], step, loss, "training loss (masked mean squared error)")
    axes[0, 0].plot(step, _smooth(loss), color=_REBUILT, lw=1.8, label="smoothed")
    axes[0, 0].legend(frameon=False)
    for name, (label, color) in _SOURCES.items():
        if checks and name in checks[0]:
            _points(axes[0, 1], checks, [row[name] for row in checks], label, color)
    axes[0, 1].set_title("held-out masked error by what the model was given", loc="left", fontsize=10)
    cohorts = sorted({name for row in checks for name in row.get("cohorts", {})})
    for name, color in zip(cohorts, _SHARES, strict=False):  # more than ten could not be told apart
        _points(axes[0, 2], checks, [row.get("cohorts", {}).get(name, np.nan) for row in checks], name, color)
    axes[0, 2].set_title("held-out masked error by cohort, own source", loc="left", fontsize=10)
    if checks:
        axes[0, 1].legend(frameon=False, fontsize=8)
        axes[0, 2].legend(frameon=False, fontsize=8)
    _curve(axes[1, 0], step, np.array([row["lr"] for row in steps]), "learning rate")
    speed = np.array([row["windows_per_s"] for row in steps])
    _curve(axes[1, 1], step, speed, "windows per second")
    axes[1, 1].set_ylim(0)
    _time_split(axes[1, 2], steps)
    for axis in axes.flat:
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _points(axis: Axes, checks: list[Row], values: list[float], label: str, color: str) -> None:
    axis.plot([row["step"] for row in checks], values, "o-", ms=3, color=color, label=label)


def _time_split(axis: Axes, steps: list[Row]) -> None:
    """Shares of the time of about 60 spans of steps, stacked."""
    spans = np.array_split(np.arange(len(steps)), min(len(steps), 60))
    seconds = np.array([[sum(steps[i].get(f"{part}_s", 0.0) for i in span) for span in spans] for part in PARTS])
    at = [steps[span[0]]["step"] for span in spans]
    axis.stackplot(at, seconds / np.maximum(seconds.sum(0), 1e-9), labels=PARTS, colors=_SHARES, step="post")
    axis.set_title("share of time (rank 0)", loc="left", fontsize=10)
    axis.set_ylim(0, 1)
    axis.legend(frameon=True, fontsize=7, ncols=2, loc="lower right")


def reconstructions(panel: Mapping[str, Any]) -> Figure:
    """Each window: its target with masked spans shaded and the reconstruction over it, its source below."""
    count = len(panel["ecg"])
    target, source = ("ecg", "ppg") if str(panel["reconstructs"]) == "ecg" else ("ppg", "ecg")
    columns = 2 if count > 1 else 1
    rows = -(-count // columns)
    figure = Figure(figsize=(7 * columns, 2.9 * rows), layout="constrained")
    figure.suptitle(
        f"Held-out windows after step {int(panel['step'])}: {target.upper()} reconstructed from {source.upper()}; "
        "shaded: hidden from the model",
        fontsize=11,
    )
    grids = figure.subfigures(rows, columns, squeeze=False)
    for number in range(count):
        upper, lower = grids[number // columns][number % columns].subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": [2, 1]}
        )
        _window(upper, lower, panel, number, target, source)
        if number == 0:
            upper.legend(frameon=False, fontsize=7, loc="upper right", ncols=2)
    return figure


def _window(upper: Axes, lower: Axes, panel: Mapping[str, Any], number: int, target: str, source: str) -> None:
    signal_L = panel[target][number]
    time_s = np.arange(len(signal_L)) / float(panel["rate_hz"])
    hidden_L = np.repeat(panel["mask"][number], len(signal_L) // panel["mask"].shape[1])
    upper.fill_between(time_s, 0, 1, where=hidden_L, transform=upper.get_xaxis_transform(), color=_SHADE, lw=0)
    upper.plot(time_s, signal_L, color=_INK, lw=0.9, label="recorded")
    upper.plot(
        time_s, np.where(hidden_L, panel["rebuilt"][number], np.nan), color=_REBUILT, lw=1.1, label="reconstructed"
    )
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
    axis.set_title(title, loc="left", fontsize=10)


def _smooth(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Running mean over about a fiftieth of the run, shorter at its ends."""
    half = max(1, len(y) // 100)
    total = np.concatenate([[0.0], np.cumsum(y)])
    start = np.maximum(np.arange(len(y)) - half, 0)
    stop = np.minimum(np.arange(len(y)) + half + 1, len(y))
    return (total[stop] - total[start]) / (stop - start)


def _store(figure: Figure, url: str) -> str:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130, facecolor="white")
    uri.write_bytes(url, picture.getvalue())
    return url
