"""Slow drivers shared by heart, vessels and devices: breath, heart rate, pressure, vascular tone, activity.

All live on one grid of 4 Hz in true time, so that respiratory sinus arrhythmia, the respiratory swing of the
pulse and the baseline of the electrodes follow the same breath, and a rise of pressure speeds up the same
pulses that it changes in shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from xmae_dist.simulate.subjects import Subject

GRID_HZ = 4.0
MARGIN_S = 20.0
"""Physiology runs this long before and after the session, so that no device starts in silence."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Drivers:
    """Slow state on a grid; index 0 is time -MARGIN_S. Arrays (T,)."""

    respiration: Floats
    """Breath, about -1.2 to 1.2, inspiration positive."""
    heart_rate: Floats
    """Rate without respiratory sinus arrhythmia, beats/min."""
    rsa: Floats
    """Relative change of the rate by respiration."""
    pressure_shift: Floats
    """Mean arterial pressure minus the subject's usual one, mmHg."""
    tone: Floats
    """Vasomotor tone of the skin, unit variance; positive constricts."""
    activity: Floats
    """0 at rest to 1 in brisk movement."""
    respiration_rate_bpm: float

    def at(self, values_T: Floats, time_s: NDArray[np.floating]) -> Floats:
        """`values_T` at times in seconds of the session, linearly interpolated."""
        position = (np.asarray(time_s, dtype=np.float64) + MARGIN_S) * GRID_HZ
        return np.interp(position, np.arange(values_T.size), values_T)


@dataclass(frozen=True, kw_only=True)
class Modulation:
    """What a state such as a sleep stage does to the drivers: factors on the grid (T,), or numbers for all of it."""

    heart_rate: Floats | float = 1.0
    rsa: Floats | float = 1.0
    slow_rate: Floats | float = 1.0
    """Slow and low-frequency variability of the rate."""
    breath_rate: Floats | float = 1.0
    breath_irregularity: Floats | float = 1.0
    pressure_mmhg: Floats | float = 0.0
    """Added to the mean arterial pressure."""
    restlessness: Floats | float = 1.0
    """At most 1."""


AWAKE = Modulation()


def grid_size(duration_s: float) -> int:
    """Points of the drivers' grid for a session of `duration_s`."""
    return int(np.ceil((duration_s + 2 * MARGIN_S) * GRID_HZ)) + 1


def band_noise(
    rng: np.random.Generator, n: int, rate_hz: float, low_hz: float, high_hz: float, slope: float = 0.0
) -> Floats:
    """Unit-variance Gaussian noise (n,) with power ~ f**-slope between two frequencies and none outside.

    Zeros where the span is too short to hold the band.
    """
    size = fft.next_fast_len(n, real=True)
    frequency = fft.rfftfreq(size, 1.0 / rate_hz)
    keep = np.flatnonzero((frequency >= low_hz) & (frequency <= high_hz) & (frequency > 0))
    if keep.size == 0:
        return np.zeros(n)
    spectrum = np.zeros(frequency.size, dtype=np.complex128)
    gain = frequency[keep] ** (-slope / 2.0)
    spectrum[keep] = gain * (rng.standard_normal(keep.size) + 1j * rng.standard_normal(keep.size))
    # The variance of the real signal is known from the gains: a short draw keeps its own level.
    return fft.irfft(spectrum, size)[:n] * (size / (2.0 * np.sqrt(np.sum(gain**2))))


