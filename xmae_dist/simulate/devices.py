"""Devices: what becomes of a clean signal on its way into a file.

A device has its own clock (offset, drift that may change in mid-recording), rate, resolution, analogue band,
noise and loose contacts. Signals are rendered directly on the grid of the device's clock, so the truth of a beat
is exact on every clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt, sosfilt_zi

from xmae_dist.simulate.autonomic import Drivers, Floats
from xmae_dist.simulate.heart import Signal
from xmae_dist.simulate.vessels import Site

MISSING = -32768
"""Raw value of a sample that was not recorded."""


@dataclass(frozen=True, kw_only=True)
class ChannelPreset:
    """One channel of a device."""

    name: str
    """ecg or ppg (further ECG leads: ecg_v, ...)."""
    rate_hz: float
    bits: int = 12
    full_scale: float
    """Largest physical value that the converter represents; the smallest is its negative."""
    unit: str
    band_hz: tuple[float, float]
    """Analogue high-pass (first order) and low-pass (second order) corners."""
    noise: float
    """Standard deviation of white noise, in `unit` (ECG) or mean finger pulses (PPG)."""
    mains: float = 0.0
    """Typical size of the mains hum, in the same unit."""
    lead_deg: float = 60.0
    """ECG: direction of the lead in the frontal plane."""
    placement_deg: float = 0.0
    """ECG: how far electrodes are misplaced from person to person."""
    site: Site = "finger"
    """PPG: where the sensor sits."""


@dataclass(frozen=True, kw_only=True)
class ClockPreset:
    """How wrong the clock of such a device may be; draws are uniform within the limits."""

    max_offset_s: float = 0.0
    max_drift_ppm: float = 0.0
    change_probability: float = 0.0
    """Chance that the drift changes once in a recording (temperature, a restart)."""


@dataclass(frozen=True, kw_only=True)
class DevicePreset:
    """A kind of device."""

    name: str
    body_site: str
    channels: tuple[ChannelPreset, ...]
    clock: ClockPreset = ClockPreset()
    restlessness: float = 0.02
    """Share of time in which the wearer moves."""
    motion_per_hour: float = 6.0
    """Artefact bursts per hour at rest; movement adds many."""
    motion_gain: float = 1.0
    gaps_per_hour: float = 0.5
    mains_hz: float = 50.0


def _ecg(rate_hz: float, **changes: object) -> ChannelPreset:
    values: dict[str, object] = {
        "name": "ecg", "rate_hz": rate_hz, "full_scale": 5.0, "unit": "mV", "band_hz": (0.5, 40.0), "noise": 0.012, "mains": 0.01,
    }  # fmt: skip
    return ChannelPreset(**{**values, **changes})  # type: ignore[arg-type]


def _ppg(rate_hz: float, **changes: object) -> ChannelPreset:
    values: dict[str, object] = {
        "name": "ppg", "rate_hz": rate_hz, "full_scale": 8.0, "unit": "NU", "band_hz": (0.15, 12.0), "noise": 0.012, "mains": 0.003,
    }  # fmt: skip
    return ChannelPreset(**{**values, **changes})  # type: ignore[arg-type]


_WEARABLE_CLOCK = ClockPreset(max_offset_s=60.0, max_drift_ppm=100.0, change_probability=0.4)

DEVICES: dict[str, DevicePreset] = {
    device.name: device
    for device in (
        DevicePreset(
            name="bedside_monitor",
            body_site="finger",
            channels=(_ecg(250.0, placement_deg=4.0), _ppg(125.0)),
            clock=ClockPreset(max_offset_s=2.0, max_drift_ppm=15.0),
        ),
        DevicePreset(
            name="chest_patch",
            body_site="chest",
            channels=(
                _ecg(256.0, bits=16, lead_deg=45.0, placement_deg=9.0, band_hz=(0.67, 45.0), mains=0.002),
            ),
            clock=_WEARABLE_CLOCK,
            restlessness=0.06,
            motion_gain=0.6,
            gaps_per_hour=0.3,
        ),
        DevicePreset(
            name="smartwatch",
            body_site="wrist",
            channels=(_ppg(64.0, site="wrist", bits=16, noise=0.012, band_hz=(0.3, 8.0), mains=0.0),),
            clock=_WEARABLE_CLOCK,
            restlessness=0.06,
            motion_per_hour=14.0,
            motion_gain=1.2,
            gaps_per_hour=1.0,
        ),
        DevicePreset(
            name="ring",
            body_site="finger_base",
            channels=(_ppg(50.0, site="finger_base", bits=14, noise=0.012, band_hz=(0.2, 8.0), mains=0.0),),
            clock=_WEARABLE_CLOCK,
            restlessness=0.04,
            motion_per_hour=9.0,
            gaps_per_hour=0.8,
        ),
        DevicePreset(
            name="telemetry_unit",
            body_site="finger",
            channels=(
                _ecg(500.0, bits=14, placement_deg=6.0, band_hz=(0.05, 100.0), noise=0.018, mains=0.02),
                _ppg(100.0),
            ),
            clock=ClockPreset(max_offset_s=5.0, max_drift_ppm=30.0),
            restlessness=0.05,
            motion_per_hour=10.0,
            gaps_per_hour=0.8,
            mains_hz=60.0,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class DeviceClock:
    """How a device counts time: elapsed device seconds as a function of true seconds of the session."""

    start_s: float
    """True time at which the recording starts."""
    offset_s: float
    """What the device's clock reads minus the truth, at the start."""
    drift_ppm: float
    """Device seconds gained per true second, times 1e6."""
    change_s: float
    """True time at which the drift changes (infinite: never)."""
    drift_after_ppm: float

    def device_s(self, true_s: Floats | float) -> Floats:
        """Elapsed device seconds since the start, at true seconds of the session."""
        true_s = np.asarray(true_s, dtype=np.float64)
        early = (np.minimum(true_s, self.change_s) - self.start_s) * (1.0 + self.drift_ppm * 1e-6)
        if not np.isfinite(self.change_s):
            return early
        return early + np.maximum(true_s - self.change_s, 0.0) * (1.0 + self.drift_after_ppm * 1e-6)

    def true_s(self, device_s: Floats | float) -> Floats:
        """True seconds of the session at elapsed device seconds: the inverse of `device_s`."""
        device_s = np.asarray(device_s, dtype=np.float64)
        before = 1.0 + self.drift_ppm * 1e-6
        if not np.isfinite(self.change_s):
            return self.start_s + device_s / before
        change = float(self.device_s(self.change_s))
        early = self.start_s + np.minimum(device_s, change) / before
        return early + np.maximum(device_s - change, 0.0) / (1.0 + self.drift_after_ppm * 1e-6)


