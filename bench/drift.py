"""How often a device is told from itself, and from what was done to it: false alarms and power of `embed.drift`.

People are simulated on a bedside monitor, their windows cut and embedded as `xmae embed` would. Of these people random
splits, a new third against two known ones, say how often there is a false alarm. Then other people wear the same
monitor with one property changed, and share of alarms, AUC and MMD are told for each change.

    OMP_NUM_THREADS=1 python bench/drift.py --people 72 --splits 200 [--bundle URL] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmae_dist.core.seeds import generator
from xmae_dist.data.clocks.signal import Signal
from xmae_dist.data.windows.cutting import WindowBatch, cut, window_starts
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed.drift import Comparison, compare
from xmae_dist.embed.sample import Sample
from xmae_dist.model import bundle, presets
from xmae_dist.model.interface import PretrainModel
from xmae_dist.simulate.cohorts import PRESETS, CohortSpec, simulate_subject
from xmae_dist.simulate.devices import DevicePreset
from xmae_dist.simulate.recordings import SimulatedChannel
from xmae_dist.simulate.traits import Prevalence

WINDOWS = 16


def main() -> int:
    """Prints a line a change, and writes them where --json says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=72, help="of the known device")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--draws", type=int, default=10, help="of a third of the people, for each change")
    parser.add_argument("--bundle", default="", help="URL; without it `tiny` with random weights")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = bundle.load(args.bundle).model if args.bundle else presets.build("tiny")
    known = sample(model, monitor(args), "known")
    rows = {"itself": row(list(splits(known, args.splits)))}
    show("itself", rows["itself"])
    for name, changed in changes(args).items():
        new = sample(model, changed, name)
        rows[name] = row(list(against(new, known, args.draws)))
        show(name, rows[name])
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    return 0


def monitor(args: argparse.Namespace) -> CohortSpec:
    cohort = PRESETS["bedside"]
    (device,) = cohort.devices
    alone = replace(device, channels=tuple(one for one in device.channels if one.name == "ppg"))
    return replace(cohort, devices=(alone,), subjects=args.people, minutes=args.minutes)


def changes(args: argparse.Namespace) -> dict[str, CohortSpec]:
    """The monitor with one property changed, on other people."""
    same = replace(monitor(args), first_subject=10_000, subjects=args.people // 3)
    (device,) = same.devices
    (ppg,) = device.channels

    def on(device: DevicePreset) -> CohortSpec:
        return replace(same, devices=(device,))

    return {
        "nothing": same,
        "rate 25 Hz": on(replace(device, channels=(replace(ppg, rate_hz=25.0, band_hz=(0.15, 10.0)),))),
        "gain / 8": on(replace(device, channels=(replace(ppg, full_scale=8 * ppg.full_scale),))),
        "low-pass 3 Hz": on(replace(device, channels=(replace(ppg, band_hz=(0.15, 3.0)),))),
        "high-pass 0.8 Hz": on(replace(device, channels=(replace(ppg, band_hz=(0.8, 12.0)),))),
        "motion": on(replace(device, restlessness=0.5, motion_per_hour=120.0)),
        "wrist": on(replace(device, channels=(replace(ppg, site="wrist"),))),
        "aged 65 and more": replace(same, prevalence=Prevalence(age_range_yr=(65.0, 90.0))),
        "fibrillation": replace(same, prevalence=Prevalence(af=4.0)),
    }


def sample(model: PretrainModel, cohort: CohortSpec, name: str) -> Sample:
    people = [windows_of(cohort, at) for at in range(cohort.subjects)]
    people = [one for one in people if len(one)]
    chosen = [
        one.select(np.sort(generator("windows", name, i).permutation(len(one))[:WINDOWS]))
        for i, one in enumerate(people)
    ]
    person_N = np.repeat(np.arange(len(chosen)), [len(one) for one in chosen])
    with torch.no_grad():
        embedded = [model.embed(torch.from_numpy(one.ppg_BL)).numpy() for one in chosen]
    return Sample(
        name=name,
        subject_P=np.array([f"{name}-{i}" for i in range(len(chosen))]),
        person_N=person_N,
        quality_N=np.concatenate([one.quality_ppg_B for one in chosen]).astype(np.float32),
        embedding_NE=np.concatenate(embedded),
        recording_N=np.array([f"{name}-{i}" for i in person_N]),
        start_s_N=np.concatenate([one.start_s_B for one in chosen]),
    )


def windows_of(cohort: CohortSpec, at: int) -> WindowBatch:
    (recording,) = simulate_subject(cohort, at)
    spec = WindowSpec(require=("ppg",))
    ppg = signal(recording.channels["ppg"])
    return cut(None, ppg, spec, window_starts(0.0, ppg.stop_s, spec))[0]


def signal(channel: SimulatedChannel) -> Signal:
    values_T = channel.raw.astype(np.float32) * np.float32(channel.scale) + np.float32(channel.offset)
    for start, stop in channel.gaps:
        values_T[start:stop] = np.nan
    return Signal(values_T=values_T, rate_hz=channel.rate_hz)


def splits(known: Sample, n: int) -> Iterator[Comparison]:
    """A third of the people against the others, at random."""
    people = len(known.subject_P)
    for number in range(n):
        order = generator("split", number).permutation(people)
        third = people // 3
        new, rest = known.of_people(order[:third]), known.of_people(order[third:])
        if found := compare(replace(new, name=f"split {number}"), rest):
            yield found


def against(new: Sample, known: Sample, n: int) -> Iterator[Comparison]:
    """All new people against two thirds of the known ones, at random."""
    people = len(known.subject_P)
    for number in range(n):
        order = generator("against", number).permutation(people)
        if found := compare(new, replace(known.of_people(order[: 2 * people // 3]), name=f"known {number}")):
            yield found


def row(found: list[Comparison]) -> dict[str, float]:
    return {
        "comparisons": len(found),
        "people": found[0].people,
        "alarms": float(np.mean([one.differs for one in found])),
        "p_below_0.05": float(np.mean([one.p_value <= 0.05 for one in found])),
        "auc": float(np.mean([one.auc for one in found])),
        "threshold": float(np.mean([one.threshold for one in found])),
        "mmd2": float(np.mean([one.mmd2.value for one in found])),
        "mmd2_low_above_0": float(np.mean([one.mmd2.low > 0 for one in found])),
        "quality_shift": float(np.mean([one.quality_shift.value for one in found])),
        "quality_auc": float(np.mean([one.quality_auc for one in found])),
    }


def show(name: str, one: dict[str, float]) -> None:
    print(
        f"{name:<18} {one['people']:3} people  alarms {one['alarms']:.3f}  AUC {one['auc']:.2f} (threshold "
        f"{one['threshold']:.2f})  MMD² {one['mmd2']:+.4f}  quality {one['quality_shift']:+.3f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
