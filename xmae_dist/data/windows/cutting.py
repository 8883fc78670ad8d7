"""Signals of one clock -> clean windows on one grid, and a count of what was dropped and why.

B windows of L samples. All times are seconds on the clock of the recording, 0 at its earliest channel.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from xmae_dist.data.clocks.signal import Signal
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.signals import arrival, beats, defects, quality
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.median import median
from xmae_dist.signals.normalize import minmax
from xmae_dist.signals.resample import resample

MARGIN_S = 20.0  # cleaned beyond the first and last window of a span, so that filters and templates have settled


@dataclass(frozen=True, kw_only=True)
class WindowBatch:
    """B windows and what is known of each. `ecg_BL` and what derives from it is None / NaN in source-only
    windows.
    """

    ppg_BL: np.ndarray
    """float32 in [-1, 1]."""
    ecg_BL: np.ndarray | None
    """float32 in [-1, 1], same grid as `ppg_BL`: sample i of both is the same instant."""
    start_s_B: np.ndarray
    """float64, from the start of the recording."""
    quality_ppg_B: np.ndarray
    """Mean beat correlation, 0 .. 1."""
    quality_ecg_B: np.ndarray
    ppg_offset_B: np.ndarray
    """cleaned = scaled * scale + offset, in the unit of the channel."""
    ppg_scale_B: np.ndarray
    ecg_offset_B: np.ndarray
    ecg_scale_B: np.ndarray
    heart_rate_bpm_B: np.ndarray
    """From the median R-R interval; NaN where it cannot be measured."""
    pulse_rate_bpm_B: np.ndarray
    """From the median interval between pulse feet."""
    pulse_arrival_s_B: np.ndarray
    """Median delay from an R peak to the foot of its own pulse; NaN where which that is cannot be told."""
    pulse_arrival_iqr_s_B: np.ndarray

    def __len__(self) -> int:
        return len(self.start_s_B)

    def select(self, keep_B: np.ndarray) -> WindowBatch:
        """The windows chosen by a mask or by indices."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {k: None if v is None else v[keep_B] for k, v in values.items()}
        return WindowBatch(**chosen)

    @staticmethod
    def concatenate(batches: list[WindowBatch], spec: WindowSpec) -> WindowBatch:
        """All windows in order; no batches give an empty batch of the right shapes."""
        if not batches:
            return empty(spec)
        if len(batches) == 1:
            return batches[0]
        joined: dict[str, Any] = {}
        for field in fields(WindowBatch):
            values = [getattr(batch, field.name) for batch in batches]
            joined[field.name] = None if values[0] is None else np.concatenate(values)
        return WindowBatch(**joined)


def empty(spec: WindowSpec) -> WindowBatch:
    """A batch of no windows."""
    none_BL, none_B = np.zeros((0, spec.length), np.float32), np.zeros(0)
    values: dict[str, Any] = {f.name: none_B for f in fields(WindowBatch) if f.name.endswith("_B")}
    return WindowBatch(ppg_BL=none_BL, ecg_BL=none_BL if spec.paired else None, **values)


def window_starts(start_s: float, stop_s: float, spec: WindowSpec) -> np.ndarray:
    """Starts of the windows that fit whole between two times: start_s + k * stride (B,)."""
    count = int(np.floor((stop_s - start_s - spec.window_s) / spec.stride_s + 1e-6)) + 1
    return start_s + np.arange(max(count, 0)) * spec.stride_s


@dataclass(frozen=True, kw_only=True)
class _Cleaned:
    """One channel cut into all candidate windows, with the reason (or "") each would be dropped for."""

    scaled_BL: np.ndarray
    offset_B: np.ndarray
    scale_B: np.ndarray
    quality_B: np.ndarray
    rate_bpm_B: np.ndarray
    beat_s: np.ndarray
    reason_B: np.ndarray


def cut(
    ecg: Signal | None, ppg: Signal, spec: WindowSpec, starts_s_B: np.ndarray | None = None
) -> tuple[WindowBatch, Counter[str]]:
    """Clean two signals of one clock (or the source alone) and cut them into windows.

    `starts_s_B`: ascending starts on the recording's clock, a whole number of strides apart; by default
    every window that fits into the span both signals share. Returns the kept windows and the number dropped
    by reason, such as "ppg_flat"; a window is counted once, by its first reason.
    """
    present = [ppg] if ecg is None else [ecg, ppg]
    if starts_s_B is None:
        starts_s_B = window_starts(max(s.start_s for s in present), min(s.stop_s for s in present), spec)
    if starts_s_B.size == 0:
        return empty(spec), Counter()
    pulse = _clean(ppg, "ppg", spec, starts_s_B)
    heart = None if ecg is None else _clean(ecg, "ecg", spec, starts_s_B)
    reason_B = pulse.reason_B if heart is None else np.where(heart.reason_B != "", heart.reason_B, pulse.reason_B)
    dropped = Counter(str(reason) for reason in reason_B[reason_B != ""])
    return _batch(heart, pulse, spec, starts_s_B).select(reason_B == ""), dropped