def draw_clock(
    rng: np.random.Generator, preset: ClockPreset, start_s: float, duration_s: float
) -> DeviceClock:
    """A clock within the preset's limits; a change of drift falls into the middle half of the recording."""
    drift, after = rng.uniform(-preset.max_drift_ppm, preset.max_drift_ppm, 2)
    changes = rng.random() < preset.change_probability
    return DeviceClock(
        start_s=start_s,
        offset_s=float(rng.uniform(-preset.max_offset_s, preset.max_offset_s)),
        drift_ppm=float(drift),
        change_s=float(start_s + rng.uniform(0.25, 0.75) * duration_s) if changes else np.inf,
        drift_after_ppm=float(after if changes else drift),
    )


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
    moving = candidates[rng.random(candidates.size) < drivers.at(drivers.activity_T, candidates)]
    motion = [
        (
            float(start),
            float(np.clip(rng.lognormal(1.9, 0.7), 1.5, 60.0)),
            float(device.motion_gain * rng.lognormal(0.0, 0.6)),
        )
        for start in np.sort(np.concatenate((quiet, moving)))
    ]
    gaps = _spans(rng, device.gaps_per_hour * gap_scale, duration_s, log_mean=1.8, log_sd=1.0, longest=120.0)
    lead_off = _spans(
        rng, 0.4 * device.gaps_per_hour * gap_scale, duration_s, log_mean=1.8, log_sd=0.8, longest=60.0
    )
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


def add_mains(rng: np.random.Generator, signal: Signal, rate_hz: float, mains_hz: float, size: float) -> None:
    """Add hum in place, folded to where the sampler without a steep filter would put it."""
    if size <= 0.0:
        return
    level = size * rng.lognormal(-0.3, 0.8)
    period = int(round(rate_hz * 2.0))
    turn = 2.0 * np.pi * (mains_hz * np.arange(period) / rate_hz + rng.random())
    # Two seconds hold whole numbers of mains periods at all our rates, so one stretch repeats.
    signal += np.resize((level * np.sin(turn)).astype(np.float32), signal.size)


def analogue(signal: Signal, rate_hz: float, band_hz: tuple[float, float]) -> Signal:
    """The input stage: causal first-order high-pass and second-order low-pass."""
    low, high = band_hz
    sections = [butter(1, low, btype="highpass", fs=rate_hz, output="sos")]
    if high < 0.49 * rate_hz:
        sections.append(butter(2, high, btype="lowpass", fs=rate_hz, output="sos"))
    sos = np.concatenate(sections)
    state = sosfilt_zi(sos) * signal[: int(rate_hz)].mean()
    filtered, _ = sosfilt(sos.astype(np.float32), signal, zi=state.astype(np.float32))
    return filtered.astype(np.float32, copy=False)


def group_delay_s(band_hz: tuple[float, float], rate_hz: float) -> float:
    """Delay that the low-pass gives a slow signal: sqrt(2) / (2 pi f)."""
    return float(np.sqrt(2.0) / (2.0 * np.pi * band_hz[1])) if band_hz[1] < 0.49 * rate_hz else 0.0


def digitise(signal: Signal, channel: ChannelPreset) -> tuple[NDArray[np.int16], float]:
    """Raw values (L,) as the converter gives them, clipped at its rails, and the size of one step."""
    top = 2 ** (channel.bits - 1) - 1
    scale = channel.full_scale / top
    raw = np.multiply(signal, np.float32(1.0 / scale))
    np.rint(raw, out=raw)
    np.clip(raw, -top, top, out=raw)
    return raw.astype(np.int16), scale


def lose_contact(
    rng: np.random.Generator, signal: Signal, rate_hz: float, disturbance: Disturbance, channel: ChannelPreset
) -> None:
    """Replace spans without contact, in place: flat with a little noise, or stuck at the rail."""
    for start_s, stop_s in disturbance.lead_off:
        span = slice(int(start_s * rate_hz), min(int(stop_s * rate_hz), signal.size))
        n = max(span.stop - span.start, 0)
        level = channel.full_scale * 2.0 if rng.random() < 0.3 else 0.0
        signal[span] = np.float32(level) + np.float32(0.3 * channel.noise) * rng.standard_normal(
            n, dtype=np.float32
        )


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
