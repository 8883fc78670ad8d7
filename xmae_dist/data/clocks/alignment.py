"""Recordings of one person on two clocks -> an estimate of how the clocks differ, and the source on the target's clock.

Times of a pair are seconds since the target's first sample. The reference clock is the target's; the other clock is
the source's wall clock on the same zero, so the estimate's offset is what that clock is wrong by.

The offset of the clocks and the arrival time of the pulse cannot be told apart: the constant is set by the declared
prior, and every estimate says so (`arrival_time_absolute` is false). What is exact is the drift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from xmae_dist.data.clocks.pairing import UNKNOWN_START, Candidate
from xmae_dist.data.clocks.signal import Signal
from xmae_dist.signals.align import Alignment, align
from xmae_dist.signals.beats import pulse_feet, r_peaks
from xmae_dist.signals.defects import fill_gaps
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.resample import resample
from xmae_dist.storage.snapshot import Recording, read_row

ALGORITHM = "xmae-alignment/v1"

_GRID_HZ = 100.0
_TARGET_BAND_HZ, _SOURCE_BAND_HZ = (0.5, 40.0), (0.5, 8.0)
_SPAN_S, _MARGIN_S = 1800.0, 20.0  # beats are searched span by span, so memory does not grow with the recording
_FILTER_S = 2.0  # neighbours that the resampling filter needs
_MOST_PHASES = 2000  # a ratio of rates this simple is within 1.3e-7: 0.2 ms half a span from its middle


@dataclass(frozen=True, kw_only=True)
class PairEstimate:
    """How the clocks of two recordings differ, and whether that is trusted."""

    subject_id: str
    target_cohort: str
    target_recording: str
    source_cohort: str
    source_recording: str
    shift_s: float
    """First sample of the source minus that of the target, each by its own wall clock; NaN where unknown."""
    found: Alignment
    arrival_time_absolute: bool = False
    """Never: the constant of the aligned pair is the declared prior."""


@dataclass(frozen=True, kw_only=True)
class PairBeats:
    """Beats of both devices, seconds since the target's first sample, each by its own clock."""

    target_s: np.ndarray
    source_s: np.ndarray


def estimate(pair: Candidate) -> PairEstimate:
    """Detect beats in both recordings and fit the clocks. Raises IntegrityError for damaged bytes."""
    if pair.shift_s is None:
        prior_s = pair.config.align.arrival_prior_s
        return _named(pair, Alignment(accepted=False, reason=UNKNOWN_START, arrival_prior_s=prior_s))
    beats = beats_of_pair(pair)
    return _named(pair, align(beats.target_s, beats.source_s, pair.config.align))


def _named(pair: Candidate, found: Alignment) -> PairEstimate:
    return PairEstimate(
        subject_id=pair.target.subject_id,
        target_cohort=pair.target.cohort,
        target_recording=pair.target.recording_id,
        source_cohort=pair.source.cohort,
        source_recording=pair.source.recording_id,
        shift_s=np.nan if pair.shift_s is None else pair.shift_s,
        found=found,
    )


def beats_of_pair(pair: Candidate) -> PairBeats:
    """R peaks of the target and pulse feet of the source; raises ValueError where a wall time is not known."""
    if pair.shift_s is None:
        raise ValueError("a pair without wall times has no common zero")
    return PairBeats(
        target_s=_beats(pair.target, pair.config.target, r_peaks, _TARGET_BAND_HZ),
        source_s=_beats(pair.source, pair.config.source, pulse_feet, _SOURCE_BAND_HZ) + pair.shift_s,
    )


def _beats(
    recording: Recording,
    channel: str,
    find: Callable[[np.ndarray, float], np.ndarray],
    band_hz: tuple[float, float],
) -> np.ndarray:
    """Seconds since the channel's first sample, ascending; none where samples are missing."""
    row = recording.channels[channel]
    found = []
    for span_s in np.arange(0.0, row.duration_s, _SPAN_S):
        first = max(0, int((span_s - _MARGIN_S) * row.rate_hz))
        stop = min(row.length, int((span_s + _SPAN_S + _MARGIN_S) * row.rate_hz))
        filled_T, missing_T = fill_gaps(read_row(recording.corpus_url, row, first, stop))
        grid_T = resample(filled_T, row.rate_hz, _GRID_HZ)
        at_s = find(bandpass(grid_T, _GRID_HZ, band_hz), _GRID_HZ)
        sample = np.clip(np.round(at_s * row.rate_hz).astype(np.int64), 0, missing_T.size - 1)
        at_s = at_s[~missing_T[sample]] + first / row.rate_hz
        found.append(at_s[(at_s >= span_s) & (at_s < span_s + _SPAN_S)])
    return np.concatenate(found)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A stretch of steady drift, on the target's clock."""

    from_s: float
    """Where it begins; the first begins at minus infinity."""
    start_s: float
    """When the source's first sample would have been taken, had the whole source drifted like this."""
    rate_hz: float
    """Samples of the source per second of the target's clock."""

    def source_s(self, at_s: np.ndarray, source_hz: float) -> np.ndarray:
        """Times of the target's clock as seconds since the source's first sample, by the source's own rate."""
        return (at_s - self.start_s) * self.rate_hz / source_hz


