"""Cohorts: subjects, sessions and devices put together into recordings with ground truth.

`simulate_subject(spec, index)` depends on `spec` and `index` alone, so subjects can be made anywhere in any order. Two
cohorts with the same seed and subject prefix hold the same people, on other occasions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import UsageError
from xmae_dist.core.seeds import generator
from xmae_dist.simulate import heart, vessels
from xmae_dist.simulate.autonomic import MARGIN_S, Drivers, Floats, draw_drivers
from xmae_dist.simulate.devices import (
    DEVICES,
    ChannelPreset,
    DeviceClock,
    DevicePreset,
    Disturbance,
    add_mains,
    add_motion,
    analogue,
    cut_gaps,
    digitise,
    draw_clock,
    draw_disturbance,
    group_delay_s,
    lose_contact,
)
from xmae_dist.simulate.rhythm import (
    ATRIAL,
    FIBRILLATION,
    SINUS,
    VENTRICULAR,
    Beats,
    Spans,
    draw_beats,
    draw_fibrillation,
)
from xmae_dist.simulate.subjects import PWV_PER_MMHG, Prevalence, Subject, draw_subject
from xmae_dist.simulate.vessels import Pulses

EPOCH_NS = 1_735_689_600_000_000_000
"""2025-01-01T00:00:00Z: when the first session of every subject's campaign starts."""

START_JITTER_S = 8.0
"""Devices of one session are switched on within this time of each other."""


@dataclass(frozen=True, kw_only=True)
class CohortSpec:
    """One campaign: who takes part, what they wear, how long."""

    name: str
    devices: tuple[DevicePreset, ...]
    """Worn at the same time; each gives one recording on its own clock."""
    subjects: int = 50
    minutes: float = 10.0
    recordings_per_subject: int = 1
    subject_prefix: str = "sim"
    first_subject: int = 0
    seed: int = 0
    prevalence: Prevalence = Prevalence()
    motion_scale: float = 1.0
    """Multiplies the number of motion artefacts."""
    gap_scale: float = 1.0
    """Multiplies the number of gaps and of losses of contact."""

    def __post_init__(self) -> None:
        if not self.devices:
            raise UsageError(
                thing=f"devices of cohort {self.name}",
                value="none",
                expected="at least one",
                fix="name one of " + ", ".join(DEVICES),
            )
        if self.minutes * 60.0 < 10.0:
            raise UsageError(
                thing=f"minutes of cohort {self.name}",
                value=self.minutes,
                expected="at least 1/6 (10 s)",
                fix="ask for longer recordings",
            )


