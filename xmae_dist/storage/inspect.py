"""What a corpus holds: sums over the index, and a quality overview from a fixed sample of the signals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xmae_dist.core import seeds
from xmae_dist.core.errors import IntegrityError
from xmae_dist.core.plausible import doubt
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.snapshot import Recording, Snapshot, read_row

WINDOW_S = 10.0


@dataclass(frozen=True, kw_only=True)
class ChannelSummary:
    """One channel of one cohort."""

    channel: str
    recordings: int
    hours: float
    rates_hz: tuple[float, ...]
    units: tuple[str, ...]
    devices: tuple[str, ...]
    body_sites: tuple[str, ...]
    gap_fraction: float


@dataclass(frozen=True, kw_only=True)
class LabelSummary:
    """One label of one cohort: range of numbers, or the commonest texts with their counts."""

    name: str
    recordings: int
    least: float | None = None
    mean: float | None = None
    most: float | None = None
    texts: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class CohortSummary:
    """One cohort; `hours` counts each recording once, by its longest channel."""

    cohort: str
    subjects: int
    recordings: int
    hours: float
    clocks: int
    parts: int
    channels: tuple[ChannelSummary, ...]
    labels: tuple[LabelSummary, ...]


@dataclass(frozen=True, kw_only=True)
class QualitySummary:
    """Sampled windows of one channel of one cohort; a window is counted under the first thing wrong with it."""

    cohort: str
    channel: str
    windows: int
    good: int
    missing: int  # more than a tenth of the samples
    flat: int  # one value for more than half of the window
    clipped: int  # more than a twentieth of the samples at the window's own extremes
    damaged: int
    doubt: str | None = None  # what is implausible of its values in its unit, and the unit that would fit


@dataclass(frozen=True, kw_only=True)
class Example:
    """Traces of one span of one recording: per channel the times in seconds and the values in its unit."""

    cohort: str
    recording_id: str
    traces: dict[str, tuple[np.ndarray, np.ndarray, str]]


def summarise(snapshot: Snapshot) -> list[CohortSummary]:
    """One summary per cohort, from the index alone."""
    by_cohort: dict[str, list[Recording]] = {}
    for recording in snapshot.recordings():
        by_cohort.setdefault(recording.cohort, []).append(recording)
    return [_cohort(name, recordings) for name, recordings in sorted(by_cohort.items())]


def _cohort(name: str, recordings: list[Recording]) -> CohortSummary:
    by_channel: dict[str, list[IndexRow]] = {}
    for recording in recordings:
        for channel, row in recording.channels.items():
            by_channel.setdefault(channel, []).append(row)
    rows = [row for group in by_channel.values() for row in group]
    return CohortSummary(
        cohort=name,
        subjects=len({recording.subject_id for recording in recordings}),
        recordings=len(recordings),
        hours=sum(recording.duration_s for recording in recordings) / 3600,
        clocks=len({(row.recording_id, row.clock_id) for row in rows}),
        parts=len({row.part for row in rows}),
        channels=tuple(_channel(channel, group) for channel, group in sorted(by_channel.items())),
        labels=tuple(_labels(recordings)),
    )


def _channel(channel: str, rows: list[IndexRow]) -> ChannelSummary:
    gap_samples = sum(stop - start for row in rows for start, stop in row.gaps)
    return ChannelSummary(
        channel=channel,
        recordings=len(rows),
        hours=sum(row.duration_s for row in rows) / 3600,
        rates_hz=tuple(sorted({row.rate_hz for row in rows})),
        units=tuple(sorted({row.unit for row in rows})),
        devices=tuple(sorted({row.device for row in rows if row.device})),
        body_sites=tuple(sorted({row.body_site for row in rows if row.body_site})),
        gap_fraction=gap_samples / max(1, sum(row.length for row in rows)),
    )


def _labels(recordings: Sequence[Recording]) -> list[LabelSummary]:
    numbers: dict[str, list[float]] = {}
    texts: dict[str, Counter[str]] = {}
    for recording in recordings:
        for name, value in recording.labels.items():
            numbers.setdefault(name, []).append(value)
        for name, text in recording.label_text.items():
            texts.setdefault(name, Counter())[text] += 1
    summaries = []
    for name, values in sorted(numbers.items()):
        finite = np.array([value for value in values if np.isfinite(value)])
        bounds = (float(finite.min()), float(finite.mean()), float(finite.max())) if finite.size else (None,) * 3
        summaries.append(
            LabelSummary(name=name, recordings=len(finite), least=bounds[0], mean=bounds[1], most=bounds[2])
        )
    for name, counts in sorted(texts.items()):
        # The count decides, then the text: equal counts must not depend on the order of reading.
        common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:8]
        summaries.append(LabelSummary(name=name, recordings=sum(counts.values()), texts=tuple(common)))
    return summaries


def sample_quality(snapshot: Snapshot, *, windows: int = 24, seed: int = 0) -> list[QualitySummary]:
    """Looks at up to `windows` windows of 10 s of every channel of every cohort; the same ones every time."""
    groups: dict[tuple[str, str], list[IndexRow]] = {}
    for row in snapshot.rows():
        groups.setdefault((row.cohort, row.channel), []).append(row)
    summaries = []
    for (cohort, channel), rows in sorted(groups.items()):
        generator = seeds.generator("inspect", seed, cohort, channel)
        # In order of place, so that neighbouring windows share a chunk.
        picks = sorted(generator.integers(0, len(rows), windows))
        starts = generator.random(windows)
        looked = [_judge_row(snapshot.url, rows[i], at) for i, at in zip(picks, starts, strict=True)]
        seen = Counter(judgement for judgement, _ in looked)
        summaries.append(
            QualitySummary(
                cohort=cohort,
                channel=channel,
                windows=windows,
                good=seen["good"],
                missing=seen["missing"],
                flat=seen["flat"],
                clipped=seen["clipped"],
                damaged=seen["damaged"],
                doubt=_doubt(channel, rows, [values for _, values in looked if values is not None]),
            )
        )
    return summaries


def _doubt(channel: str, rows: Sequence[IndexRow], values: Sequence[tuple[float, float]]) -> str | None:
    """What is implausible of the (level, spread) of sampled windows of a channel."""
    if not values or len({row.unit for row in rows}) > 1:
        return None
    level, spread = np.median(np.array(values), axis=0)
    return doubt(channel, rows[0].unit, level=float(level), spread=float(spread))


def _judge_row(url: str, row: IndexRow, at: float) -> tuple[str, tuple[float, float] | None]:
    """The judgement of one window, and its level and spread where it has finite samples."""
    length = min(row.length, round(WINDOW_S * row.rate_hz))
    start = int(at * (row.length - length + 1))
    try:
        signal = read_row(url, row, start, start + length)
    except IntegrityError:
        return "damaged", None
    finite = signal[np.isfinite(signal)]
    if not finite.size:
        return judge(signal), None
    low, level, high = np.percentile(finite, [0.5, 50, 99.5])
    return judge(signal), (float(level), float(high - low))


def judge(signal: np.ndarray) -> str:
    """ "good", or the first thing wrong with a window (n,): "missing", "flat" or "clipped"."""
    finite = signal[np.isfinite(signal)]
    if finite.size < 0.9 * signal.size or not finite.size:
        return "missing"
    if np.unique(finite, return_counts=True)[1].max() > 0.5 * finite.size:
        return "flat"
    at_rails = (finite == finite.min()) | (finite == finite.max())
    return "clipped" if np.mean(at_rails) > 0.05 else "good"


def examples(snapshot: Snapshot, *, seed: int = 0, tries: int = 8) -> list[Example]:
    """For every cohort the span of 10 s, among some tried, whose channels are best."""
    by_cohort: dict[str, list[Recording]] = {}
    for recording in snapshot.recordings():
        by_cohort.setdefault(recording.cohort, []).append(recording)
    return [_best_example(cohort, recordings, seed, tries) for cohort, recordings in sorted(by_cohort.items())]


def _best_example(cohort: str, recordings: list[Recording], seed: int, tries: int) -> Example:
    generator = seeds.generator("inspect example", seed, cohort)
    best, best_score = None, -1
    for _ in range(tries):
        recording = recordings[int(generator.integers(len(recordings)))]
        start_s = float(generator.random()) * max(0.0, recording.duration_s - WINDOW_S)
        traces = {}
        for channel, row in sorted(recording.channels.items()):
            try:
                signal = recording.read(channel, start_s, start_s + WINDOW_S)
            except IntegrityError:
                continue
            traces[channel] = (np.arange(len(signal)) / row.rate_hz, signal, row.unit)
        score = sum(len(signal) > 0 and judge(signal) == "good" for _, signal, _ in traces.values())
        if score > best_score:
            best = Example(cohort=cohort, recording_id=recording.recording_id, traces=traces)
            best_score = score
    if best is None:
        raise ValueError("tries must be positive")
    return best