def _batch(heart: _Cleaned | None, pulse: _Cleaned, spec: WindowSpec, starts_s_B: np.ndarray) -> WindowBatch:
    unknown_B = np.full(starts_s_B.size, np.nan)
    if heart is None:
        arrival_B, spread_B = unknown_B, unknown_B
    else:
        typical_s = arrival.own_pulse_s(heart.beat_s, pulse.beat_s)
        if typical_s is None:  # the delay to the next foot may be whole beats off, and nothing says which
            arrival_B, spread_B = unknown_B, unknown_B
        else:
            arrival_B, spread_B = arrival.arrival_s(
                heart.beat_s, pulse.beat_s, starts_s_B, spec.window_s, typical_s=typical_s
            )
    return WindowBatch(
        ppg_BL=pulse.scaled_BL,
        ecg_BL=None if heart is None else heart.scaled_BL,
        start_s_B=starts_s_B,
        quality_ppg_B=pulse.quality_B,
        quality_ecg_B=unknown_B if heart is None else heart.quality_B,
        ppg_offset_B=pulse.offset_B,
        ppg_scale_B=pulse.scale_B,
        ecg_offset_B=unknown_B if heart is None else heart.offset_B,
        ecg_scale_B=unknown_B if heart is None else heart.scale_B,
        heart_rate_bpm_B=unknown_B if heart is None else heart.rate_bpm_B,
        pulse_rate_bpm_B=pulse.rate_bpm_B,
        pulse_arrival_s_B=arrival_B,
        pulse_arrival_iqr_s_B=spread_B,
    )


def _clean(signal: Signal, role: str, spec: WindowSpec, starts_s_B: np.ndarray) -> _Cleaned:
    """Fill gaps, resample onto the grid of the windows, band-pass, cut, scale and judge one channel."""
    filled_T, missing_T = defects.fill_gaps(signal.values_T)
    before = max(0, int(min(MARGIN_S, starts_s_B[0] - signal.start_s) * spec.rate_hz + 1e-6))
    grid_start_s = starts_s_B[0] - before / spec.rate_hz
    end_s = min(starts_s_B[-1] + spec.window_s + MARGIN_S, max(signal.stop_s, starts_s_B[-1] + spec.window_s))
    grid = round((end_s - grid_start_s) * spec.rate_hz)
    raw_T = resample(filled_T, signal.rate_hz, spec.rate_hz, offset_s=grid_start_s - signal.start_s, n_out=grid)
    clean_T = bandpass(raw_T, spec.rate_hz, spec.ecg_band_hz if role == "ecg" else spec.ppg_band_hz)
    find = beats.r_peaks if role == "ecg" else beats.pulse_feet
    beat_s = find(clean_T, spec.rate_hz)
    correlation = quality.beat_correlation(clean_T, spec.rate_hz, beat_s)
    first_B = np.round((starts_s_B - grid_start_s) * spec.rate_hz).astype(np.int64)
    cut_BL = clean_T[first_B[:, None] + np.arange(spec.length)]
    beat_s = beat_s + grid_start_s
    quality_B = quality.window_quality(beat_s, correlation, starts_s_B, spec.window_s)
    scaled_BL, offset_B, scale_B = minmax(cut_BL)
    return _Cleaned(
        scaled_BL=scaled_BL,
        offset_B=offset_B,
        scale_B=scale_B,
        quality_B=quality_B,
        rate_bpm_B=beats.rate_bpm(beat_s, starts_s_B, spec.window_s),
        beat_s=beat_s,
        reason_B=_reasons(signal, role, spec, starts_s_B, (filled_T, missing_T), cut_BL, beat_s, quality_B),
    )


def _reasons(
    signal: Signal,
    role: str,
    spec: WindowSpec,
    starts_s_B: np.ndarray,
    filled: tuple[np.ndarray, np.ndarray],
    cut_BL: np.ndarray,
    beat_s: np.ndarray,
    quality_B: np.ndarray,
) -> np.ndarray:
    """The first reason to drop each window, "" for none; shares are measured on the samples of the device."""
    filled_T, missing_T = filled
    first_B = np.ceil((starts_s_B - signal.start_s) * signal.rate_hz - 1e-6).astype(np.int64)
    stop_B = first_B + max(1, int(spec.window_s * signal.rate_hz))

    def share(mask_T: np.ndarray) -> np.ndarray:
        return defects.fraction_between(mask_T, first_B, stop_B)

    gap_B = share(missing_T) > spec.max_gap_fraction
    flat_B = share(defects.flat_mask(filled_T, signal.rate_hz) & ~missing_T) > spec.max_flat_fraction
    saturated_B = share(defects.saturated_mask(filled_T, signal.rate_hz)) > spec.max_saturated_fraction
    spread_B = cut_BL.std(axis=1)
    usable_B = (spread_B > 0) & ~(gap_B | flat_B)
    typical = float(median(spread_B[usable_B])) if usable_B.any() else 0.0
    counted_B = np.searchsorted(beat_s, starts_s_B + spec.window_s) - np.searchsorted(beat_s, starts_s_B)
    checks = {
        "gap": gap_B,
        "flat": flat_B | (np.ptp(cut_BL, axis=1) == 0),
        "saturated": saturated_B,
        "lead_off": spread_B < spec.min_relative_amplitude * typical,
        "no_beats": counted_B < spec.min_beats,
        "low_quality": quality_B < spec.min_quality,
    }
    reason_B = np.full(starts_s_B.size, "", dtype="<U16")
    for name, bad_B in reversed(checks.items()):  # the first one is written last
        if bad_B.any():
            reason_B[bad_B] = f"{role}_{name}"
    return reason_B
