"""The picture of a corpus: hours per cohort and channel, subjects, quality, and an example of every cohort."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from xmae_dist.storage.inspect import Example, QualitySummary
from xmae_dist.storage.snapshot import Snapshot
from xmae_dist.storage.summary import CohortSummary

_JUDGEMENTS = {
    "good": ("no defect found", "#2a9d8f"),
    "missing": ("missing", "#bdbdbd"),
    "flat": ("flat", "#457b9d"),
    "clipped": ("clipped", "#f4a261"),
    "damaged": ("damaged", "#d62828"),
}
_LINE = "#264653"
_MOST_EXAMPLES = 8
_MOST_TRACES = 4


def draw(
    path: Path,
    snapshot: Snapshot,
    cohorts: list[CohortSummary],
    quality: list[QualitySummary],
    examples: list[Example],
) -> None:
    """Writes the picture (format by the suffix of `path`)."""
    shown = examples[:_MOST_EXAMPLES]
    traces = sum(min(_MOST_TRACES, len(one.traces)) for one in shown)
    bars = max(2.0, 0.35 * max(len(cohorts), len(quality) / 2))
    figure = Figure(figsize=(10.5, 1.6 + bars + 1.15 * traces), layout="constrained")
    grid = GridSpec(1 + traces, 3, figure=figure, height_ratios=[bars] + [1.0] * traces)
    _draw_hours(figure.add_subplot(grid[0, 0]), cohorts)
    _draw_subjects(figure.add_subplot(grid[0, 1]), cohorts)
    _draw_quality(figure.add_subplot(grid[0, 2]), quality)
    row = 1
    for example in shown:
        for channel, trace in list(example.traces.items())[:_MOST_TRACES]:
            _draw_trace(figure.add_subplot(grid[row, :]), example, channel, trace)
            row += 1
    people, named = len(snapshot.subjects()), "1 cohort" if len(cohorts) == 1 else f"{len(cohorts)} cohorts"
    figure.suptitle(f"{_name(snapshot.url)}: {people:,} subjects in {named}", fontsize=11)
    figure.supxlabel(
        f"{snapshot.url}, snapshot {snapshot.version}, {snapshot.fingerprint}", fontsize=6, color="#777777"
    )
    figure.savefig(path, dpi=130)


def _name(url: str) -> str:
    """The last part of a URL."""
    return f"Corpus “{url.rstrip('/').rsplit('/', 1)[-1]}”"


def _draw_hours(axes: Axes, cohorts: list[CohortSummary]) -> None:
    channels = sorted({channel.channel for cohort in cohorts for channel in cohort.channels})
    colours = matplotlib.colormaps["tab10"]
    height = 0.8 / len(channels)
    for i, name in enumerate(channels):
        hours = [sum(c.hours for c in cohort.channels if c.channel == name) for cohort in cohorts]
        places = [place + (i - (len(channels) - 1) / 2) * height for place in range(len(cohorts))]
        axes.barh(places, hours, height=height, label=name, color=colours(i % 10))
    _name_cohorts(axes, cohorts)
    _plain(axes, "hours recorded, by channel")
    axes.legend(fontsize=6, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)


def _draw_subjects(axes: Axes, cohorts: list[CohortSummary]) -> None:
    axes.barh(range(len(cohorts)), [cohort.subjects for cohort in cohorts], height=0.8, color=_LINE)
    names = [f"{one.cohort}\n{one.subjects:,} in {one.recordings:,} recordings" for one in cohorts]
    axes.set_yticks(range(len(cohorts)), names, fontsize=7)
    axes.invert_yaxis()
    _plain(axes, "subjects")


def _name_cohorts(axes: Axes, cohorts: list[CohortSummary]) -> None:
    axes.set_yticks(range(len(cohorts)), [cohort.cohort for cohort in cohorts], fontsize=8)
    axes.invert_yaxis()


def _draw_quality(axes: Axes, quality: list[QualitySummary]) -> None:
    left = [0.0] * len(quality)
    for judgement, (label, colour) in _JUDGEMENTS.items():
        shares = [100 * getattr(one, judgement) / max(1, one.windows) for one in quality]
        axes.barh(range(len(quality)), shares, left=left, color=colour, label=label)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(quality)), [f"{one.cohort} {one.channel}" for one in quality], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    _plain(axes, "% of sampled 10 s windows\n(noise and motion not checked)")
    axes.legend(fontsize=6, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0), frameon=False)


def _plain(axes: Axes, label: str) -> None:
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_trace(axes: Axes, example: Example, channel: str, trace: tuple) -> None:  # type: ignore[type-arg]
    times_s, values, unit = trace
    axes.plot(times_s, values, linewidth=0.8, color=_LINE)
    axes.set_ylabel(f"{channel}\n({unit})", fontsize=8)
    axes.set_xlabel("time (s)", fontsize=7)
    axes.set_title(f"{example.cohort} / {example.recording_id}", fontsize=7, loc="left", pad=2)
    axes.set_xlim(0, max(10.0, float(times_s[-1]) if len(times_s) else 10.0))
    axes.tick_params(labelsize=7)
