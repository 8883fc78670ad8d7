"""How much can be known: the simulator's own state of each window, and the pulse before any device saw it.

The state is what shapes the pulse wave: intervals, strengths, breath, tone, velocity of the moment, three numbers of
this person's pulse shape. The delay from R peak to foot is not in it: no PPG shows it by itself. Squares beside the
values let a linear probe bend a little. A task that neither can do better than chance has no headroom here.

Shapes: M windows, L samples, F numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from bench.embedding_study import probing
from bench.embedding_study.study import Embedding, Study
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.normalize import minmax
from xmae_dist.simulate.cohorts import CohortSpec, subject_id, worn
from xmae_dist.simulate.recordings import Wearing
from xmae_dist.simulate.rhythm import FIBRILLATION
from xmae_dist.simulate.vessels import Pulses, render_pulses

Floats = NDArray[np.float64]
_NUMBERS = 20


def arms(study: Study) -> dict[str, Callable[[int], Embedding]]:
    """Both as embeddings of a study's probed windows, by name; told the seed."""
    return {"latent": partial(_latent_arm, study), "noiseless": partial(_noiseless_arm, study)}


def _latent_arm(study: Study, _: int) -> Embedding:
    people = study.people
    return latent(people.specs, people.probed.table, people.store.spec.window_s)


def _noiseless_arm(study: Study, seed: int) -> Embedding:
    people = study.people
    pulse_ML = noiseless(people.specs, people.probed.table, people.store.spec)
    beside_ME = probing.embedded(study.random(seed), torch.from_numpy(pulse_ML))
    return np.concatenate([study.features(pulse_ML), beside_ME], axis=1)


def latent(specs: tuple[CohortSpec, ...], table: pa.Table, window_s: float) -> NDArray[np.float32]:
    """(M, 2 F) of the windows of `table`: standardised values and their squares."""
    found = np.zeros((len(table), _NUMBERS))
    for rows, start_s, wearing in _worn(specs, table):
        found[rows] = [_state(wearing, at_s, window_s) for at_s in start_s]
    spread_F = found.std(axis=0)
    z_MF = (found - found.mean(axis=0)) / np.where(spread_F > 1e-9, spread_F, 1.0)
    return np.concatenate([z_MF, np.clip(z_MF**2, 0.0, 16.0)], axis=1).astype(np.float32)


def noiseless(specs: tuple[CohortSpec, ...], table: pa.Table, spec: WindowSpec) -> NDArray[np.float32]:
    """(M, L): the same windows of the pulse wave alone, filtered and scaled as those of a device are."""
    found = np.zeros((len(table), spec.length), np.float32)
    for rows, start_s, wearing in _worn(specs, table):
        n = round(wearing.session.duration_s * spec.rate_hz)
        arrival_s = wearing.clock.device_s(wearing.pulses.arrival_s)
        pulse_T = render_pulses(wearing.session.subject, wearing.pulses, arrival_s, n, spec.rate_hz)
        clean_T = bandpass(pulse_T, spec.rate_hz, spec.ppg_band_hz)
        first = np.round(start_s * spec.rate_hz).astype(int)
        found[rows] = minmax(clean_T[first[:, None] + np.arange(spec.length)])[0]
    return found


def _worn(specs: tuple[CohortSpec, ...], table: pa.Table) -> Iterator[tuple[NDArray[np.intp], Floats, Wearing]]:
    """By recording of `table`: its rows, where they start on the device's clock, and what is behind it."""
    recording_M = np.array(table["recording_id"].to_pylist())
    start_M = np.asarray(table["start_s"].to_numpy(), float)
    subjects = set(table["subject_id"].to_pylist())
    for spec in specs:
        for index in range(spec.subjects):
            if subject_id(spec, index) not in subjects:
                continue
            for name, wearing in worn(spec, index).items():
                rows = np.flatnonzero(recording_M == name)
                if len(rows):
                    yield rows, start_M[rows], wearing


def _state(wearing: Wearing, start_s: float, window_s: float) -> Floats:
    session, pulses = wearing.session, wearing.pulses
    at_s = wearing.clock.device_s(pulses.arrival_s)
    here = np.flatnonzero((at_s >= start_s) & (at_s < start_s + window_s))
    vessels = session.subject.vessels
    person = [
        vessels.crest_time_s,
        session.subject.body.height_m / vessels.stiffness_index_m_s,
        vessels.reflection_ratio,
    ]
    grid_s = wearing.clock.true_s(start_s + np.arange(0.0, window_s, 0.25))
    return np.r_[_rhythm(session.beats.rr_before_s[here], session.beats.kind[here]), _moments(pulses, here), person,
                 _slow(wearing, grid_s)]  # fmt: skip


def _rhythm(rr_s: Floats, kind: NDArray[np.int8]) -> Floats:
    if len(rr_s) < 3:
        return np.zeros(8)
    usual_s, change_s = float(np.median(rr_s)), np.diff(rr_s)
    premature = (kind != 0) & (kind != FIBRILLATION)
    return np.array(
        [
            np.log(rr_s.mean()),
            1.0 / usual_s,
            np.log(max(rr_s.std(), 1e-3)),
            np.log(max(float(np.sqrt(np.mean(change_s**2))), 1e-3)),
            rr_s.min() / usual_s,
            rr_s.max() / usual_s,
            premature.sum(),
            np.mean(kind == FIBRILLATION),
        ]
    )


def _moments(pulses: Pulses, here: NDArray[np.intp]) -> Floats:
    strength, gain = pulses.strength[here], pulses.velocity_gain[here]
    if not len(here):
        return np.zeros(5)
    usual = max(float(strength.mean()), 1e-3)
    return np.array([strength.mean(), strength.std() / usual, strength.min() / usual, np.log(gain.mean()), gain.std()])


def _slow(wearing: Wearing, grid_s: Floats) -> Floats:
    """Breaths of the window (turns of its swing) and its depth, and tone: level and spread."""
    drivers = wearing.session.drivers
    breath, tone = (drivers.at(values, grid_s) for values in (drivers.respiration, drivers.tone))
    turns = np.count_nonzero(np.diff(np.sign(np.diff(breath))))
    return np.array([turns, breath.std(), tone.mean(), tone.std()])
