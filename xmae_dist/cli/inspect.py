"""`xmae inspect`: what a corpus holds, as a table and as a picture."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from xmae_dist.core.tables import show, terminal
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.inspect import QualitySummary, examples, sample_quality
from xmae_dist.storage.snapshot import Snapshot
from xmae_dist.storage.summary import CohortSummary, LabelSummary, summarise


@dataclass(frozen=True, kw_only=True)
class Args:
    """Show what a corpus holds: cohorts, hours, subjects, channels, labels and quality.

    Hours, subjects and labels are exact, from the index. Quality is a sample of 10 s windows, the same every
    time. Nothing in the corpus is changed.
    """

    corpus: Annotated[str, tyro.conf.Positional]
    """URL of the corpus."""
    snapshot: int | None = None
    """Version of the corpus; the newest if not given."""
    cohort: str | None = None
    """Only this cohort."""
    picture: Path | None = None
    """File for a picture (hours, quality, example traces), such as corpus.png. None: no picture."""
    windows: int = 24
    """Number of windows to sample for the quality overview, for each channel and cohort; 0: no overview."""
    json: bool = False
    """Print JSON instead of tables."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    snapshot = Corpus.open(args.corpus).snapshot(args.snapshot)
    if args.cohort is not None:
        snapshot = snapshot.cohort(args.cohort)
    cohorts = summarise(snapshot)
    quality = sample_quality(snapshot, windows=args.windows) if args.windows else []
    picture = _draw(args, snapshot, cohorts, quality)
    if args.json:
        print(_as_json(snapshot, cohorts, quality, picture))
    else:
        _show(snapshot, cohorts, quality, picture, terminal())
    return 0


def _draw(args: Args, snapshot: Snapshot, cohorts: list[CohortSummary], quality: list[QualitySummary]) -> Path | None:
    if args.picture is None or not cohorts:
        return None
    from xmae_dist.cli.inspect_picture import draw  # matplotlib is slow to import

    args.picture.parent.mkdir(parents=True, exist_ok=True)
    draw(args.picture, snapshot, cohorts, quality, examples(snapshot, cohorts))
    return args.picture


def _as_json(
    snapshot: Snapshot, cohorts: list[CohortSummary], quality: list[QualitySummary], picture: Path | None
) -> str:
    document = {
        "corpus": snapshot.url,
        "snapshot": snapshot.version,
        "fingerprint": snapshot.fingerprint,
        "cohorts": [dataclasses.asdict(cohort) for cohort in cohorts],
        "quality": [dataclasses.asdict(one) for one in quality],
        "picture": str(picture) if picture else None,
    }
    return json.dumps(document, indent=2)


def _show(
    snapshot: Snapshot,
    cohorts: list[CohortSummary],
    quality: list[QualitySummary],
    picture: Path | None,
    console: Console,
) -> None:
    console.print(
        f"corpus {snapshot.url}  snapshot {snapshot.version}  fingerprint {snapshot.fingerprint}", soft_wrap=True
    )
    if not cohorts:
        console.print("no recordings yet: `xmae ingest` or `xmae simulate` puts some in")
        return
    _show_cohorts(cohorts, len(snapshot.subjects()), console)
    _show_channels(cohorts, console)
    if quality:
        _show_quality(quality, console)
        for one in quality:
            if one.doubt is not None:
                console.print(f"cohort {one.cohort}: {one.doubt}", style="yellow", soft_wrap=True)
    if any(cohort.labels for cohort in cohorts):
        _show_labels(cohorts, console)
    if picture is not None:
        console.print(f"picture: {picture}", soft_wrap=True)


def _show_cohorts(cohorts: list[CohortSummary], subjects: int, console: Console) -> None:
    counts = ("hours", "subjects", "recordings", "parts")
    rows = [(one.cohort, f"{one.hours:.2f}", str(one.subjects), str(one.recordings), str(one.parts)) for one in cohorts]
    recordings, parts = sum(one.recordings for one in cohorts), sum(one.parts for one in cohorts)
    hours = sum(one.hours for one in cohorts)
    total = ("all", f"{hours:.2f}", str(subjects), str(recordings), str(parts)) if len(cohorts) > 1 else None
    show(console, "cohorts", ("cohort", *counts), rows, numbers=counts, total=total)


def _show_channels(cohorts: list[CohortSummary], console: Console) -> None:
    columns = ("cohort", "channel", "rate (Hz)", "unit", "device", "site", "hours", "gaps")
    rows = [
        (
            cohort.cohort,
            one.channel,
            ", ".join(f"{rate:g}" for rate in one.rates_hz),
            ", ".join(one.units),
            ", ".join(one.devices),
            ", ".join(one.body_sites),
            f"{one.hours:.2f}",
            f"{one.gap_fraction:.1%}",
        )
        for cohort in cohorts
        for one in cohort.channels
    ]
    show(console, "channels", columns, rows, numbers=("hours", "gaps"))


def _show_quality(quality: list[QualitySummary], console: Console) -> None:
    judgements = ("windows", "good", "missing", "flat", "clipped", "damaged")
    title = "sampled 10 s windows by defect (good: none of these; noise and motion are not looked for)"
    rows = [(one.cohort, one.channel, *(str(getattr(one, name)) for name in judgements)) for one in quality]
    show(console, title, ("cohort", "channel", *judgements), rows, numbers=judgements)


def _show_labels(cohorts: list[CohortSummary], console: Console) -> None:
    rows = [
        (cohort.cohort, label.name, _values(label), str(label.recordings))
        for cohort in cohorts
        for label in cohort.labels
    ]
    show(console, "labels", ("cohort", "label", "values", "recordings"), rows, numbers=("recordings",))


def _values(label: LabelSummary) -> str:
    if label.texts:
        return ", ".join(f"{text or '(empty)'} {count}" for text, count in label.texts)
    if label.least is None or label.mean is None or label.most is None:
        return "no finite value"
    return f"{label.least:g} … {label.most:g}, mean {label.mean:.4g}"
