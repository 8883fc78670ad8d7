"""Bad contact: bursts of motion, spans without contact, and spans that a device did not record at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from xmae_dist.simulate.autonomic import Drivers, Floats
from xmae_dist.simulate.devices import MISSING, ChannelPreset, DevicePreset
from xmae_dist.simulate.heart import Signal


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """When contact is bad. Spans in elapsed device seconds."""

    motion: list[tuple[float, float, float]]
    """Start, duration and strength of each artefact burst."""
    gaps: list[tuple[float, float]]
    """Spans that the device did not record."""
    lead_off: list[tuple[float, float]]
    """Spans recorded without contact: flat with noise, or at the rail."""


def draw_disturbance(
    rng: np.random.Generator,
    device: DevicePreset,
    drivers: Drivers,
    duration_s: float,
    *,
    motion_scale: float,
    gap_scale: float,
) -> Disturbance:
    """Bursts of motion (more of them where the drivers say that the wearer moves), gaps and lost contact."""
    quiet = _poisson_times(rng, device.motion_per_hour * motion_scale, duration_s)
    candidates = _poisson_times(rng, 240.0 * motion_scale, duration_s)
    moving = candidates[rng.random(candidates.size) < drivers.at(drivers.activity, candidates)]
    motion = [
        (
            float(start),
            float(np.clip(rng.lognormal(1.9, 0.7), 1.5, 60.0)),
            float(device.motion_gain * rng.lognormal(0.0, 0.6)),
        )
        for start in np.sort(np.concatenate((quiet, moving)))
    ]
    gaps = _spans(rng, device.gaps_per_hour * gap_scale, duration_s, log_mean=1.8, log_sd=1.0, longest=120.0)
    lead_off = _spans(rng, 0.4 * device.gaps_per_hour * gap_scale, duration_s, log_mean=1.8, log_sd=0.8, longest=60.0)
    return Disturbance(motion=motion, gaps=gaps, lead_off=lead_off)


def add_motion(
    rng: np.random.Generator,
    signal: Signal,
    rate_hz: float,
    disturbance: Disturbance,
    size: float,
    band_hz: tuple[float, float],
) -> None:
    """Add artefact bursts in place: band noise plus, half the time, a cadence of steps, under a smooth envelope."""
    sections = butter(2, band_hz, btype="bandpass", fs=rate_hz, output="sos").astype(np.float32)
    for start_s, length_s, strength in disturbance.motion:
        start = int(start_s * rate_hz)
        n = min(int(length_s * rate_hz), signal.size - start)
        if n < 8:
            continue
        burst = sosfilt(sections, rng.standard_normal(n, dtype=np.float32)).astype(np.float32)
        burst /= burst.std() + np.float32(1e-9)
        if rng.random() < 0.5:
            phase = 2.0 * np.pi * rng.uniform(0.8, 2.4) * np.arange(n, dtype=np.float32) / np.float32(rate_hz)
            burst += np.float32(1.2) * np.sin(phase + np.float32(0.8) * np.sin(np.float32(0.31) * phase))
        envelope = np.sqrt(np.hanning(n + 2)[1:-1].astype(np.float32))
        signal[start : start + n] += np.float32(size * strength) * envelope * burst


def lose_contact(
    rng: np.random.Generator, signal: Signal, rate_hz: float, disturbance: Disturbance, channel: ChannelPreset
) -> None:
    """Replace spans without contact, in place: flat with a little noise, or stuck at the rail."""
    for start_s, stop_s in disturbance.lead_off:
        span = slice(int(start_s * rate_hz), min(int(stop_s * rate_hz), signal.size))
        n = max(span.stop - span.start, 0)
        level = channel.full_scale * 2.0 if rng.random() < 0.3 else 0.0
        signal[span] = np.float32(level) + np.float32(0.3 * channel.noise) * rng.standard_normal(n, dtype=np.float32)


def cut_gaps(raw: NDArray[np.int16], rate_hz: float, disturbance: Disturbance) -> list[tuple[int, int]]:
    """Mark what was not recorded as MISSING, in place; returns merged spans in samples."""
    spans: list[tuple[int, int]] = []
    for start_s, stop_s in disturbance.gaps:
        start, stop = int(start_s * rate_hz), min(int(stop_s * rate_hz), raw.size)
        if stop <= start:
            continue
        raw[start:stop] = MISSING
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(stop, spans[-1][1]))
        else:
            spans.append((start, stop))
    return spans


def _poisson_times(rng: np.random.Generator, per_hour: float, duration_s: float) -> Floats:
    return np.sort(rng.random(rng.poisson(max(per_hour, 0.0) * duration_s / 3600.0)) * duration_s)


def _spans(
    rng: np.random.Generator,
    per_hour: float,
    duration_s: float,
    *,
    log_mean: float,
    log_sd: float,
    longest: float,
) -> list[tuple[float, float]]:
    return [
        (float(start), float(min(start + min(rng.lognormal(log_mean, log_sd), longest), duration_s)))
        for start in _poisson_times(rng, per_hour, duration_s)
    ]
