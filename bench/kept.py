"""Which hearts cleaning prefers: the share of simulated windows that is kept, by what truly happened in each.

People with more fibrillation and ectopy than in life are simulated, with each device's noise, motion and gaps. Every
window of the default specification (or of another quality threshold) is told apart by its true beats: sinus rhythm
alone, an ectopic beat, three or more of them, fibrillation; with and without a burst of motion. The share kept of each,
and why others were dropped, is printed, and the odds of being kept against windows in sinus rhythm.

    OMP_NUM_THREADS=1 python bench/kept.py --subjects 60 --minutes 10 --json FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmae_dist.data.clocks.signal import Signal
from xmae_dist.data.windows.cutting import cut, window_starts
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.simulate.cohorts import PRESETS, CohortSpec, simulate_subject
from xmae_dist.simulate.recordings import SimulatedChannel, SimulatedRecording, Truth
from xmae_dist.simulate.rhythm import FIBRILLATION, SINUS
from xmae_dist.simulate.traits import Prevalence

RHYTHMS = ("sinus", "1-2 ectopic beats", "3 or more", "fibrillation")
Count = dict[tuple[str, bool], Counter[str]]


def main() -> int:
    """Prints a table for each cohort and threshold, and writes them where --json says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", nargs="+", default=["bedside", "telemetry", "ring"])
    parser.add_argument("--subjects", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--min-quality", type=float, nargs="+", default=[0.5, 0.3])
    parser.add_argument("--json", metavar="FILE", help="write the figures here as well")
    args = parser.parse_args()
    tables = {}
    for name in args.cohorts:
        spec = replace(
            PRESETS[name], subjects=args.subjects, minutes=args.minutes, prevalence=Prevalence(af=0.35, ectopy=0.35)
        )
        for threshold in args.min_quality:
            counts = measured(spec, threshold)
            tables[f"{name}, quality {threshold:g}"] = rows_of(counts)
            show(f"{name}, min_quality {threshold:g}", rows_of(counts))
    if args.json:
        Path(args.json).write_text(json.dumps(tables, indent=1))
    return 0


def measured(cohort: CohortSpec, min_quality: float) -> Count:
    """Windows by (true rhythm, motion in them) and by what became of them ("" is kept)."""
    counts: Count = defaultdict(Counter)
    for at in range(cohort.subjects):
        for recording in simulate_subject(cohort, at):
            for key, fate in fates(recording, min_quality):
                counts[key][fate] += 1
    return counts


def fates(recording: SimulatedRecording, min_quality: float) -> Iterator[tuple[tuple[str, bool], str]]:
    """Each window's truth, and why it was dropped ("" where it was not)."""
    paired = "ecg" in recording.channels
    spec = WindowSpec(min_quality=min_quality, require=("ecg", "ppg") if paired else ("ppg",))
    ppg = signal(recording.channels["ppg"])
    ecg = signal(recording.channels["ecg"]) if paired else None
    starts_s_B = window_starts(0.0, min(s.stop_s for s in (ppg, ecg) if s is not None), spec)
    kept, _ = cut(ecg, ppg, spec, starts_s_B)
    # `cut` counts reasons and does not place them; what another threshold would keep was dropped for quality.
    without_quality, _ = cut(ecg, ppg, replace(spec, min_quality=-1.0), starts_s_B)
    is_kept, otherwise_good = set(kept.start_s_B), set(without_quality.start_s_B)
    for start_s in starts_s_B:
        fate = "" if start_s in is_kept else "low_quality" if start_s in otherwise_good else "other"
        yield (rhythm(recording.truth, start_s, spec.window_s), moved(recording.truth, start_s, spec.window_s)), fate


def signal(channel: SimulatedChannel) -> Signal:
    values_T = channel.raw.astype(np.float32) * np.float32(channel.scale) + np.float32(channel.offset)
    for start, stop in channel.gaps:
        values_T[start:stop] = np.nan
    return Signal(values_T=values_T, rate_hz=channel.rate_hz)


def rhythm(truth: Truth, start_s: float, window_s: float) -> str:
    kind = truth.kind[(truth.r_device_s >= start_s) & (truth.r_device_s < start_s + window_s)]
    if (kind == FIBRILLATION).any():
        return "fibrillation"
    ectopic = int((kind != SINUS).sum())
    return "sinus" if not ectopic else "1-2 ectopic beats" if ectopic < 3 else "3 or more"


def moved(truth: Truth, start_s: float, window_s: float) -> bool:
    return any(start < start_s + window_s and start + length > start_s for start, length, _ in truth.motion)


def rows_of(counts: Count) -> list[dict[str, float | str | bool | int]]:
    rows: list[dict[str, float | str | bool | int]] = []
    for moving in (False, True):
        sinus = _share(counts.get(("sinus", moving), Counter()))
        for name in RHYTHMS:
            fate = counts.get((name, moving), Counter())
            total = sum(fate.values())
            if total:
                share = fate[""] / total
                rows.append(
                    {
                        "rhythm": name,
                        "motion": moving,
                        "windows": total,
                        "kept": share,
                        "low_quality": fate["low_quality"] / total,
                        "other": fate["other"] / total,
                        "odds_against_sinus": _odds(share) / _odds(sinus),
                    }
                )
    return rows


def _share(fate: Counter[str]) -> float:
    return fate[""] / max(sum(fate.values()), 1)


def _odds(share: float) -> float:
    return share / max(1 - share, 1e-9)


def show(title: str, rows: list[dict[str, float | str | bool | int]]) -> None:
    print(f"\n{title}")
    print(f"{'rhythm':<20}{'motion':<8}{'windows':>8}{'kept':>8}{'low quality':>13}{'other':>8}{'odds':>7}")
    for row in rows:
        print(
            f"{row['rhythm']:<20}{'yes' if row['motion'] else 'no':<8}{row['windows']:>8}{row['kept']:>8.1%}"
            f"{row['low_quality']:>13.1%}{row['other']:>8.1%}{row['odds_against_sinus']:>7.2f}"
        )


if __name__ == "__main__":
    sys.exit(main())