@dataclass(frozen=True, kw_only=True)
class AlignedPair:
    """An accepted pair: the target as it is, the source on the target's clock."""

    pair: Candidate
    estimate: PairEstimate

    def __post_init__(self) -> None:
        if not self.estimate.found.accepted:
            raise ValueError(f"a rejected pair cannot be used: {self.estimate.found.reason}")

    @property
    def span_s(self) -> tuple[float, float]:
        """Time that both recordings cover, seconds since the target's first sample; may be empty (stop < start)."""
        shift_s = self.estimate.shift_s
        ends_s = self.estimate.found.to_reference(np.array([shift_s, shift_s + self.pair.source_row.duration_s]))
        return max(0.0, float(ends_s[0])), min(self.pair.target_row.duration_s, float(ends_s[1]))

    def stretches(self) -> list[Stretch]:
        """The source's clock as steps of constant rate, ascending in time."""
        found, shift_s = self.estimate.found, self.estimate.shift_s
        stretches = []
        for index, (from_s, _, lag_s, drift_ppm) in enumerate(found.segments):
            drift = 1e-6 * drift_ppm
            stretches.append(
                Stretch(
                    from_s=from_s - lag_s if index else -np.inf,
                    start_s=shift_s - lag_s - drift * (shift_s - from_s),
                    rate_hz=self.pair.source_row.rate_hz / (1.0 - drift),
                )
            )
        return stretches

    def source_signal(self, stretch: Stretch, start_s: float, stop_s: float, grid_hz: float) -> Signal:
        """The source's own samples (NaN where missing) around [start_s, stop_s) of the target's clock, retimed.

        Only time is told anew, no sample is changed. The rate is rounded so that resampling to `grid_hz` needs few
        filters; the middle of the span is exact, its ends are within 0.2 ms for half an hour.
        """
        row = self.pair.source_row
        first = int(np.clip(np.floor((start_s - stretch.start_s) * stretch.rate_hz), 0, row.length))
        stop = int(np.clip(np.ceil((stop_s - stretch.start_s) * stretch.rate_hz), first, row.length))
        ratio = Fraction(grid_hz / stretch.rate_hz).limit_denominator(_MOST_PHASES)
        rate_hz = grid_hz / float(ratio)
        middle = (first + stop) / 2
        middle_s = stretch.start_s + middle / stretch.rate_hz
        return Signal(
            values_T=read_row(self.pair.source.corpus_url, row, first, stop),
            rate_hz=rate_hz,
            start_s=middle_s - (middle - first) / rate_hz,
        )

    def source_on_target(self, start_s: float, stop_s: float, rate_hz: float) -> np.ndarray:
        """The source at start_s + k / rate_hz of the target's clock, anti-aliased; NaN where it was not recorded."""
        at_s = start_s + np.arange(max(0, round((stop_s - start_s) * rate_hz))) / rate_hz
        out = np.full(at_s.size, np.nan)
        stretches = self.stretches()
        ends_s = [*(stretch.from_s for stretch in stretches[1:]), np.inf]
        for stretch, end_s in zip(stretches, ends_s, strict=True):
            here = np.flatnonzero((at_s >= stretch.from_s) & (at_s < end_s))
            for first in range(0, here.size, max(1, int(_SPAN_S * rate_hz))):
                chosen = here[first : first + max(1, int(_SPAN_S * rate_hz))]
                out[chosen] = self._sampled(stretch, at_s[chosen], rate_hz)
        return out

    def _sampled(self, stretch: Stretch, at_s: np.ndarray, rate_hz: float) -> np.ndarray:
        signal = self.source_signal(stretch, at_s[0] - _FILTER_S, at_s[-1] + _FILTER_S, rate_hz)
        if signal.values_T.size == 0:
            return np.full(at_s.size, np.nan)
        filled_T, missing_T = fill_gaps(signal.values_T)
        offset_s = at_s[0] - signal.start_s
        out = resample(filled_T, signal.rate_hz, rate_hz, offset_s=offset_s, n_out=at_s.size)
        nearest = np.round((at_s - signal.start_s) * signal.rate_hz).astype(np.int64)
        inside = (nearest >= 0) & (nearest < missing_T.size)
        return np.where(inside & ~missing_T[np.clip(nearest, 0, missing_T.size - 1)], out, np.nan)


def aligned(pair: Candidate, found: PairEstimate) -> AlignedPair | None:
    """The pair ready for use; None for a rejected one."""
    return AlignedPair(pair=pair, estimate=found) if found.found.accepted else None
