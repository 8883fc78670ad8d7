"""When the heart beats: sinus rhythm, ectopic beats, atrial fibrillation.

The sinus node is an integrator of the heart rate: it fires whenever the integral ("phase", in beats) passes the
next whole number (integral pulse frequency modulation; Mateo and Laguna 2000). Arrhythmia changes the step from
one beat to the next in that same phase, so modulation by respiration stays where it belongs however many ectopic
beats came before:

- ventricular ectopic: step c < 1, next step 2 - c. The sinus node is not reset, the pause is fully compensatory.
- atrial ectopic: step c, next step slightly over 1. The sinus node is reset.
- fibrillation: independent steps 1/2 + gamma, no respiratory modulation, and a faster ventricular rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xmae_dist.simulate.autonomic import GRID_HZ, MARGIN_S, Drivers, Floats
from xmae_dist.simulate.traits import Rhythm

SINUS, VENTRICULAR, ATRIAL, FIBRILLATION = 0, 1, 2, 3

SHORTEST_RR_S = 0.26


@dataclass(frozen=True, kw_only=True)
class Beats:
    """Beats in time order. Arrays (N,)."""

    r_time_s: Floats
    """R peaks, seconds of the session (may lie in the margins)."""
    rr_before_s: Floats
    """Interval that preceded each beat."""
    kind: NDArray[np.int8]
    """SINUS, VENTRICULAR, ATRIAL or FIBRILLATION."""

    @property
    def ectopic(self) -> NDArray[np.bool_]:
        """Premature beats of either origin."""
        return (self.kind == VENTRICULAR) | (self.kind == ATRIAL)


Spans = list[tuple[float, float]]


def draw_fibrillation(rng: np.random.Generator, rhythm: Rhythm, duration_s: float) -> Spans:
    """Spans of the session (s) in atrial fibrillation: none, all of it, or one episode of a paroxysmal patient."""
    if not rhythm.af:
        return []
    everything = (-2 * MARGIN_S, duration_s + 2 * MARGIN_S)
    if not rhythm.af_paroxysmal:
        return [everything]
    fate = rng.random()
    if fate < 0.35:
        return []
    if fate < 0.75:
        return [everything]
    start = rng.uniform(0.0, 0.8) * duration_s
    return [(start, start + rng.uniform(0.2, 1.0) * duration_s)]


def draw_beats(rng: np.random.Generator, rhythm: Rhythm, drivers: Drivers, fibrillation: Spans) -> Beats:
    """All beats of a session, margins included."""
    grid_s = np.arange(drivers.heart_rate.size) / GRID_HZ - MARGIN_S
    fibrillating_T = _inside(grid_s, fibrillation)
    rate_T = drivers.heart_rate * np.where(fibrillating_T, 1.08, 1.0 + drivers.rsa)
    phase_T = np.concatenate(([0.0], np.cumsum(np.maximum(rate_T[:-1], 20.0) / (60.0 * GRID_HZ))))

    n = int(phase_T[-1] * 1.5) + 32
    nominal = np.arange(n, dtype=np.float64)
    afib = _inside(np.interp(nominal, phase_T, grid_s), fibrillation)
    kind = _ectopic_kinds(rng, rhythm, rate_T.mean(), n)
    step = _steps(rng, rhythm, kind, afib)
    phase = np.cumsum(step) - rng.random()
    keep = (phase > 0.0) & (phase < phase_T[-1])
    time = np.interp(phase[keep], phase_T, grid_s)
    kind = np.where(afib & (kind != VENTRICULAR), FIBRILLATION, kind)[keep].astype(np.int8)
    time, kind = _respect_refractoriness(time, kind)
    interval = np.diff(time, prepend=time[0] - 60.0 / rate_T[0])
    return Beats(r_time_s=time, rr_before_s=interval, kind=kind)


def _inside(time_s: Floats, spans: Spans) -> NDArray[np.bool_]:
    inside = np.zeros(time_s.size, dtype=bool)
    for start, stop in spans:
        inside |= (time_s >= start) & (time_s < stop)
    return inside


def _ectopic_kinds(rng: np.random.Generator, rhythm: Rhythm, rate_bpm: float, n: int) -> NDArray[np.int8]:
    """Premature beats, burdened in waves (bursts and quiet minutes), never within two beats of each other."""
    waves = np.repeat(np.exp(rng.normal(-0.18, 0.6, n // 100 + 1)), 100)[:n]
    draw = rng.random(n)
    ventricular = draw < waves * rhythm.pvc_per_min / rate_bpm
    atrial = draw > 1.0 - waves * rhythm.pac_per_min / rate_bpm
    premature = ventricular | atrial
    crowded = np.zeros(n, dtype=bool)
    crowded[1:] |= premature[:-1]
    crowded[2:] |= premature[:-2]
    premature &= ~crowded
    return np.where(premature, np.where(ventricular, VENTRICULAR, ATRIAL), SINUS).astype(np.int8)


def _steps(rng: np.random.Generator, rhythm: Rhythm, kind: NDArray[np.int8], afib: NDArray[np.bool_]) -> Floats:
    n = kind.size
    step = 1.0 + 0.006 * rng.standard_normal(n)
    ventricular = np.flatnonzero((kind == VENTRICULAR) & ~afib)
    atrial = np.flatnonzero((kind == ATRIAL) & ~afib)
    for beats, coupling, scatter in (
        (ventricular, rhythm.pvc_coupling, 0.025),
        (atrial, rhythm.pac_coupling, 0.045),
    ):
        step[beats] = np.clip(coupling + scatter * rng.standard_normal(beats.size), 0.42, 0.92)
    after = ventricular[ventricular + 1 < n]
    step[after + 1] = 2.0 - step[after]
    after = atrial[atrial + 1 < n]
    step[after + 1] = 1.02 + 0.10 * rng.random(after.size)
    shape = (0.5 / rhythm.af_irregularity) ** 2
    return np.where(afib, 0.5 + rng.gamma(shape, 0.5 / shape, n), step)


def _respect_refractoriness(time: Floats, kind: NDArray[np.int8]) -> tuple[Floats, NDArray[np.int8]]:
    """Drop beats that would come before the ventricle has recovered."""
    keep = np.concatenate(([True], np.diff(time) >= SHORTEST_RR_S))
    return time[keep], kind[keep]
