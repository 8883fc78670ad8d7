"""One session of one subject, and what each device made of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from xmae_dist.simulate import heart, vessels
from xmae_dist.simulate.autonomic import GRID_HZ, Drivers, Floats, band_noise
from xmae_dist.simulate.clocks import DeviceClock
from xmae_dist.simulate.contact import Disturbance, add_motion, cut_gaps, lose_contact
from xmae_dist.simulate.devices import ChannelPreset, DevicePreset
from xmae_dist.simulate.frontend import add_mains, analogue, digitise
from xmae_dist.simulate.heart import Signal
from xmae_dist.simulate.rhythm import Beats, Spans
from xmae_dist.simulate.subjects import Subject
from xmae_dist.simulate.vessels import Pulses


@dataclass(frozen=True, kw_only=True)
class SimulatedChannel:
    """One channel as the device stored it: physical = raw * scale + offset; MISSING where not recorded."""

    raw: NDArray[np.int16]
    rate_hz: float
    scale: float
    offset: float
    unit: str
    gaps: list[tuple[int, int]]
    """Spans of samples that were not recorded."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What no device knows. Arrays (N,) hold one entry per beat whose R peak the recording covers."""

    r_true_s: Floats
    """R peaks, true seconds of the session."""
    r_device_s: Floats
    """R peaks, elapsed seconds of this device's clock since its first sample."""
    arrival_true_s: Floats
    """Feet of the pulses at this device's site (finger for devices without PPG), true seconds."""
    arrival_device_s: Floats
    rr_before_s: Floats
    kind: NDArray[np.int8]
    """0 sinus, 1 ventricular ectopic, 2 atrial ectopic, 3 fibrillation."""
    strength: Floats
    """Pulse height relative to the mean; 0 where the valve did not open."""
    pressure_mmhg: Floats
    """Mean arterial pressure."""
    clock: DeviceClock
    motion: list[tuple[float, float, float]]
    """Artefact bursts: start and duration in device seconds, strength."""


@dataclass(frozen=True, kw_only=True)
class SimulatedRecording:
    """What one device recorded in one session."""

    subject_id: str
    recording_id: str
    device: str
    body_site: str
    clock_id: str
    start_time_ns: int
    """By the device's own, wrong, clock."""
    channels: dict[str, SimulatedChannel]
    labels: dict[str, float]
    label_text: dict[str, str]
    truth: Truth


@dataclass(frozen=True, kw_only=True)
class Session:
    """One occasion: the physiology that all devices of the session see."""

    subject: Subject
    drivers: Drivers
    beats: Beats
    fibrillation: Spans
    duration_s: float
    stages: NDArray[np.int8] | None
    """Sleep stages per 30 s of the session, for nights."""


@dataclass(frozen=True, kw_only=True)
class Wearing:
    """One device on the body in one session."""

    session: Session
    device: DevicePreset
    clock: DeviceClock
    disturbance: Disturbance
    pulses: Pulses


def record_channel(rng: np.random.Generator, wearing: Wearing, channel: ChannelPreset) -> SimulatedChannel:
    """What the device stores of one channel."""
    n = int(round(wearing.session.duration_s * channel.rate_hz))
    signal = (_ppg if channel.name.startswith("ppg") else _ecg)(rng, wearing, channel, n)
    add_mains(rng, signal, channel.rate_hz, wearing.device.mains_hz, channel.mains)
    signal += np.float32(channel.noise) * rng.standard_normal(n, dtype=np.float32)
    lose_contact(rng, signal, channel.rate_hz, wearing.disturbance, channel)
    raw, scale = digitise(analogue(signal, channel.rate_hz, channel.band_hz), channel)
    gaps = cut_gaps(raw, channel.rate_hz, wearing.disturbance)
    return SimulatedChannel(raw=raw, rate_hz=channel.rate_hz, scale=scale, offset=0.0, unit=channel.unit, gaps=gaps)


