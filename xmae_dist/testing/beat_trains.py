"""Beat trains of two devices on one person, with what goes wrong between them, for studies of alignment.

Physiology (rhythm, arrhythmia, arrival time) is the simulator's; what the detectors and the clocks make of it is
planted here, so that a pair of an hour takes milliseconds and every number is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xmae_dist.core.seeds import generator
from xmae_dist.simulate.autonomic import GRID_HZ, band_noise, draw_drivers
from xmae_dist.simulate.clocks import ClockPreset, DeviceClock, draw_clock
from xmae_dist.simulate.rhythm import draw_beats, draw_fibrillation
from xmae_dist.simulate.subjects import draw_subject
from xmae_dist.simulate.traits import Prevalence
from xmae_dist.simulate.vessels import draw_pulses

SEEN_STRENGTH = 0.35  # a pulse weaker than this share of the mean is not seen


@dataclass(frozen=True, kw_only=True)
class PairSpec:
    """How hard a pair is."""

    seed: int
    minutes: float = 60.0
    reference_hz: float = 250.0
    other_hz: float = 64.0
    missing: float = 0.15
    """Share of beats each detector loses, half of them in bursts."""
    spurious: float = 0.02
    """Beats each detector invents, as a share of the true ones."""
    wander_s: float = 0.010
    """Standard deviation of slow wander of the arrival time beside what pressure and tone do."""
    change: bool = True
    """Whether the drift changes, somewhere in the middle half."""
    prevalence: Prevalence = field(default_factory=Prevalence)


@dataclass(frozen=True, kw_only=True)
class BeatTrainPair:
    """What two devices saw, and the truth."""

    reference_s: np.ndarray
    other_s: np.ndarray
    clock: DeviceClock
    """Of the other device; the reference runs true."""
    r_true_s: np.ndarray
    """R peak of every beat."""
    arrival_s: np.ndarray
    """Arrival time of every beat's pulse after its R peak."""

    def misalignment_s(self, told_s: np.ndarray, true_s: np.ndarray, arrival_prior_s: float) -> np.ndarray:
        """Error of times told on the reference clock, beyond the constant that nobody can know.

        The person's median arrival time counts as the declared one, so a perfect alignment gives zeros.
        """
        return told_s - true_s - (arrival_prior_s - float(np.median(self.arrival_s)))

    def drift_floor_ppm(self) -> float:
        """Slope of the arrival time itself over the recording: what no method can tell from drift."""
        return float(1e6 * np.polyfit(self.r_true_s, self.arrival_s, 1)[0])


def beat_train_pair(spec: PairSpec) -> BeatTrainPair:
    """Draw one pair; equal specifications give equal pairs."""
    rng = generator("testing.beat_trains", spec.seed)
    duration_s = spec.minutes * 60.0
    subject = draw_subject(spec.seed, f"pair-{spec.seed}", spec.prevalence)
    drivers = draw_drivers(rng, subject, duration_s, restlessness=0.06)
    beats = draw_beats(rng, subject.rhythm, drivers, draw_fibrillation(rng, subject.rhythm, duration_s))
    pulses = draw_pulses(rng, subject, beats, drivers, "wrist")
    slow = band_noise(rng, drivers.tone.size, GRID_HZ, 0.0005, 0.01, slope=1.0)
    arrival_s = pulses.delay_s + spec.wander_s * drivers.at(slow, beats.r_time_s)
    inside = (beats.r_time_s >= 0) & (beats.r_time_s < duration_s)
    preset = ClockPreset(max_offset_s=60.0, max_drift_ppm=100.0, change_probability=float(spec.change))
    clock = draw_clock(rng, preset, 0.0, duration_s)
    seen = inside & (pulses.strength > SEEN_STRENGTH)
    return BeatTrainPair(
        reference_s=_detect(rng, beats.r_time_s[inside], spec, spec.reference_hz, 0.002),
        other_s=_detect(rng, clock.wall_s((beats.r_time_s + arrival_s)[seen]), spec, spec.other_hz, 0.006),
        clock=clock,
        r_true_s=beats.r_time_s[inside],
        arrival_s=arrival_s[inside],
    )


def _detect(rng: np.random.Generator, beat_s: np.ndarray, spec: PairSpec, rate_hz: float, noise_s: float) -> np.ndarray:
    """What a detector on a grid of `rate_hz` makes of the beats: lost ones, invented ones, rounded times."""
    kept = rng.random(beat_s.size) >= spec.missing / 2
    lost = 0
    while lost < spec.missing / 2 * beat_s.size:
        length = 1 + rng.poisson(20)
        first = rng.integers(beat_s.size)
        kept[first : first + length] = False
        lost += length
    invented = rng.uniform(beat_s[0], beat_s[-1], rng.poisson(spec.spurious * beat_s.size))
    found = np.concatenate([beat_s[kept] + noise_s * rng.standard_normal(np.count_nonzero(kept)), invented])
    return np.unique(np.round(found * rate_hz) / rate_hz)
