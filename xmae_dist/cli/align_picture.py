"""The picture of one pair: heart rates of both devices, lag over time, and a few beats on the common clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xmae_dist.data.clocks.alignment import AlignedPair, PairBeats, PairEstimate, aligned, beats_of_pair
from xmae_dist.data.clocks.pairing import Candidate
from xmae_dist.signals.align import Alignment
from xmae_dist.signals.arrival import arrival_s
from xmae_dist.signals.defects import fill_gaps
from xmae_dist.signals.filter import bandpass
from xmae_dist.storage.index import IndexRow

_TARGET, _SOURCE, _FIT = "#d62828", "#457b9d", "#264653"
_NEAR_S = 0.25
_EXCERPT_S = 12.0
_EXCERPT_HZ = 100.0


def draw(path: Path, pair: Candidate, one: PairEstimate) -> None:
    """Writes the picture (format by the suffix of `path`). Reads the beats again; wall times must be known."""
    beats, found = beats_of_pair(pair), one.found
    figure = Figure(figsize=(11, 8), layout="constrained")
    rates, lags, excerpt = figure.subplots(3, 1)
    told_s = found.to_reference(beats.source_s) if found.segments else beats.source_s
    target, source = _device(pair.target_row, one.target_cohort), _device(pair.source_row, one.source_cohort)
    devices = [(target, beats.target_s, _TARGET), (source, told_s, _SOURCE)]
    _draw_rates(rates, devices, clock=target if found.segments else "")
    _draw_lags(lags, beats, told_s, found, target, pair.config.align.max_residual_s)
    ready = aligned(pair, one)
    if ready is None:
        excerpt.set_axis_off()
        excerpt.text(0.5, 0.5, f"not used: {found.reason}", ha="center", va="center", color=_TARGET)
    else:
        _draw_excerpt(
            excerpt,
            ready,
            beats.target_s,
            told_s,
            f"{pair.config.target} of {target}, {pair.config.source} of {source}",
        )
    state = "accepted" if found.accepted else f"rejected: {found.reason}"
    figure.suptitle(
        f"{one.subject_id}: {source} on the clock of {target}, {state}\n"
        f"{one.source_recording} on {one.target_recording}",
        fontsize=9,
    )
    figure.savefig(path, dpi=130)


def _device(row: IndexRow, cohort: str) -> str:
    """What a recording was made with, as far as its source told."""
    return row.device or cohort


def _draw_rates(axes: Axes, devices: list[tuple[str, np.ndarray, str]], *, clock: str) -> None:
    """Heart rate by each device; `clock`: whose clock all times are of, where a clock was fitted."""
    for name, at_s, colour in devices:
        if at_s.size > 1:
            axes.plot(at_s[1:] / 60, 60 / np.maximum(np.diff(at_s), 0.2), ".", ms=2, color=colour, label=name)
    axes.set_ylim(30, 180)
    axes.set_ylabel("beats / min")
    axes.set_xlabel(f"minutes on the clock of {clock}" if clock else "minutes, each by its own clock")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=8, markerscale=4, frameon=False)


def _draw_lags(
    axes: Axes, beats: PairBeats, told_s: np.ndarray, found: Alignment, clock: str, most_residual_s: float
) -> None:
    """What is left of the lag once the fit is taken out, for each beat and its nearest; the fit is the line at 0."""
    if not found.segments or beats.target_s.size < 2:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no clock was fitted", ha="center", va="center", color=_TARGET)
        return
    r_s = beats.target_s + found.arrival_prior_s
    middle_s = (r_s[1:] + r_s[:-1]) / 2
    difference_s = told_s - r_s[np.searchsorted(middle_s, told_s)]
    near = np.abs(difference_s) < _NEAR_S
    axes.plot(told_s[near] / 60, 1e3 * difference_s[near], ".", ms=2, color=_SOURCE)
    axes.axhline(0, color=_FIT, lw=1)
    for from_s, *_ in found.segments[1:]:
        axes.axvline(found.to_reference(np.array([from_s]))[0] / 60, color=_FIT, lw=1, ls=":")
    drift = " → ".join(f"{drift_ppm:.1f}" for *_, drift_ppm in found.segments)
    axes.set_title(
        f"offset {found.offset_s:.3f} s, drift {drift} ± {found.drift_std_ppm:.1f} ppm, "
        f"residual {1e3 * found.residual_s:.1f} ms (accepted up to {1e3 * most_residual_s:.0f}), "
        f"matched {found.matched_fraction:.0%}",
        fontsize=9,
    )
    axes.set_ylabel("beat lag − fit (ms)")
    axes.set_xlabel(f"minutes on the clock of {clock}")


def _draw_excerpt(axes: Axes, ready: AlignedPair, target_s: np.ndarray, told_s: np.ndarray, signals: str) -> None:
    start_s = _quiet(ready.span_s, target_s, told_s)
    row = ready.pair.target_row
    rate_hz = row.rate_hz
    target_T = ready.pair.target.read(ready.pair.config.target, start_s, start_s + _EXCERPT_S)
    target_T = bandpass(fill_gaps(target_T)[0], rate_hz, (0.5, 40.0))
    source_T = bandpass(
        fill_gaps(ready.source_on_target(start_s, start_s + _EXCERPT_S, _EXCERPT_HZ))[0], _EXCERPT_HZ, (0.5, 8.0)
    )
    from_s = round(start_s * rate_hz) / rate_hz
    axes.plot(from_s + np.arange(target_T.size) / rate_hz, _unit(target_T) + 1.2, color=_TARGET, lw=0.8)
    axes.plot(start_s + np.arange(source_T.size) / _EXCERPT_HZ, _unit(source_T), color=_SOURCE, lw=0.8)
    for at_s, colour in ((target_s, _TARGET), (told_s, _SOURCE)):
        for beat_s in at_s[(at_s >= start_s) & (at_s < start_s + _EXCERPT_S)]:
            axes.axvline(beat_s, color=colour, lw=0.6, alpha=0.6)
    axes.set_yticks([])
    axes.set_xlim(start_s, start_s + _EXCERPT_S)
    axes.set_xlabel(f"seconds: {signals}; lines are R peaks and pulse feet")


def _quiet(span_s: tuple[float, float], target_s: np.ndarray, told_s: np.ndarray) -> float:
    """Start of the excerpt whose arrival times scatter least."""
    starts_s = np.arange(span_s[0], max(span_s[0] + 1e-6, span_s[1] - _EXCERPT_S), _EXCERPT_S)
    spread_s = arrival_s(target_s, told_s, starts_s, _EXCERPT_S)[1]
    return float(starts_s[int(np.argmin(np.where(np.isfinite(spread_s), spread_s, np.inf)))])


def _unit(x_T: np.ndarray) -> np.ndarray:
    return (x_T - x_T.min()) / max(float(np.ptp(x_T)), 1e-12)