def truth_of(wearing: Wearing) -> Truth:
    """Ground truth of the beats that the recording covers."""
    beats, pulses, clock = wearing.session.beats, wearing.pulses, wearing.clock
    device_s = clock.device_s(beats.r_time_s)
    covered = (device_s >= 0.0) & (device_s < wearing.session.duration_s)
    return Truth(
        r_true_s=beats.r_time_s[covered],
        r_device_s=device_s[covered],
        arrival_true_s=pulses.arrival_s[covered],
        arrival_device_s=clock.device_s(pulses.arrival_s[covered]),
        rr_before_s=beats.rr_before_s[covered],
        kind=beats.kind[covered],
        strength=pulses.strength[covered],
        pressure_mmhg=pulses.pressure_mmhg[covered],
        clock=clock,
        motion=wearing.disturbance.motion,
    )


def _ecg(rng: np.random.Generator, wearing: Wearing, channel: ChannelPreset, n: int) -> Signal:
    session, clock = wearing.session, wearing.clock
    electrical = session.subject.electrical
    breath = session.drivers.at(session.drivers.respiration, session.beats.r_time_s)
    lead = channel.lead_deg + rng.normal(0.0, 1.0) * channel.placement_deg
    waves = heart.waves(electrical, session.beats, lead, breath)
    signal = heart.render_ecg(waves, clock.device_s(session.beats.r_time_s), n, channel.rate_hz)
    spans = [(float(clock.device_s(start)), float(clock.device_s(stop))) for start, stop in session.fibrillation]
    if spans:
        signal += heart.fibrillatory_waves(rng, electrical, spans, n, channel.rate_hz)
    # Electrode potentials wander like Brownian motion; breathing changes the impedance of the chest.
    electrodes = 0.005 * np.cumsum(rng.standard_normal(session.drivers.tone.size))
    signal += _on_grid(wearing, 0.06 * session.drivers.respiration + electrodes, n, channel.rate_hz)
    add_motion(rng, signal, channel.rate_hz, wearing.disturbance, 0.22, (0.7, min(30.0, 0.4 * channel.rate_hz)))
    return signal


def _ppg(rng: np.random.Generator, wearing: Wearing, channel: ChannelPreset, n: int) -> Signal:
    session, pulses = wearing.session, wearing.pulses
    strength = vessels.SITE_STRENGTH[channel.site]
    size = strength * session.subject.pulse_size
    arrival_s = wearing.clock.device_s(pulses.arrival_s)
    signal = vessels.render_pulses(session.subject, pulses, arrival_s, n, channel.rate_hz)
    signal *= np.float32(size)
    wander = size * vessels.wander(rng, session.drivers)
    signal += _on_grid(wearing, wander, n, channel.rate_hz)
    signal += _flutter(rng, wearing, channel, n)
    add_motion(rng, signal, channel.rate_hz, wearing.disturbance, 0.8 * strength**0.5, (0.4, 5.0))
    return signal


def _flutter(rng: np.random.Generator, wearing: Wearing, channel: ChannelPreset, n: int) -> Signal:
    """Brownish noise above about 1 Hz whose level differs between recordings and comes and goes over minutes."""
    decay = np.float32(np.exp(-2.0 * np.pi * 1.0 / channel.rate_hz))
    white = rng.standard_normal(n, dtype=np.float32)
    white *= np.sqrt(1.0 - decay**2)
    noise = lfilter(np.ones(1, np.float32), np.array([1.0, -decay], np.float32), white)
    slow = band_noise(rng, wearing.session.drivers.tone.size, GRID_HZ, 0.001, 0.03, slope=1.0)
    level = channel.flutter * rng.lognormal(0.0, 0.5) * np.exp(0.5 * slow)
    return noise * _on_grid(wearing, level, n, channel.rate_hz)


def _on_grid(wearing: Wearing, values_T: Floats, n: int, rate_hz: float) -> Signal:
    """Slow values on the drivers' grid brought to the device's samples, through its clock."""
    knots_s = np.arange(int(np.ceil(n / rate_hz * GRID_HZ)) + 2) / GRID_HZ
    at_knots = wearing.session.drivers.at(values_T, wearing.clock.true_s(knots_s))
    position = np.arange(n) * (GRID_HZ / rate_hz)
    return np.interp(position, np.arange(knots_s.size), at_knots).astype(np.float32)
