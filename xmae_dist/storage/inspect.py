"""How signals of a corpus look: a quality overview from a fixed sample of them, and examples."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core import seeds
from xmae_dist.core.errors import IntegrityError
from xmae_dist.core.plausible import doubt
from xmae_dist.storage import index
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.snapshot import ORDER, Recording, Snapshot, read_row, recording_of
from xmae_dist.storage.summary import CohortSummary

WINDOW_S = 10.0


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


def sample_quality(snapshot: Snapshot, *, windows: int = 24, seed: int = 0) -> list[QualitySummary]:
    """Looks at up to `windows` windows of 10 s of every channel of every cohort; the same ones every time.

    The index is gone through once, in order and in five of its columns; of its rows those are read whole, and held,
    that are looked at.
    """
    drawn = [
        _Drawn.of(cohort, channel, rows, windows, seed)
        for cohort, content in snapshot.contents.items()
        for channel, rows in content.channels.items()
    ]
    _find_recordings(snapshot, {(one.cohort, one.channel): one for one in drawn})
    quality: list[QualitySummary] = []
    for cohort, of_it in itertools.groupby(drawn, key=lambda one: one.cohort):
        own = list(of_it)
        rows = _rows_of(snapshot, cohort, {name for one in own for name in one.recordings.values()})
        quality += [_quality(snapshot.url, one, rows) for one in own]
    return quality


@dataclass(kw_only=True)
class _Drawn:
    """Windows of one channel of one cohort that were drawn: of which of its rows, in order, and where in them."""

    cohort: str
    channel: str
    picks: Sequence[int]
    starts: Sequence[float]
    recordings: dict[int, str] = field(default_factory=dict)
    """The recording of each pick."""
    units: set[str] = field(default_factory=set)
    passed: int = 0

    @classmethod
    def of(cls, cohort: str, channel: str, rows: int, windows: int, seed: int) -> _Drawn:
        generator = seeds.generator("inspect", seed, cohort, channel)
        # In order of place, so that neighbouring windows share a chunk.
        picks = sorted(generator.integers(0, rows, windows).tolist())
        return cls(cohort=cohort, channel=channel, picks=picks, starts=generator.random(windows).tolist())

    def take(self, rows: pa.RecordBatch) -> None:
        """Keeps what was drawn of the next rows of this channel."""
        here = {at for at in self.picks if self.passed <= at < self.passed + rows.num_rows}
        self.recordings.update({at: rows["recording_id"][at - self.passed].as_py() for at in here})
        self.units.update(pc.unique(rows["unit"]).to_pylist())
        self.passed += rows.num_rows


def _find_recordings(snapshot: Snapshot, drawn: Mapping[tuple[str, str], _Drawn]) -> None:
    for batch in snapshot.ordered((*ORDER, "unit")):
        for cohort in pc.unique(batch["cohort"]):
            own = batch.filter(pc.equal(batch["cohort"], cohort))
            for channel in pc.unique(own["channel"]):
                drawn[cohort.as_py(), channel.as_py()].take(own.filter(pc.equal(own["channel"], channel)))


def _rows_of(snapshot: Snapshot, cohort: str, recordings: Iterable[str]) -> dict[tuple[str, str], IndexRow]:
    """All channels of some recordings of a cohort, by recording and channel: one scan, in which other columns are
    decoded where it finds them.
    """
    found = snapshot.cohort(cohort).table(filters=[("recording_id", "in", sorted(set(recordings)))])
    return {(row.recording_id, row.channel): row for row in index.from_arrow(found)}


def _quality(url: str, drawn: _Drawn, rows: Mapping[tuple[str, str], IndexRow]) -> QualitySummary:
    """`rows`: by recording and channel, all that were drawn."""
    picked = [rows[drawn.recordings[pick], drawn.channel] for pick in drawn.picks]
    looked = [_judge_row(url, row, at) for row, at in zip(picked, drawn.starts, strict=True)]
    seen = Counter(judgement for judgement, _ in looked)
    return QualitySummary(
        cohort=drawn.cohort,
        channel=drawn.channel,
        windows=len(drawn.picks),
        good=seen["good"],
        missing=seen["missing"],
        flat=seen["flat"],
        clipped=seen["clipped"],
        damaged=seen["damaged"],
        doubt=_doubt(drawn, [values for _, values in looked if values is not None]),
    )


def _doubt(drawn: _Drawn, values: Sequence[tuple[float, float]]) -> str | None:
    """What is implausible of the (level, spread) of sampled windows of a channel."""
    if not values or len(drawn.units) > 1:
        return None
    level, spread = np.median(np.array(values), axis=0)
    return doubt(drawn.channel, *drawn.units, level=float(level), spread=float(spread))


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


def examples(snapshot: Snapshot, summaries: Sequence[CohortSummary], *, seed: int = 0, tries: int = 8) -> list[Example]:
    """For every cohort of `summaries` the span of 10 s, among some tried, whose channels are best."""
    return [_example(snapshot, one.cohort, _tries(one, seed, tries)) for one in summaries]


def _example(snapshot: Snapshot, cohort: str, places: Sequence[tuple[int, float]]) -> Example:
    names = _recordings_at(snapshot.cohort(cohort), {at for at, _ in places})
    rows = sorted(_rows_of(snapshot, cohort, names.values()).items())
    channels = itertools.groupby((row for _, row in rows), key=lambda row: row.recording_id)
    found = {name: recording_of(list(own), snapshot.url) for name, own in channels}
    return _best_example(cohort, [(found[names[at]], where) for at, where in places])


def _recordings_at(snapshot: Snapshot, places: set[int]) -> dict[int, str]:
    """The recordings that stand at these places, in order, of all of one cohort."""
    found: dict[int, str] = {}
    passed, last = 0, None
    for batch in snapshot.ordered(ORDER):
        names = pc.run_end_encode(batch["recording_id"]).values
        if names[0].as_py() == last:
            names = names.slice(1)
        found |= {at: names[at - passed].as_py() for at in places if passed <= at < passed + len(names)}
        passed, last = passed + len(names), batch["recording_id"][-1].as_py()
    return found


def _tries(summary: CohortSummary, seed: int, tries: int) -> list[tuple[int, float]]:
    """(number of a recording in order, place in it from 0 to 1) of each try."""
    generator = seeds.generator("inspect example", seed, summary.cohort)
    return [(int(generator.integers(summary.recordings)), float(generator.random())) for _ in range(tries)]


def _best_example(cohort: str, tried: Sequence[tuple[Recording, float]]) -> Example:
    best, best_score = None, -1
    for recording, where in tried:
        start_s = where * max(0.0, recording.duration_s - WINDOW_S)
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
