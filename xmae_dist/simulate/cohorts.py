"""Cohorts: subjects, sessions and devices put together into recordings with ground truth.

`simulate_subject(spec, index)` depends on `spec` and `index` alone, so subjects can be made anywhere, in any
order. Two cohorts with the same seed, subject prefix and prevalence hold the same people, on other occasions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from xmae_dist.core.errors import UsageError
from xmae_dist.core.seeds import generator
from xmae_dist.simulate import labels, sleep, vessels
from xmae_dist.simulate.autonomic import AWAKE, draw_drivers, grid_size
from xmae_dist.simulate.clocks import draw_clock
from xmae_dist.simulate.contact import draw_disturbance
from xmae_dist.simulate.devices import DEVICES, DevicePreset
from xmae_dist.simulate.recordings import (
    Session,
    SimulatedChannel,
    SimulatedRecording,
    Truth,
    Wearing,
    record_channel,
    truth_of,
)
from xmae_dist.simulate.rhythm import draw_beats, draw_fibrillation
from xmae_dist.simulate.subjects import Subject, draw_subject
from xmae_dist.simulate.traits import Prevalence
from xmae_dist.simulate.vessels import Site

__all__ = [
    "PRESETS",
    "CohortSpec",
    "SimulatedChannel",
    "SimulatedRecording",
    "Truth",
    "simulate_subject",
    "subject_id",
    "worn",
]

EPOCH_NS = 1_735_689_600_000_000_000
"""2025-01-01T00:00:00Z: when the first session of every subject's campaign starts."""

DAY_NS = 86_400_000_000_000
"""Sessions of one subject are a day apart."""

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
    prevalence: Prevalence = field(default_factory=Prevalence)
    asleep: bool = False
    """Sessions are stretches of nights, with sleep stages as labels."""
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
            name="night",
            devices=(DEVICES["ring"],),
            subjects=30,
            minutes=120.0,
            subject_prefix="night",
            asleep=True,
            gap_scale=0.5,
        ),
        CohortSpec(
            name="sleep_lab",
            devices=(DEVICES["bedside_monitor"],),
            subjects=40,
            minutes=60.0,
            subject_prefix="lab",
            asleep=True,
        ),
        CohortSpec(name="telemetry", devices=(DEVICES["telemetry_unit"],), subjects=40, subject_prefix="tele"),
    )
}


def subject_id(spec: CohortSpec, subject_index: int) -> str:
    """Name of the subject at `subject_index`; the seed is part of it, since another seed is another person."""
    return f"{spec.subject_prefix}-{spec.seed}-{spec.first_subject + subject_index:05d}"


def simulate_subject(spec: CohortSpec, subject_index: int) -> list[SimulatedRecording]:
    """All recordings of one subject: one per session and device. Raises UsageError for an index outside the cohort."""
    return [_record(spec, *one) for one in _occasions(spec, subject_index)]


def worn(spec: CohortSpec, subject_index: int) -> dict[str, Wearing]:
    """By recording id what is behind each recording of a subject, before a device spoils it; no signal is made.

    Raises UsageError for an index outside the cohort.
    """
    found = {}
    for session, occasion, device in _occasions(spec, subject_index):
        rng = _rng(spec, session.subject, occasion, device.name)
        found[_recording_id(spec, session, occasion, device)] = _wear(rng, spec, session, occasion, device)
    return found


def _occasions(spec: CohortSpec, subject_index: int) -> Iterator[tuple[Session, int, DevicePreset]]:
    if not 0 <= subject_index < spec.subjects:
        raise UsageError(
            thing=f"subject index in cohort {spec.name}",
            value=subject_index,
            expected=f"0 to {spec.subjects - 1}",
            fix="ask for an index inside the cohort",
        )
    subject = draw_subject(spec.seed, subject_id(spec, subject_index), spec.prevalence)
    for occasion in range(spec.recordings_per_subject):
        session = _session(spec, subject, occasion)
        for device in spec.devices:
            yield session, occasion, device


def _recording_id(spec: CohortSpec, session: Session, occasion: int, device: DevicePreset) -> str:
    return f"{spec.name}-{session.subject.subject_id}-{occasion:03d}-{device.name}"


def _rng(spec: CohortSpec, subject: Subject, occasion: int, purpose: str) -> np.random.Generator:
    return generator("simulate.session", spec.seed, spec.name, subject.subject_id, occasion, purpose)


def _session(spec: CohortSpec, subject: Subject, occasion: int) -> Session:
    rng = _rng(spec, subject, occasion, "physiology")
    duration = spec.minutes * 60.0
    covered = duration + START_JITTER_S
    stages = sleep.draw_hypnogram(rng, subject.body.age_yr, covered) if spec.asleep else None
    state = AWAKE if stages is None else sleep.modulation(rng, stages, grid_size(covered))
    restlessness = max(device.restlessness for device in spec.devices) * spec.motion_scale
    drivers = draw_drivers(rng, subject, covered, restlessness=restlessness, state=state)
    fibrillation = draw_fibrillation(rng, subject.rhythm, duration)
    return Session(
        subject=subject,
        drivers=drivers,
        beats=draw_beats(rng, subject.rhythm, drivers, fibrillation),
        fibrillation=fibrillation,
        duration_s=duration,
        stages=stages,
    )


def _wear(rng: np.random.Generator, spec: CohortSpec, session: Session, occasion: int, device: DevicePreset) -> Wearing:
    start = rng.uniform(0.0, START_JITTER_S) if len(spec.devices) > 1 else 0.0
    sites: list[Site] = [channel.site for channel in device.channels if channel.name.startswith("ppg")]
    # One body: what is drawn for the pulses does not depend on the device that sees them.
    body_rng = _rng(spec, session.subject, occasion, "pulses")
    return Wearing(
        session=session,
        device=device,
        clock=draw_clock(rng, device.clock, start, session.duration_s),
        disturbance=draw_disturbance(
            rng,
            device,
            session.drivers,
            session.duration_s,
            motion_scale=spec.motion_scale,
            gap_scale=spec.gap_scale,
        ),
        pulses=vessels.draw_pulses(
            body_rng, session.subject, session.beats, session.drivers, sites[0] if sites else "finger"
        ),
    )


def _record(spec: CohortSpec, session: Session, occasion: int, device: DevicePreset) -> SimulatedRecording:
    rng = _rng(spec, session.subject, occasion, device.name)
    wearing = _wear(rng, spec, session, occasion, device)
    channels = {channel.name: record_channel(rng, wearing, channel) for channel in device.channels}
    truth = truth_of(wearing)
    recording_id = _recording_id(spec, session, occasion, device)
    start_ns = EPOCH_NS + occasion * DAY_NS + int(round((truth.clock.start_s + truth.clock.offset_s) * 1e9))
    return SimulatedRecording(
        subject_id=session.subject.subject_id,
        recording_id=recording_id,
        device=device.name,
        body_site=device.body_site,
        clock_id=recording_id,
        start_time_ns=start_ns,
        channels=channels,
        labels=labels.numbers(wearing, truth, channels),
        label_text=labels.words(wearing, truth),
        truth=truth,
    )