def draw_drivers(
    rng: np.random.Generator,
    subject: Subject,
    duration_s: float,
    *,
    restlessness: float,
    state: Modulation = AWAKE,
) -> Drivers:
    """Slow state of one session. `restlessness` is the expected share of time spent moving."""
    n = grid_size(duration_s)
    activity = _activity(rng, n, restlessness, state)
    breath, breath_rate = _respiration(rng, subject, activity, state)
    minutes = band_noise(rng, n, GRID_HZ, 0.0004, 0.012, slope=1.3)
    mayer = band_noise(rng, n, GRID_HZ, 0.07, 0.13)
    occasion = rng.normal(0.0, 4.0)
    pressure = occasion + 5.5 * minutes + 1.8 * mayer - 1.2 * breath + 14.0 * activity + state.pressure_mmhg
    # Slow breathing modulates the vagus more deeply (Hirsch and Bishop 1981).
    depth = subject.rhythm.rsa * state.rsa * (1.0 - 0.7 * activity) * (14.0 / breath_rate) ** 0.5
    return Drivers(
        respiration=breath,
        heart_rate=_heart_rate(rng, subject, activity, mayer, state),
        rsa=np.sqrt(2.0) * depth * breath,
        pressure_shift=pressure,
        tone=0.8 * band_noise(rng, n, GRID_HZ, 0.001, 0.05, slope=1.0) + 0.6 * mayer,
        activity=activity,
        respiration_rate_bpm=breath_rate,
    )


def _respiration(
    rng: np.random.Generator, subject: Subject, activity: Floats, state: Modulation
) -> tuple[Floats, float]:
    n = activity.size
    mean_bpm = subject.rhythm.respiration_rate_bpm * np.exp(rng.normal(0.0, 0.07))
    irregular = 0.07 * state.breath_irregularity * band_noise(rng, n, GRID_HZ, 0.002, 0.06)
    rate = np.maximum(mean_bpm * state.breath_rate * (1.0 + irregular + 0.45 * activity), 4.0)
    inside = slice(int(MARGIN_S * GRID_HZ), n - int(MARGIN_S * GRID_HZ))
    phase = 2.0 * np.pi * (np.cumsum(rate) / (60.0 * GRID_HZ) + rng.random())
    depth = 1.0 + 0.18 * state.breath_irregularity * band_noise(rng, n, GRID_HZ, 0.005, 0.08)
    # Expiration is longer than inspiration: a second harmonic skews the breath.
    breath = np.maximum(depth, 0.2) * (np.sin(phase) + 0.18 * np.sin(2.0 * phase + 0.6))
    return breath, float(np.mean(rate[inside]))


def _heart_rate(
    rng: np.random.Generator, subject: Subject, activity: Floats, mayer: Floats, state: Modulation
) -> Floats:
    n = activity.size
    rhythm = subject.rhythm
    # The baroreflex answers a pressure wave some 2 s later with the opposite change of rate.
    reflex = -np.roll(mayer, int(2.0 * GRID_HZ))
    low = rhythm.low_frequency * (0.7 * reflex + 0.7 * band_noise(rng, n, GRID_HZ, 0.04, 0.15))
    slow = rhythm.very_low_frequency * band_noise(rng, n, GRID_HZ, 0.0008, 0.04, slope=1.0)
    level = rhythm.heart_rate_bpm * np.exp(rng.normal(0.0, 0.06)) * state.heart_rate
    effort = 0.40 * np.exp(-0.005 * (subject.body.age_yr - 40.0)) * activity
    return np.clip(level * (1.0 + state.slow_rate * (low + slow) + effort), 35.0, 190.0)


def _activity(rng: np.random.Generator, n: int, restlessness: float, state: Modulation) -> Floats:
    """Bouts of one to a few minutes, smoothed by the time heart and vessels take to follow (about 20 s)."""
    activity = np.zeros(n)
    seconds = n / GRID_HZ
    for _ in range(rng.poisson(restlessness * seconds / 100.0)):
        start = rng.random() * seconds
        stop = start + rng.gamma(2.0, 50.0)
        activity[int(start * GRID_HZ) : int(stop * GRID_HZ)] = rng.uniform(0.2, 1.0)
    kernel = np.exp(-np.arange(int(60 * GRID_HZ)) / (20.0 * GRID_HZ))
    followed = np.convolve(activity * state.restlessness, kernel / kernel.sum())[:n]
    return np.clip(followed, 0.0, 1.0)
