"""Clocks of devices: wrong by an offset, and drifting at a rate that may change once in a recording."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmae_dist.simulate.autonomic import Floats


@dataclass(frozen=True, kw_only=True)
class ClockPreset:
    """How wrong the clock of a kind of device may be; draws are uniform within the limits."""

    max_offset_s: float = 0.0
    max_drift_ppm: float = 0.0
    change_probability: float = 0.0
    """Chance that the drift changes once in a recording (temperature, a restart)."""


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

    def wall_s(self, true_s: Floats | float) -> Floats:
        """What the device's clock reads, in seconds since the session's true start, at true seconds."""
        return self.start_s + self.offset_s + self.device_s(true_s)


def draw_clock(rng: np.random.Generator, preset: ClockPreset, start_s: float, duration_s: float) -> DeviceClock:
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
