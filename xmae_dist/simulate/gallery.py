"""A picture of what the simulator makes: `python -m xmae_dist.simulate.gallery OUT.png [--seed N]`.

Rows are ten seconds of typical and difficult cases, ECG above pulse, with the true R peaks and pulse feet; the last
row shows an hour of arrival time with pressure, and pulse shapes from young to stiff arteries.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from xmae_dist.simulate.cohorts import PRESETS, CohortSpec, SimulatedRecording, simulate_subject
from xmae_dist.simulate.devices import MISSING
from xmae_dist.simulate.traits import Prevalence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPAN_S = 10.0


def main(argv: list[str] | None = None) -> int:
    """Write the picture; returns the exit status."""
    parser = argparse.ArgumentParser(description="Draw examples of simulated recordings.")
    parser.add_argument("out", help="PNG to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    draw(arguments.seed).savefig(arguments.out, dpi=110)
    return 0


def draw(seed: int) -> Figure:
    """The gallery as a figure."""
    from matplotlib.figure import Figure

    cases = list(_cases(seed))
    figure = Figure(figsize=(17.0, 2.9 * (len(cases) + 1)), layout="constrained")
    parts = np.atleast_1d(np.asarray(figure.subfigures(len(cases) + 1, 1)))
    for part, (title, recordings, start_s) in zip(parts[:-1], cases, strict=True):
        part.suptitle(title, x=0.01, ha="left", fontsize=10)
        _draw_span(part.subplots(2, 1, sharex=True), recordings, start_s)
    _draw_hour(parts[-1].subplots(1, 3), seed)
    return figure


def _cases(seed: int) -> Iterator[tuple[str, list[SimulatedRecording], float]]:
    calm = Prevalence(af=0.0, ectopy=0.0)
    bedside = replace(PRESETS["bedside"], seed=seed, subjects=400, minutes=5.0)
    yield _find(
        "Bedside, young",
        replace(bedside, prevalence=replace(calm, age_range_yr=(20.0, 28.0))),
        lambda r: True,
    )
    yield _find("Bedside, old", replace(bedside, prevalence=replace(calm, age_range_yr=(72.0, 84.0))), lambda r: True)
    fibrillating = replace(bedside, prevalence=Prevalence(af=0.9, age_range_yr=(60.0, 85.0)))
    yield _find("Atrial fibrillation", fibrillating, lambda r: r.labels["af_fraction"] == 1.0)
    ectopic = replace(bedside, prevalence=Prevalence(af=0.0, ectopy=1.0))
    yield _find("Ventricular ectopy", ectopic, lambda r: r.labels["pvc_per_min"] > 5.0, kind=1)
    yield _find("Atrial ectopy", ectopic, lambda r: r.labels["ectopy_per_min"] - r.labels["pvc_per_min"] > 4.0, kind=2)
    for name in ("patch_watch", "patch_ring", "telemetry"):
        spec = replace(PRESETS[name], seed=seed, minutes=5.0)
        yield _find(name, spec, lambda r: True)
        yield _find(f"{name}, motion", spec, lambda r: bool(r.truth.motion), motion=True)


def _find(
    title: str,
    spec: CohortSpec,
    wanted: Callable[[SimulatedRecording], bool],
    *,
    kind: int | None = None,
    motion: bool = False,
) -> tuple[str, list[SimulatedRecording], float]:
    recordings: list[SimulatedRecording] = []
    for index in range(spec.subjects):
        recordings = simulate_subject(spec, index)
        if wanted(recordings[-1]):
            break
    truth = recordings[-1].truth
    start = 60.0
    if motion and truth.motion:
        start = float(truth.clock.true_s(truth.motion[0][0])) - 2.0
    if kind is not None:
        times = truth.r_true_s[truth.kind == kind]
        start = float(times[times.size // 2]) - 5.0
    labels = recordings[-1].labels
    facts = ", ".join(f"{key} {labels[key]:.4g}" for key in ("age", "bmi", "heart_rate_bpm", "sbp_mmhg", "pwv_m_s"))
    return f"{title}: {facts}", recordings, max(start, 10.0)


def _draw_span(axes: np.ndarray, recordings: list[SimulatedRecording], start_s: float) -> None:
    for recording in recordings:
        truth = recording.truth
        for name, channel in recording.channels.items():
            axis = axes[0] if name.startswith("ecg") else axes[1]
            time = truth.clock.true_s(np.arange(channel.raw.size) / channel.rate_hz)
            seen = (time >= start_s) & (time < start_s + SPAN_S)
            values = np.where(channel.raw == MISSING, np.nan, channel.raw * channel.scale + channel.offset)
            axis.plot(time[seen], values[seen], lw=0.8, color="black")
            axis.set_ylabel(f"{name} {channel.unit}\n{recording.device}", fontsize=7)
            marks = truth.r_true_s if name.startswith("ecg") else truth.arrival_true_s
            for mark in marks[(marks >= start_s) & (marks < start_s + SPAN_S)]:
                axis.axvline(mark, color="tab:red", lw=0.5, alpha=0.6)


def _draw_hour(axes: np.ndarray, seed: int) -> None:
    calm = replace(PRESETS["bedside"], seed=seed, minutes=60.0, prevalence=Prevalence(af=0.0, ectopy=0.0))
    truth = simulate_subject(calm, 0)[0].truth
    axes[0].plot(truth.r_true_s / 60.0, 1000.0 * (truth.arrival_true_s - truth.r_true_s), lw=0.4)
    axes[0].set(xlabel="min", ylabel="pulse arrival time, ms", title="arrival time over an hour")
    axes[1].plot(truth.pressure_mmhg, 1000.0 * (truth.arrival_true_s - truth.r_true_s), ".", ms=1)
    axes[1].set(xlabel="mean arterial pressure, mmHg", ylabel="arrival, ms", title="one subject")
    _draw_shapes(axes[2], replace(calm, minutes=1.0))


def _draw_shapes(axis: Axes, spec: CohortSpec) -> None:
    from xmae_dist.simulate.cohorts import subject_id
    from xmae_dist.simulate.subjects import draw_subject
    from xmae_dist.simulate.vessels import pulse_shape

    lag = np.arange(0.0, 1.0, 0.005, dtype=np.float32)[None]
    people = [draw_subject(spec.seed, subject_id(spec, index), spec.prevalence) for index in range(40)]
    people.sort(key=lambda person: person.vessels.aortic_pwv_m_s)
    for person in people[::6]:
        shape = pulse_shape(person, np.ones(1), lag)[0]
        axis.plot(
            lag[0],
            shape / shape.max(),
            label=f"{person.body.age_yr:.0f} yr, {person.vessels.aortic_pwv_m_s:.1f} m/s",
        )
    axis.set(xlabel="s after the foot", title="pulse shape")
    axis.legend(fontsize=7)


if __name__ == "__main__":
    raise SystemExit(main())
