"""From heart beat to pulse: when each pulse arrives at the skin, how strong it is and what shape it has.

Arrival = R peak + pre-ejection period + transit (path over pulse wave velocity) + delay of the small vessels. The
velocity follows the momentary pressure (Moens-Korteweg with Hughes' exponential modulus), so arrival time wanders
by tens of milliseconds over minutes and falls as pressure rises. Strength follows the filling time before the
beat: a premature beat ejects little and late, some not at all. Shape is a systolic wave, a reflected wave that
returns the earlier and the higher the stiffer the arteries, and the diastolic run-off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xmae_dist.simulate.autonomic import Drivers, Floats, band_noise
from xmae_dist.simulate.heart import Signal, scatter_add
from xmae_dist.simulate.rhythm import VENTRICULAR, Beats
from xmae_dist.simulate.subjects import Subject
from xmae_dist.simulate.traits import PWV_PER_MMHG

PULSE_S = 1.9
"""A pulse has died away this long after its foot."""

Site = Literal["finger", "finger_base", "wrist", "ear"]

PATH_OF_HEIGHT: dict[Site, tuple[float, float]] = {
    "finger": (0.06, 0.46),
    "finger_base": (0.06, 0.42),
    "wrist": (0.06, 0.345),
    "ear": (0.09, 0.08),
}
"""Aortic and peripheral path length from the valve as a share of body height."""

SITE_STRENGTH: dict[Site, float] = {"finger": 1.0, "finger_base": 0.7, "wrist": 0.30, "ear": 0.6}
"""Pulse relative to a finger's; weak sites drown in the same noise."""


@dataclass(frozen=True, kw_only=True)
class Pulses:
    """The pulse of each beat at one site. Arrays (N,)."""

    arrival_s: Floats
    """When the foot reaches the skin, seconds of the session."""
    delay_s: Floats
    """Pulse arrival time: arrival minus R peak."""
    strength: Floats
    """Height relative to this subject's mean pulse; 0 where the valve did not open."""
    pressure_mmhg: Floats
    """Mean arterial pressure at the beat."""
    velocity_gain: Floats
    """Pulse wave velocity relative to the usual one."""


def draw_pulses(rng: np.random.Generator, subject: Subject, beats: Beats, drivers: Drivers, site: Site) -> Pulses:
    """Arrival and strength of every beat's pulse at `site`."""
    time = beats.r_time_s
    shift = drivers.at(drivers.pressure_shift, time)
    gain = np.exp(PWV_PER_MMHG * shift)
    tone = drivers.at(drivers.tone, time)
    stroke = _stroke(beats)
    delay = (
        _pre_ejection(rng, subject, beats, drivers)
        + transit_s(subject, site) / gain
        + subject.vessels.microvascular_delay_s * (1.0 + 0.10 * tone)
    )
    breath = drivers.at(drivers.respiration, time)
    # Skin vessels constrict with tone; inspiration lowers left ventricular output a little.
    strength = stroke * np.exp(-0.16 * tone) * (1.0 - 0.06 * breath)
    return Pulses(
        arrival_s=time + delay,
        delay_s=delay,
        strength=strength,
        pressure_mmhg=subject.body.map_mmhg + shift,
        velocity_gain=gain,
    )


def transit_s(subject: Subject, site: Site) -> float:
    """Travel time from the aortic valve to the site at the subject's usual pressure."""
    aortic, peripheral = PATH_OF_HEIGHT[site]
    vessels = subject.vessels
    return subject.body.height_m * (aortic / vessels.aortic_pwv_m_s + peripheral / vessels.arm_pwv_m_s)


