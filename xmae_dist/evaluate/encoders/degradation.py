"""Windows as a worse device would have delivered them: sampled more slowly, noisier, or on a moving wrist.

Degradations act on windows of a store, which are cleaned already. Cleaning is linear up to the final scaling, so a
disturbance that is cleaned by itself and added is what cleaning the disturbed recording would have given; then the
window is scaled to [-1, 1] anew. What is drawn depends on the window and the level alone, never on its place in a
batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import UsageError
from xmae_dist.core.seeds import generator
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.normalize import minmax
from xmae_dist.signals.resample import resample

Floats = NDArray[np.float64]

DEFAULT_LEVELS: dict[str, tuple[float, ...]] = {
    "rate": (25.0, 12.5, 6.25),
    "noise": (10.0, 0.0, -10.0),
    "motion": (0.5, 1.0, 2.0),
}
TITLES = {
    "rate": "sampling rate (Hz)",
    "noise": "signal-to-noise ratio before cleaning (dB)",
    "motion": "motion artefact, amplitude relative to the pulse",
}


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """`rate`: sampled at `level` Hz, with anti-aliasing, and brought back to the grid. `noise`: white noise over the
    whole band of the grid, `level` dB below the pulse's power before cleaning. `motion`: half of the window swings
    rhythmically and jerks, `level` times as large (RMS) as the pulse.
    """

    kind: str
    level: float

    @property
    def name(self) -> str:
        return f"{self.kind}={self.level:g}"

    def apply(self, x_BL: NDArray[np.floating], rate_hz: float, band_hz: tuple[float, float]) -> NDArray[np.float32]:
        """(B, L) windows in [-1, 1], spoiled; `rate_hz` is that of the grid, `band_hz` the corners of its cleaning."""
        x_BL = np.asarray(x_BL, float)
        if self.kind == "rate":
            return minmax(np.stack([_slower(x_L, rate_hz, self.level) for x_L in x_BL]))[0]
        draw = _noise if self.kind == "noise" else _motion
        added_BL = bandpass(np.stack([self._drawn(draw, x_L, rate_hz) for x_L in x_BL]), rate_hz, band_hz)
        return minmax(x_BL + added_BL)[0]

    def _drawn(self, draw: Callable[..., Floats], x_L: Floats, rate_hz: float) -> Floats:
        window = hashlib.blake2b(x_L.astype(np.float16).tobytes(), digest_size=8).hexdigest()
        return draw(generator("degradation", self.name, window), x_L.std(), len(x_L), rate_hz, self.level)


def parse_degradation(name: str) -> Degradation:
    """`rate=25`, `noise=0`, `motion=1`. Raises UsageError."""
    (found,) = parse_degradations([name])
    return found


def parse_degradations(words: Iterable[str]) -> tuple[Degradation, ...]:
    """`rate` (its default levels) or `rate=50,25`, for each word. Raises UsageError."""
    found: list[Degradation] = []
    for word in words:
        kind, _, levels = word.partition("=")
        try:
            values = tuple(map(float, levels.split(","))) if levels else DEFAULT_LEVELS[kind]
        except (KeyError, ValueError):
            values = ()
        if kind not in DEFAULT_LEVELS or not values or (kind != "noise" and min(values) <= 0):
            raise UsageError(
                "--degrade",
                value=repr(word),
                expected="rate, noise or motion, or one of them with levels, such as rate=50,25",
                fix="levels are Hz above 0, dB, and multiples of the pulse above 0",
            )
        found += [Degradation(kind=kind, level=value) for value in values]
    return tuple(dict.fromkeys(found))


def _slower(x_L: Floats, rate_hz: float, level_hz: float) -> Floats:
    if level_hz >= rate_hz:
        return x_L
    return resample(resample(x_L, rate_hz, level_hz), level_hz, rate_hz, n_out=len(x_L))


def _noise(rng: np.random.Generator, pulse: float, n: int, rate_hz: float, level_db: float) -> Floats:
    return rng.standard_normal(n) * pulse * 10.0 ** (-level_db / 20.0)


def _motion(rng: np.random.Generator, pulse: float, n: int, rate_hz: float, level: float) -> Floats:
    """A swing of 0.8 to 2.5 Hz (arm and stride; Charlton et al. 2022) with its harmonic, and steps of the contact."""
    time_s = np.arange(n) / rate_hz
    swing_hz, phase = rng.uniform(0.8, 2.5), rng.uniform(0, 2 * np.pi, 2)
    wave = np.sin(2 * np.pi * swing_hz * time_s + phase[0]) + 0.5 * np.sin(4 * np.pi * swing_hz * time_s + phase[1])
    jerks = np.cumsum(rng.standard_normal(n) * (rng.random(n) < 1.5 / rate_hz))
    half = n // 2
    episode = np.zeros(n)
    first = int(rng.integers(0, n - half + 1))
    episode[first : first + half] = np.hanning(half) ** 0.25
    artefact = (wave + jerks - jerks.mean()) * episode
    inside = artefact[first : first + half]
    return artefact * (level * pulse / max(float(inside.std()), 1e-9))
