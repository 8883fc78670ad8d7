"""`xmae simulate`: a cohort of simulated people with known physiology, written into a corpus."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console

from xmae_dist.core.errors import UsageError
from xmae_dist.core.tables import terminal
from xmae_dist.ingest.simulated import SimulationReport, simulate_into
from xmae_dist.simulate.cohorts import PRESETS, CohortSpec
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write a simulated multi-device cohort with known physiology into a corpus.

    Subjects, clocks of their devices, gaps and artefacts depend only on the options and the seed: the same command
    again does nothing, and a larger one adds the missing subjects. Devices that are worn together become one cohort
    each (patch_watch-chest_patch, patch_watch-smartwatch).
    """

    preset: Annotated[str, tyro.conf.Positional]
    """What is worn and by whom: bedside, patch_watch, patch_ring, ring, night, sleep_lab or telemetry."""
    corpus: str
    """URL of the corpus; created if it does not exist."""
    cohort: str | None = None
    """Name of the cohort; the name of the preset if not given."""
    subjects: int | None = None
    """Number of people; that of the preset if not given."""
    hours: float | None = None
    """Total hours of recording, instead of a number of subjects."""
    minutes: float | None = None
    """Length of one recording; that of the preset if not given."""
    recordings: int | None = None
    """Recordings of each person, a day apart; as many as the preset has if not given."""
    subject_prefix: str | None = None
    """Prefix of the subject ids; the same prefix and seed in another cohort means the same people."""
    seed: int = 0
    """Another seed makes other people; into the same cohort it adds them."""
    part_mib: int = 256
    """Size of the samples of one part, in MiB."""
    json: bool = False
    """Print what was done as JSON."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    report = simulate_into(uri.normalise(args.corpus), specification(args), part_bytes=args.part_mib * 2**20)
    if args.json:
        print(json.dumps(dataclasses.asdict(report), indent=1))
    else:
        _show(report, terminal())
    return 0


def specification(args: Args) -> CohortSpec:
    """The cohort that the options describe. Raises UsageError."""
    if args.preset not in PRESETS:
        raise UsageError("preset", value=repr(args.preset), expected="one of " + ", ".join(PRESETS))
    if args.hours is not None and args.subjects is not None:
        raise UsageError("--hours and --subjects", value="both", fix="give one of them")
    if args.part_mib < 1:
        raise UsageError("--part-mib", value=args.part_mib, expected="at least 1")
    changes: dict[str, Any] = {
        "name": args.cohort,
        "subjects": args.subjects,
        "minutes": args.minutes,
        "recordings_per_subject": args.recordings,
        "subject_prefix": args.subject_prefix,
        "seed": args.seed,
    }
    spec = dataclasses.replace(
        PRESETS[args.preset], **{name: value for name, value in changes.items() if value is not None}
    )
    if args.hours is not None:
        per_subject = spec.minutes * spec.recordings_per_subject / 60.0
        # A whole number of subjects that is an exact multiple must not be rounded up by float noise.
        spec = dataclasses.replace(spec, subjects=math.ceil(round(args.hours / per_subject, 9)))
    for name, count in (("subjects", spec.subjects), ("recordings", spec.recordings_per_subject)):
        if count < 1:
            raise UsageError(name, value=count, expected="at least 1")
    return spec


def _show(report: SimulationReport, console: Console) -> None:
    names = ", ".join(report.cohorts)
    if report.left_out:
        console.print(f"left out, withdrawn (`xmae readmit` lists them): {', '.join(report.left_out)}", soft_wrap=True)
    if not report.recordings:
        console.print(f"nothing new: all subjects are already in cohort {names}", style="green")
        return
    console.print(
        f"{report.subjects} subjects, {report.recordings} recordings, {report.hours:.1f} h in {report.parts} parts; "
        f"cohort {names}, snapshot {report.version}, {report.took_s:.1f} s",
        soft_wrap=True,
    )
