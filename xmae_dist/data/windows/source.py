"""What windows are cut from: a recording whose channels share a clock, or one that was aligned with others.

A source recording on a clock of its own gives the windows of every target recording of its subject that it was
aligned with; pairs that were not trusted give none, and are counted. The target's clock is the grid: the source is
resampled onto it, stretch by stretch of steady drift.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xmae_dist.data.clocks.alignment import AlignedPair, PairEstimate
from xmae_dist.data.clocks.pairing import Candidate, PairConfig, candidates
from xmae_dist.data.windows.cutting import WindowBatch, cut, window_starts
from xmae_dist.data.windows.spans import (
    cut_span,
    in_spans,
    possible_windows,
    signal_around,
    starts_of_spans,
    time_around,
)
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage.snapshot import Recording


@dataclass(frozen=True, kw_only=True)
class Span:
    """Candidate windows that are read and cut together."""

    starts_s_B: np.ndarray
    """On the clock of the recording, or of the target it is aligned with."""
    partner: int | None = None
    """Which of the partners gives the target; None where the recording has its own."""
    stretch: int = 0
    """Which of the partner's stretches of steady drift."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The windows of a span worth keeping, and what is known of all of them."""

    windows: WindowBatch
    """`start_s_B` is on the clock of the recording, whichever clock the grid was on."""
    target_start_s_B: np.ndarray
    """The same instants on the target's clock."""
    dropped: Counter[str]
    target: Recording | None = None
    """Where the target comes from, if from another clock: then arrival times are not absolute."""


@dataclass(frozen=True, kw_only=True)
class WindowSource:
    """One recording, and for a source on a clock of its own the estimates of the pairs it may be in."""

    recording: Recording
    partners: tuple[tuple[Candidate, PairEstimate], ...] = ()

    def spans(self, spec: WindowSpec) -> tuple[list[Span], Counter[str]]:
        """All spans, and the windows that cannot be at all, by reason; reads nothing."""
        if not self.partners:
            starts, unusable = starts_of_spans(self.recording, spec)
            return [Span(starts_s_B=starts_s_B) for starts_s_B in starts], unusable
        spans: list[Span] = []
        unusable = Counter[str]()
        for number, (pair, estimate) in enumerate(self.partners):
            if not estimate.found.accepted:
                unusable[f"align_{estimate.found.reason}"] += max(1, _by_wall_time(pair, spec))
                continue
            aligned = AlignedPair(pair=pair, estimate=estimate)
            found = list(_spans_of(aligned, number, spec))
            if not found:
                unusable["too_short"] += 1
            spans += found
        return spans, unusable

    def possible_windows(self, spec: WindowSpec) -> int:
        """How many windows there could be at most, judged by lengths alone."""
        if not self.partners:
            return possible_windows(self.recording, spec)
        return sum(_by_wall_time(pair, spec) for pair, estimate in self.partners if estimate.found.accepted)

    def cut(self, span: Span, spec: WindowSpec) -> Cut:
        """The windows of a span. Raises IntegrityError for damaged bytes."""
        if span.partner is None:
            batch, dropped = cut_span(self.recording.corpus_url, self.recording, spec, span.starts_s_B)
            return Cut(windows=batch, target_start_s_B=batch.start_s_B, dropped=dropped)
        pair, estimate = self.partners[span.partner]
        aligned = AlignedPair(pair=pair, estimate=estimate)
        stretch = aligned.stretches()[span.stretch]
        ppg = aligned.source_signal(stretch, *time_around(span.starts_s_B, spec), spec.rate_hz)
        ecg = signal_around(pair.target.corpus_url, pair.target_row, 0.0, span.starts_s_B, spec)
        batch, dropped = cut(ecg, ppg, spec, span.starts_s_B)
        own_s_B = stretch.source_s(batch.start_s_B, pair.source_row.rate_hz)
        return Cut(
            windows=dataclasses.replace(batch, start_s_B=own_s_B),
            target_start_s_B=batch.start_s_B,
            dropped=dropped,
            target=pair.target,
        )


def _by_wall_time(pair: Candidate, spec: WindowSpec) -> int:
    """Windows in the time that both recordings cover by their own clocks; of the shorter where those are not known."""
    target_s, source_s = pair.target_row.duration_s, pair.source_row.duration_s
    if pair.shift_s is None:
        return window_starts(0.0, min(target_s, source_s), spec).size
    return window_starts(max(0.0, pair.shift_s), min(target_s, pair.shift_s + source_s), spec).size


def _spans_of(aligned: AlignedPair, number: int, spec: WindowSpec) -> list[Span]:
    """A window belongs to the stretch that holds its middle."""
    starts_s_B = window_starts(*aligned.span_s, spec)
    ends_s = [stretch.from_s for stretch in aligned.stretches()[1:]]
    stretch_B = np.searchsorted(np.array(ends_s), starts_s_B + spec.window_s / 2, side="right")
    return [
        Span(starts_s_B=span_B, partner=number, stretch=int(stretch))
        for stretch in np.unique(stretch_B)
        for span_B in in_spans(starts_s_B[stretch_B == stretch], spec)
    ]


def pair_config(spec: WindowSpec) -> PairConfig:
    """What `spec` asks to be paired, and how."""
    standard = PairConfig(target=spec.target, source=spec.source)
    if spec.arrival_prior_s is None:
        return standard
    align = dataclasses.replace(standard.align, arrival_prior_s=spec.arrival_prior_s)
    return dataclasses.replace(standard, align=align)


def pairs_among(recordings: Sequence[Recording], spec: WindowSpec) -> list[Candidate]:
    """The pairs of recordings on different clocks that `spec` asks to be aligned; none without a declared prior."""
    return [] if spec.arrival_prior_s is None else candidates(recordings, pair_config(spec))


def window_sources(
    recordings: Sequence[Recording], pairs: Sequence[Candidate], estimates: Sequence[PairEstimate]
) -> list[WindowSource]:
    """Every recording as a source of windows; `estimates` are those of `pairs`, which are of these recordings.

    A recording that only serves as the target of another is not in the list: its windows are the other's.
    """
    partners: dict[tuple[str, str], list[tuple[Candidate, PairEstimate]]] = {}
    for pair, estimate in zip(pairs, estimates, strict=True):
        partners.setdefault(_key(pair.source), []).append((pair, estimate))
    targets = {_key(pair.target) for pair in pairs if pair.config.source not in pair.target.channels}
    return [
        WindowSource(recording=recording, partners=tuple(partners.get(_key(recording), ())))
        for recording in recordings
        if _key(recording) not in targets
    ]


def _key(recording: Recording) -> tuple[str, str]:
    return recording.cohort, recording.recording_id