PRESETS: dict[str, CohortSpec] = {
    spec.name: spec
    for spec in (
        CohortSpec(name="bedside", devices=(DEVICES["bedside_monitor"],), subjects=60),
        CohortSpec(
            name="patch_watch",
            devices=(DEVICES["chest_patch"], DEVICES["smartwatch"]),
            subjects=40,
            minutes=30.0,
            subject_prefix="pw",
        ),
        CohortSpec(
            name="patch_ring",
            devices=(DEVICES["chest_patch"], DEVICES["ring"]),
            subjects=40,
            minutes=30.0,
            subject_prefix="pr",
        ),
        CohortSpec(name="ring", devices=(DEVICES["ring"],), subjects=40, minutes=20.0, subject_prefix="ring"),
        CohortSpec(
            name="telemetry", devices=(DEVICES["telemetry_unit"],), subjects=40, subject_prefix="tele"
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class SimulatedChannel:
    """One channel as the device stored it: physical = raw * scale + offset; MISSING where not recorded."""

    raw: NDArray[np.int16]
    rate_hz: float
    scale: float
    offset: float
    unit: str
    gaps: list[tuple[int, int]]


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
    """Pulse height relative to the mean."""
    pressure_mmhg: Floats
    """Mean arterial pressure."""
    clock: DeviceClock
    motion: list[tuple[float, float, float]]
    """Artefact bursts: start and duration in device seconds, strength."""
    respiration_grid: Floats
    """Breath on the drivers' grid of 4 Hz, from true second -MARGIN_S."""


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


def subject_id(spec: CohortSpec, subject_index: int) -> str:
    """Name of the subject at `subject_index`."""
    return f"{spec.subject_prefix}-{spec.first_subject + subject_index:05d}"


def simulate_subject(spec: CohortSpec, subject_index: int) -> list[SimulatedRecording]:
    """All recordings of one subject: one per session and device. Raises UsageError for an index outside the cohort."""
    if not 0 <= subject_index < spec.subjects:
        raise UsageError(
            thing=f"subject index in cohort {spec.name}",
            value=subject_index,
            expected=f"0 to {spec.subjects - 1}",
            fix="ask for an index inside the cohort",
        )
    subject = draw_subject(spec.seed, subject_id(spec, subject_index), spec.prevalence)
    return [
        _record(spec, session, occasion, device)
        for occasion in range(spec.recordings_per_subject)
        for session in [_session(spec, subject, occasion)]
        for device in spec.devices
    ]


def _rng(spec: CohortSpec, subject: Subject, occasion: int, purpose: str) -> np.random.Generator:
    return generator("simulate.session", spec.seed, spec.name, subject.subject_id, occasion, purpose)


def _session(spec: CohortSpec, subject: Subject, occasion: int) -> Session:
    rng = _rng(spec, subject, occasion, "physiology")
    duration = spec.minutes * 60.0
    covered = duration + START_JITTER_S
    drivers = draw_drivers(
        rng,
        subject,
        covered,
        restlessness=max(device.restlessness for device in spec.devices) * spec.motion_scale,
    )
    fibrillation = draw_fibrillation(rng, subject.rhythm, duration)
    beats = draw_beats(rng, subject.rhythm, drivers, fibrillation)
    return Session(
        subject=subject, drivers=drivers, beats=beats, fibrillation=fibrillation, duration_s=duration
    )


def _record(spec: CohortSpec, session: Session, occasion: int, device: DevicePreset) -> SimulatedRecording:
    subject = session.subject
    rng = _rng(spec, subject, occasion, device.name)
    start = rng.uniform(0.0, START_JITTER_S) if len(spec.devices) > 1 else 0.0
    clock = draw_clock(rng, device.clock, start, session.duration_s)
    disturbance = draw_disturbance(
        rng,
        device,
        session.drivers,
        session.duration_s,
        motion_scale=spec.motion_scale,
        gap_scale=spec.gap_scale,
    )
    site = next((channel.site for channel in device.channels if channel.name == "ppg"), "finger")
    # One body: devices at the same site share arrival times, whatever else they draw.
    pulses = vessels.draw_pulses(
        _rng(spec, subject, occasion, "pulses"), subject, session.beats, session.drivers, site
    )
    channels = {
        channel.name: _channel(rng, session, device, channel, clock, disturbance, pulses)
        for channel in device.channels
    }
    truth = _truth(session, clock, pulses, disturbance)
    recording_id = f"{spec.name}-{subject.subject_id}-{occasion:03d}-{device.name}"
    true_start_ns = EPOCH_NS + occasion * 86_400_000_000_000 + int(round(start * 1e9))
    return SimulatedRecording(
        subject_id=subject.subject_id,
        recording_id=recording_id,
        device=device.name,
        body_site=device.body_site,
        clock_id=recording_id,
        start_time_ns=true_start_ns + int(round(clock.offset_s * 1e9)),
        channels=channels,
        labels=_labels(session, truth, channels, device),
        label_text=_label_text(session, truth),
        truth=truth,
    )


def _channel(
    rng: np.random.Generator,
    session: Session,
    device: DevicePreset,
    channel: ChannelPreset,
    clock: DeviceClock,
    disturbance: Disturbance,
    pulses: Pulses,
) -> SimulatedChannel:
    n = int(round(session.duration_s * channel.rate_hz))
    make = _ppg_signal if channel.name == "ppg" else _ecg_signal
    signal = make(rng, session, channel, clock, disturbance, pulses, n)
    add_mains(rng, signal, channel.rate_hz, device.mains_hz, channel.mains)
    signal += np.float32(channel.noise) * rng.standard_normal(n, dtype=np.float32)
    lose_contact(rng, signal, channel.rate_hz, disturbance, channel)
    signal = analogue(signal, channel.rate_hz, channel.band_hz)
    raw, scale = digitise(signal, channel)
    gaps = cut_gaps(raw, channel.rate_hz, disturbance)
    return SimulatedChannel(
        raw=raw, rate_hz=channel.rate_hz, scale=scale, offset=0.0, unit=channel.unit, gaps=gaps
    )


def _ecg_signal(
    rng: np.random.Generator,
    session: Session,
    channel: ChannelPreset,
    clock: DeviceClock,
    disturbance: Disturbance,
    pulses: Pulses,
    n: int,
) -> NDArray[np.float32]:
    del pulses
    electrical = session.subject.electrical
    breath = session.drivers.at(session.drivers.respiration_T, session.beats.r_time_s)
    lead = channel.lead_deg + rng.normal(0.0, 1.0) * channel.placement_deg
    waves = heart.waves(electrical, session.beats, lead, breath)
    signal = heart.render_ecg(waves, clock.device_s(session.beats.r_time_s), n, channel.rate_hz)
    spans = [
        (float(clock.device_s(start)), float(clock.device_s(stop))) for start, stop in session.fibrillation
    ]
    if spans:
        signal += heart.fibrillatory_waves(rng, electrical, spans, n, channel.rate_hz)
    baseline = (
        0.06 * session.drivers.respiration_T
        + 0.10 * np.cumsum(rng.standard_normal(session.drivers.tone_T.size)) * 0.05
    )
    signal += _on_grid(session.drivers, baseline, clock, n, channel.rate_hz)
    add_motion(rng, signal, channel.rate_hz, disturbance, 0.22, (0.7, min(30.0, 0.4 * channel.rate_hz)))
    return signal


def _ppg_signal(
    rng: np.random.Generator,
    session: Session,
    channel: ChannelPreset,
    clock: DeviceClock,
    disturbance: Disturbance,
    pulses: Pulses,
    n: int,
) -> NDArray[np.float32]:
    subject = session.subject
    size = vessels.SITE_STRENGTH[channel.site] * subject.perfusion * (1.0 - 0.45 * subject.skin_attenuation)
    signal = vessels.render_pulses(subject, pulses, clock.device_s(pulses.arrival_s), n, channel.rate_hz)
    signal *= np.float32(size)
    signal += _on_grid(
        session.drivers, size * vessels.wander(rng, session.drivers), clock, n, channel.rate_hz
    )
    add_motion(
        rng,
        signal,
        channel.rate_hz,
        disturbance,
        0.8 * vessels.SITE_STRENGTH[channel.site] ** 0.5,
        (0.4, 5.0),
    )
    return signal


def _on_grid(
    drivers: Drivers, values_T: Floats, clock: DeviceClock, n: int, rate_hz: float
) -> NDArray[np.float32]:
    """Slow values on the drivers' grid brought to the device's samples; a clock's curvature over 1 s is nothing here."""
    knots = np.arange(int(np.ceil(n / rate_hz * 4.0)) + 2) / 4.0
    at_knots = drivers.at(values_T, clock.true_s(knots)).astype(np.float32)
    position = np.arange(n, dtype=np.float32) * np.float32(4.0 / rate_hz)
    return np.interp(position, np.arange(knots.size), at_knots).astype(np.float32)


def _truth(session: Session, clock: DeviceClock, pulses: Pulses, disturbance: Disturbance) -> Truth:
    device_s = clock.device_s(session.beats.r_time_s)
    covered = (device_s >= 0.0) & (device_s < session.duration_s)
    return Truth(
        r_true_s=session.beats.r_time_s[covered],
        r_device_s=device_s[covered],
        arrival_true_s=pulses.arrival_s[covered],
        arrival_device_s=clock.device_s(pulses.arrival_s[covered]),
        rr_before_s=session.beats.rr_before_s[covered],
        kind=session.beats.kind[covered],
        strength=pulses.strength[covered],
        pressure_mmhg=pulses.pressure_mmhg[covered],
        clock=clock,
        motion=disturbance.motion,
        respiration_grid=session.drivers.respiration_T,
    )


def _labels(
    session: Session, truth: Truth, channels: dict[str, SimulatedChannel], device: DevicePreset
) -> dict[str, float]:
    subject = session.subject
    minutes = session.duration_s / 60.0
    shift = float(truth.pressure_mmhg.mean()) - subject.map_mmhg
    gain = float(np.exp(PWV_PER_MMHG * shift))
    sinus = truth.kind == SINUS
    missing = max(sum(stop - start for start, stop in c.gaps) / c.raw.size for c in channels.values())
    ppg = next((channel for channel in device.channels if channel.name == "ppg"), None)
    labels = {
        "age": subject.age_yr,
        "sex": float(subject.male),
        "bmi": subject.bmi,
        "height_m": subject.height_m,
        "heart_rate_bpm": 60.0 / float(np.mean(np.diff(truth.r_true_s))),
        "respiration_rate_bpm": session.drivers.respiration_rate_bpm,
        "af": float(np.mean(truth.kind == FIBRILLATION) > 0.5),
        "af_fraction": float(np.mean(truth.kind == FIBRILLATION)),
        "af_history": float(subject.rhythm.af),
        "ectopy_per_min": float(np.sum((truth.kind == VENTRICULAR) | (truth.kind == ATRIAL))) / minutes,
        "pvc_per_min": float(np.sum(truth.kind == VENTRICULAR)) / minutes,
        "hypertension": float(subject.hypertension),
        "antihypertensive": float(subject.treated),
        "sbp_mmhg": subject.sbp_mmhg + 1.25 * shift,
        "dbp_mmhg": subject.dbp_mmhg + 0.85 * shift,
        "pwv_m_s": subject.vessels.aortic_pwv_m_s * gain,
        "pulse_arrival_time_ms": 1000.0 * float(np.median(truth.arrival_true_s - truth.r_true_s)),
        "ppg_chain_delay_ms": 1000.0 * group_delay_s(ppg.band_hz, ppg.rate_hz) if ppg else 0.0,
        "clock_offset_s": truth.clock.offset_s,
        "clock_drift_ppm": truth.clock.drift_ppm,
        "clock_drift_after_ppm": truth.clock.drift_after_ppm,
        "motion_fraction": min(sum(length for _, length, _ in truth.motion) / session.duration_s, 1.0),
        "missing_fraction": missing,
    }
    if np.count_nonzero(sinus) > 30:
        labels["sdnn_ms"] = 1000.0 * float(np.std(truth.rr_before_s[sinus]))
    return labels


def _label_text(session: Session, truth: Truth) -> dict[str, str]:
    share = float(np.mean(truth.kind == FIBRILLATION))
    rhythm = (
        "sinus"
        if share == 0.0
        else "atrial fibrillation"
        if share == 1.0
        else "paroxysmal atrial fibrillation"
    )
    return {"sex": "male" if session.subject.male else "female", "rhythm": rhythm, "origin": "simulated"}