def render_pulses(subject: Subject, pulses: Pulses, arrival_device_s: Floats, n_samples: int, rate_hz: float) -> Signal:
    """Pulse wave (n_samples,) in units of the mean pulse height, on a device's grid.

    `arrival_device_s` (N,) are the feet in seconds of the device's clock. Pulses overlap and add up.
    """
    width = int(np.ceil(PULSE_S * rate_hz))
    first = np.ceil(arrival_device_s * rate_hz).astype(np.int64)
    seen = np.flatnonzero((first + width > 0) & (first < n_samples) & (pulses.strength > 0.0))
    signal = np.zeros(n_samples, dtype=np.float32)
    for group in np.array_split(seen, max(seen.size // 1024, 1)):
        if group.size:
            lag = (first[group] / rate_hz - arrival_device_s[group])[:, None] + np.arange(width) / rate_hz
            shape = pulse_shape(subject, pulses.velocity_gain[group], lag.astype(np.float32))
            shape *= pulses.strength[group].astype(np.float32)[:, None]
            scatter_add(signal, first[group], shape)
    return signal


def pulse_shape(subject: Subject, velocity_gain: Floats, lag_s: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pulse height (N, K) at `lag_s` (N, K) >= 0 after the foot, for velocities (N,) relative to the usual one."""
    vessels = subject.vessels
    gain = velocity_gain.astype(np.float32)[:, None]
    crest = np.float32(vessels.crest_time_s)
    back = np.float32(subject.body.height_m / vessels.stiffness_index_m_s) / gain
    ratio = np.float32(vessels.reflection_ratio) * np.sqrt(gain)
    shape = _surge(lag_s, crest)
    reflected = _surge(lag_s - (back - np.float32(0.05)), crest + np.float32(0.05))
    reflected *= ratio
    shape += reflected
    run_off = _surge(lag_s, np.float32(0.28))
    run_off *= np.float32(0.30)
    shape += run_off
    return shape


def wander(rng: np.random.Generator, drivers: Drivers) -> Floats:
    """Slow volume of the tissue under the sensor on the drivers' grid, in units of the mean pulse height."""
    n = drivers.tone.size
    return 0.16 * drivers.respiration - 0.35 * drivers.tone + 0.25 * band_noise(rng, n, 4.0, 0.005, 0.3, slope=1.5)


def _surge(lag_s: NDArray[np.float32], peak_s: np.float32) -> NDArray[np.float32]:
    """(x/p)^2 exp(2 (1 - x/p)) for x > 0: rises from an exact foot to 1 at p and decays."""
    x = np.maximum(lag_s, np.float32(0.0))
    x /= peak_s
    fall = np.float32(2.0) - np.float32(2.0) * x
    np.exp(fall, out=fall)
    np.square(x, out=x)
    x *= fall
    return x


def _stroke(beats: Beats) -> Floats:
    """Stroke volume relative to the mean interval's: exponential filling, less what cannot open the aortic valve."""
    usual = float(np.median(beats.rr_before_s))
    filling = _filling(beats.rr_before_s) / _filling(np.array(usual))
    filling = filling * np.where(beats.kind == VENTRICULAR, 0.72, 1.0)
    opened = np.maximum(filling - 0.30, 0.0) / 0.70
    # A long pause potentiates the next beat and lets diastolic pressure fall: a larger pulse.
    return opened * (1.0 + 0.25 * np.maximum(beats.rr_before_s / usual - 1.0, 0.0))


def _filling(rr_s: Floats) -> Floats:
    return 1.0 - np.exp(-np.maximum(rr_s - 0.22, 0.0) / 0.26)


def _pre_ejection(rng: np.random.Generator, subject: Subject, beats: Beats, drivers: Drivers) -> Floats:
    """R peak to opening of the aortic valve, per beat: longer after a short filling, shorter with effort."""
    n = beats.r_time_s.size
    usual = float(np.median(beats.rr_before_s))
    short = np.maximum(1.0 - beats.rr_before_s / usual, 0.0)
    effort = drivers.at(drivers.activity, beats.r_time_s)
    slow = drivers.at(band_noise(rng, drivers.tone.size, 4.0, 0.0005, 0.03, slope=1.0), beats.r_time_s)
    late = np.where(beats.kind == VENTRICULAR, 0.018, 0.0)
    pep = subject.pep_s + 0.07 * short + late - 0.030 * effort + 0.004 * slow + 0.003 * rng.standard_normal(n)
    return np.maximum(pep, 0.015)
