"""Recordings of a corpus -> windows of the channels that share a clock, span by span.

A recording of any length is read and cut in spans of half an hour with a margin at both ends, so memory
does not grow with it. Spans begin at fixed windows, so the result does not depend on who cuts it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from xmae_dist.data.clocks.signal import Signal
from xmae_dist.data.windows.cutting import MARGIN_S, WindowBatch, cut, empty, window_starts
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.snapshot import Recording, Snapshot, read_row

__all__ = [
    "Signal",
    "WindowBatch",
    "WindowSpec",
    "cut",
    "cut_span",
    "spans_of_recording",
    "starts_of_spans",
    "windows_of_recording",
]

SPAN_S = 1800.0


def windows_of_recording(
    snapshot: Snapshot, recording: Recording, spec: WindowSpec
) -> tuple[WindowBatch, Counter[str]]:
    """All windows of a recording worth keeping, and the number dropped by reason.

    With `spec.require == (source,)` the target is neither needed nor read, and `ecg_BL` is None. A
    recording that cannot give windows gives an empty batch and its reason ("no_ecg", "different_clock",
    "too_short", ...), counted in windows. Raises IntegrityError for damaged bytes.
    """
    batches: list[WindowBatch] = []
    dropped: Counter[str] = Counter()
    for batch, reasons in spans_of_recording(snapshot.url, recording, spec):
        batches.append(batch)
        dropped += reasons
    return WindowBatch.concatenate(batches, spec), dropped


def spans_of_recording(
    corpus_url: str, recording: Recording, spec: WindowSpec
) -> Iterator[tuple[WindowBatch, Counter[str]]]:
    """The same, one span at a time and in order, in bounded memory."""
    spans, unusable = starts_of_spans(recording, spec)
    if unusable:
        yield empty(spec), unusable
    for span_B in spans:
        yield cut_span(corpus_url, recording, spec, span_B)


def starts_of_spans(recording: Recording, spec: WindowSpec) -> tuple[list[np.ndarray], Counter[str]]:
    """The starts of all windows that there might be, a span each; and those that cannot be at all, by reason."""
    reason = _unusable(recording, spec)
    if reason:
        return [], Counter({reason: max(1, possible_windows(recording, spec))})
    start_s = {name: _start_s(recording, name) for name in spec.require}
    latest = max(start_s.values())
    earliest = min(start_s[name] + recording.channels[name].duration_s for name in spec.require)
    return in_spans(window_starts(latest, earliest, spec), spec), Counter()


def in_spans(starts_s_B: np.ndarray, spec: WindowSpec) -> list[np.ndarray]:
    """Windows divided into what is read and cut at once."""
    per_span = max(1, int(SPAN_S / spec.stride_s))
    return [starts_s_B[first : first + per_span] for first in range(0, starts_s_B.size, per_span)]


def cut_span(
    corpus_url: str, recording: Recording, spec: WindowSpec, starts_s_B: np.ndarray
) -> tuple[WindowBatch, Counter[str]]:
    """The windows of one span worth keeping, and the number dropped by reason."""
    signals = {
        name: signal_around(corpus_url, recording.channels[name], _start_s(recording, name), starts_s_B, spec)
        for name in spec.require
    }
    return cut(signals.get(spec.target), signals[spec.source], spec, starts_s_B)


def possible_windows(recording: Recording, spec: WindowSpec) -> int:
    """How many windows the recording could give at most, judged by the length of its channels alone."""
    lengths_s = [recording.channels[name].duration_s for name in spec.require if name in recording.channels]
    return int(windows_within(np.array(min(lengths_s, default=recording.duration_s)), spec))


def windows_within(duration_s: np.ndarray, spec: WindowSpec) -> np.ndarray:
    """How many windows fit whole into each of these times (the same shape), as `window_starts` counts them."""
    counts = np.floor((duration_s - spec.window_s) / spec.stride_s + 1e-6).astype(np.int64) + 1
    return np.maximum(counts, 0)


def _unusable(recording: Recording, spec: WindowSpec) -> str | None:
    """Why no window can come from this recording; None where some might."""
    for name in spec.require:
        if name not in recording.channels:
            return f"no_{name}"
    rows = [recording.channels[name] for name in spec.require]
    if len({row.clock_id for row in rows}) > 1:
        return "different_clock"
    start_s = [_start_s(recording, name) for name in spec.require]
    stop_s = [start + row.duration_s for start, row in zip(start_s, rows, strict=True)]
    return "too_short" if window_starts(max(start_s), min(stop_s), spec).size == 0 else None


def _start_s(recording: Recording, channel: str) -> float:
    """Start of a channel on the recording's clock, 0 at the earliest; 0 where wall times are not known."""
    known = [row.start_time_ns for row in recording.channels.values() if row.start_time_ns is not None]
    own = recording.channels[channel].start_time_ns
    return 0.0 if own is None else (own - min(known)) / 1e9


def time_around(starts_s_B: np.ndarray, spec: WindowSpec) -> tuple[float, float]:
    """The time that the windows of a span need, with the margin their cleaning needs."""
    # Twice the margin: what `cut` cleans then has whole neighbours for the resampling filter.
    return float(starts_s_B[0]) - 2 * MARGIN_S, float(starts_s_B[-1]) + spec.window_s + 2 * MARGIN_S


def signal_around(corpus_url: str, row: IndexRow, start_s: float, starts_s_B: np.ndarray, spec: WindowSpec) -> Signal:
    """The samples that the windows of a span need of a channel whose first sample was taken at `start_s`."""
    low_s, high_s = time_around(starts_s_B, spec)
    first = max(0, int((low_s - start_s) * row.rate_hz))
    last = min(row.length, int(np.ceil((high_s - start_s) * row.rate_hz)))
    values_T = read_row(corpus_url, row, first, max(first, last))
    return Signal(values_T=values_T, rate_hz=row.rate_hz, start_s=start_s + first / row.rate_hz)
