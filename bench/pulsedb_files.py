"""Files in the shape of PulseDB's: a MATLAB v7.3 file a person, whose segments of 10 s are recordings of their own.

Signals are cut from simulated bedside recordings, at any sample, with a unit or two of noise: all are usable and none
is like another. Of PulseDB's fields those are written that `xmae ingest --adapter pulsedb` reads, but pressure waves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from xmae_dist.simulate.cohorts import PRESETS, simulate_subject
from xmae_dist.simulate.devices import at_rate

RATE_HZ, SECONDS = 125, 10
_LENGTH = RATE_HZ * SECONDS

Wave = tuple[np.ndarray, np.ndarray]
"""ECG and PPG of one person, int16 (n,) at RATE_HZ."""


def waves(people: int = 24, minutes: float = 4.0) -> list[Wave]:
    """What segments are cut from; some 0.3 s of CPU a person."""
    preset = PRESETS["bedside"]
    device = at_rate(preset.devices[0], {"ecg": RATE_HZ})
    spec = dataclasses.replace(preset, devices=(device,), minutes=minutes, gap_scale=0.0, motion_scale=0.0)
    found = []
    for person in range(people):
        channels = simulate_subject(spec, person)[0].channels
        found.append((channels["ecg"].raw, channels["ppg"].raw))
    return found


def write(folder: Path, waves: Sequence[Wave], recordings: int, segments_a_person: int, first_person: int) -> int:
    """So many recordings, in files of a person each, numbered from `first_person`; returns the number of people."""
    folder = folder / "PulseDB_Vital"
    folder.mkdir(parents=True)
    people = -(-recordings // segments_a_person)
    for at in range(people):
        person = first_person + at
        segments = min(segments_a_person, recordings - at * segments_a_person)
        _write_person(folder / f"p{person:06d}.mat", waves[person % len(waves)], person, segments)
    return people


def _write_person(path: Path, wave: Wave, person: int, segments: int) -> None:
    rng = np.random.default_rng(person)
    female = person % 2
    constant = {"Age": [[20.0 + person % 60]], "Gender": [[ord("MF"[female])]]}
    starts = rng.integers(0, len(wave[0]) - _LENGTH, segments)
    pressures = np.round(rng.normal([120, 75], [15, 9], (segments, 2)), 1)
    with h5py.File(path, "w", libver="latest") as file:
        group = file.create_group("Subj_Wins")
        for name, value in constant.items():
            kept = file.create_dataset(f"#refs#/{name}", data=np.array(value, np.uint16 if name == "Gender" else float))
            _column(group, name, [kept.ref] * segments)
        for lane, name in enumerate(("ECG_Raw", "PPG_Raw")):
            signals = (wave[lane][start : start + _LENGTH] + rng.integers(-2, 3, _LENGTH) for start in starts)
            refs = [_stored(file, f"{name}{at}", signal.astype(np.int16)[None]) for at, signal in enumerate(signals)]
            _column(group, name, refs)
        for lane, name in enumerate(("SegSBP", "SegDBP")):
            _column(
                group,
                name,
                [_stored(file, f"{name}{at}", pressures[at : at + 1, lane : lane + 1]) for at in range(segments)],
            )


def _stored(file: h5py.File, name: str, data: np.ndarray) -> h5py.Reference:
    return file.create_dataset(f"#refs#/{name}", data=data).ref


def _column(group: h5py.Group, name: str, references: Sequence[h5py.Reference]) -> None:
    column = group.create_dataset(name, (len(references), 1), dtype=h5py.ref_dtype)
    column[:, 0] = references
