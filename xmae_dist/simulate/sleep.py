"""Nights: sleep stages and what they do to heart, breath, pressure and movement.

A hypnogram is a Markov chain over epochs of 30 s whose preferences follow a cycle of about 95 minutes: deep sleep early
in the night and in the cycle, REM late in both, more waking with age (Ohayon 2004). Stages act through the drivers
(Somers 1993, Trinder 2001): deep sleep is slow, regular and vagal, REM irregular in breath and rate, pressure dips.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xmae_dist.simulate.autonomic import GRID_HZ, MARGIN_S, Floats, Modulation

EPOCH_S = 30.0
STAGES = "W123R"
NIGHT_S = 8.0 * 3600.0
CYCLE_S = 95.0 * 60.0


_EFFECTS = {
    # Wake, N1, N2, N3, REM
    "heart_rate": (1.07, 1.00, 0.96, 0.95, 1.01),
    "rsa": (0.80, 1.00, 1.15, 1.30, 0.80),
    "slow_rate": (1.10, 0.90, 0.65, 0.35, 1.35),
    "breath_rate": (1.03, 1.00, 0.97, 0.96, 1.05),
    "breath_irregularity": (1.30, 1.10, 0.70, 0.35, 1.70),
    "pressure_mmhg": (-2.0, -5.0, -8.0, -10.0, -5.0),
    "restlessness": (1.0, 0.5, 0.08, 0.08, 0.08),
}
_STAY = np.array([0.88, 0.72, 0.93, 0.95, 0.95])


def draw_hypnogram(rng: np.random.Generator, age_yr: float, duration_s: float) -> NDArray[np.int8]:
    """Indices into STAGES (E,), one per 30 s; a stretch of a night that starts at a random time of it."""
    epochs = int(np.ceil(duration_s / EPOCH_S)) + 2
    night = max(int(NIGHT_S / EPOCH_S), epochs)
    time_s = np.arange(night, dtype=np.float64) * EPOCH_S
    wish = np.cumsum(_preferences(time_s, age_yr), axis=1)
    leave, choice = rng.random(night), rng.random(night)
    stages = np.zeros(night, dtype=np.int8)
    for epoch in range(1, night):
        previous = stages[epoch - 1]
        stays = leave[epoch] < _STAY[previous]
        stages[epoch] = previous if stays else np.searchsorted(wish[epoch], choice[epoch])
    first = int(rng.integers(0, night - epochs + 1))
    return stages[first : first + epochs]


def _preferences(time_s: Floats, age_yr: float) -> Floats:
    """Chance of each stage (E, 5) for those who change stage at `time_s` into the night."""
    cycle = (time_s / CYCLE_S) % 1.0
    older = age_yr - 40.0
    settled = 1.0 - np.exp(-time_s / 600.0)
    deep = 1.5 * np.exp(-time_s / 9000.0 - 0.016 * older) * np.exp(-0.5 * ((cycle - 0.40) / 0.16) ** 2)
    dream = (0.25 + time_s / 16000.0) * np.exp(-0.5 * ((cycle - 0.88) / 0.10) ** 2)
    wake = 0.10 * np.exp(0.018 * older) + 1.5 * (1.0 - settled)
    wishes = np.stack([wake, np.full_like(cycle, 0.22), 0.75 * settled, deep * settled, dream * settled], axis=1)
    return wishes / wishes.sum(axis=1, keepdims=True)


def modulation(rng: np.random.Generator, stages: NDArray[np.int8], n: int) -> Modulation:
    """Effects of the stages on the drivers' grid of `n` points; changes take about 20 s."""
    epoch = np.clip((np.arange(n) / GRID_HZ - MARGIN_S) // EPOCH_S, 0, stages.size - 1).astype(np.int64)
    stage = stages[epoch]
    kernel = np.exp(-np.arange(int(100 * GRID_HZ)) / (20.0 * GRID_HZ))
    kernel /= kernel.sum()

    def smooth(name: str) -> Floats:
        raw = np.array(_EFFECTS[name])[stage]
        padded = np.concatenate((np.full(kernel.size - 1, raw[0]), raw))
        return np.convolve(padded, kernel, mode="valid")

    # Nights and people differ: a stage is a tendency, not a number.
    vary = rng.lognormal(0.0, 0.35)
    return Modulation(
        heart_rate=1.0 + vary * (smooth("heart_rate") - 1.0),
        rsa=smooth("rsa"),
        slow_rate=smooth("slow_rate"),
        breath_rate=smooth("breath_rate"),
        breath_irregularity=smooth("breath_irregularity"),
        pressure_mmhg=vary * smooth("pressure_mmhg"),
        restlessness=np.array(_EFFECTS["restlessness"])[stage],
    )


def stage_text(stages: NDArray[np.int8], start_s: float, duration_s: float) -> str:
    """Stages of a recording that starts at session second `start_s`: one letter of STAGES per whole 30 s."""
    middle = start_s + (np.arange(int(duration_s // EPOCH_S)) + 0.5) * EPOCH_S
    index = np.clip(middle // EPOCH_S, 0, stages.size - 1).astype(np.int64)
    return "".join(STAGES[stage] for stage in stages[index])
