"""`xmae align`: how the clocks of devices worn together differ, which pairs are trusted, and why others are not."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from rich.console import Console

from xmae_dist.core.errors import InputError
from xmae_dist.core.tables import terminal
from xmae_dist.data.clocks.alignment import PairEstimate
from xmae_dist.data.clocks.pairing import Candidate, PairConfig, apart_s, candidates
from xmae_dist.data.clocks.people import People
from xmae_dist.data.clocks.record import estimates, to_dict
from xmae_dist.signals.align import AlignSpec
from xmae_dist.storage.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class Args:
    """Align recordings of one subject that have different clocks by their heart beats, and show the estimates.

    The work is distributed over the Ray cluster, or over the cores of this machine. Each estimate is stored immediately
    in the table `alignments` of the corpus: after an interruption, the same command continues, and later runs read the
    stored estimates. `xmae windows --arrival-prior-s` uses them. The absolute delay between two devices cannot be
    measured: it is set to --arrival-prior-s and must not be used as an arrival time.
    """

    corpus: str
    """URL of the corpus."""
    out: Path | None = None
    """Folder for pictures: each rejected pair, and one typical accepted pair for each two cohorts."""
    snapshot: int | None = None
    """Version of the corpus; the newest if not given."""
    target: str = "ecg"
    """Channel with R peaks, whose clock is the reference."""
    source: str = "ppg"
    """Channel with pulses, which is aligned to that clock."""
    max_offset_s: float = 130.0
    """Largest difference of two clocks to search."""
    arrival_prior_s: float = 0.25
    """Delay from R peak to pulse foot that is assumed for every pair."""
    max_pictures: int = 50
    """Largest number of rejected pairs to draw."""
    json: bool = False
    """Print one JSON object instead of tables."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    corpus = Corpus.open(args.corpus)
    config = PairConfig(
        target=args.target,
        source=args.source,
        align=AlignSpec(max_offset_s=args.max_offset_s, arrival_prior_s=args.arrival_prior_s),
    )
    with tempfile.TemporaryDirectory(prefix="xmae-people-") as folder:
        people = People(corpus.snapshot(args.snapshot), folder)
        pairs: list[Candidate] = []
        gaps_s: list[float] = []
        for _, recordings in people:
            pairs += candidates(recordings, config)
            gaps_s += apart_s(recordings, config)
    if not pairs:
        raise InputError(
            args.corpus,
            value=f"no pairs; {_apart(gaps_s, args)}" if gaps_s else "no pairs",
            expected=f"{args.target} and {args.source} of one subject, at one time, on different clocks",
            fix="check channels and wall times with `xmae inspect`, or raise --max-offset-s",
        )
    found = estimates(corpus, pairs)
    pictures = _draw(args, pairs, found)
    url = corpus.alignments.url
    if args.json:
        print(json.dumps(_summary(found, url, pictures, gaps_s)))
    else:
        _show(found, url, pictures, terminal())
        if gaps_s:
            terminal().print(_apart(gaps_s, args), soft_wrap=True)
    return 0


def _apart(gaps_s: list[float], args: Args) -> str:
    """What is said of sources that meet no target."""
    nearest = [f"{gap_s / 3600:.2f} h" for gap_s in (min(gaps_s), max(gaps_s))]
    away = nearest[0] if nearest[0] == nearest[1] else " to ".join(nearest)
    return (
        f"recordings with {args.source} that meet no {args.target} of their subject: {len(gaps_s)}; by wall time the "
        f"nearest is {away} away (about whole hours: one device may have written local time)"
    )


def _draw(args: Args, pairs: list[Candidate], found: list[PairEstimate]) -> list[Path]:
    if args.out is None:
        return []
    from xmae_dist.cli.align_picture import draw  # matplotlib is slow to import

    args.out.mkdir(parents=True, exist_ok=True)
    rejected = [k for k, one in enumerate(found) if not one.found.accepted and np.isfinite(one.shift_s)]
    drawn = []
    for k in [*_typical(found), *rejected[: args.max_pictures]]:
        state = "accepted" if found[k].found.accepted else f"rejected-{found[k].found.reason}"
        recordings = quote(f"{found[k].source_recording}-{found[k].target_recording}", safe="")  # may hold slashes
        path = args.out / f"{state}-{recordings}.png"
        draw(path, pairs[k], found[k])
        drawn.append(path)
    return drawn


def _typical(found: list[PairEstimate]) -> list[int]:
    """Of each two cohorts the accepted pair whose residual is the median."""
    groups: dict[tuple[str, str], list[int]] = {}
    for k, one in enumerate(found):
        if one.found.accepted:
            groups.setdefault((one.target_cohort, one.source_cohort), []).append(k)
    return [sorted(group, key=lambda k: found[k].found.residual_s)[len(group) // 2] for group in groups.values()]


def _reasons(found: list[PairEstimate]) -> dict[str, int]:
    return dict(Counter(one.found.reason for one in found if not one.found.accepted).most_common())


def _summary(found: list[PairEstimate], url: str, pictures: list[Path], gaps_s: list[float]) -> dict[str, Any]:
    return {
        "estimates": url,
        "accepted": sum(one.found.accepted for one in found),
        "rejected": _reasons(found),
        "apart": {"recordings": len(gaps_s), "nearest_s": min(gaps_s, default=None)},
        "pairs": [to_dict(one) for one in found],
        "pictures": [str(path) for path in pictures],
    }


def _show(found: list[PairEstimate], url: str, pictures: list[Path], console: Console) -> None:
    for one in found:
        console.print("\n  ".join(_lines(one)), soft_wrap=True)
    accepted = sum(one.found.accepted for one in found)
    reasons = ", ".join(f"{reason} {n}" for reason, n in _reasons(found).items())
    console.print(f"{accepted} of {len(found)} pairs accepted" + (f"; rejected: {reasons}" if reasons else ""))
    console.print(
        f"the delay between devices cannot be measured: it is set to {found[0].found.arrival_prior_s:g} s "
        "(--arrival-prior-s); do not use it as an arrival time",
        soft_wrap=True,
    )
    console.print(f"estimates: {url}", soft_wrap=True)
    for path in pictures:
        console.print(f"picture: {path}", soft_wrap=True)


def _lines(one: PairEstimate) -> list[str]:
    """A pair in lines that a narrow terminal need not cut: what became of it, its recordings, its numbers."""
    found = one.found
    became = "accepted" if found.accepted else f"rejected: {found.reason}"
    lines = [f"{one.subject_id}: {became}", f"{one.source_recording} on {one.target_recording}"]
    if not found.segments:
        return lines
    drift = " → ".join(f"{drift_ppm:.1f}" for *_, drift_ppm in found.segments)
    return [
        *lines,
        f"offset {found.offset_s:.3f} s, drift {drift} ± {found.drift_std_ppm:.1f} ppm",
        f"residual {1e3 * found.residual_s:.1f} ms, lag ± {1e3 * found.lag_std_s:.1f} ms, "
        f"{found.matched_fraction:.0%} of beats matched",
    ]
