"""Which hearts cleaning prefers: the share of simulated windows that is kept, by what truly happened in each.

People with more fibrillation and ectopy than in life are simulated, with each device's noise, motion and gaps. Every
window of the default specification (or of another quality threshold) is told apart by its true beats: sinus rhythm
alone, an ectopic beat, three or more of them, fibrillation; with and without a burst of motion. The share kept of
each, and why others were dropped, is printed, and by how much it differs from that of sinus rhythm, with its 95 %
interval over people.

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
Kind = tuple[str, bool]
"""True rhythm of a window, and whether a burst of motion lies in it."""
Count = list[dict[Kind, Counter[str]]]
"""For each person: windows of each kind by what became of them ("" is kept)."""


def main() -> int:
    """Prints a table for each cohort and threshold, and writes them where --json says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", nargs="+", default=["bedside", "telemetry", "ring"])
    parser.add_argument("--subjects", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--min-quality", type=float, nargs="+", default=[0.5, 0.8])
    parser.add_argument("--json", metavar="FILE", help="write the figures here as well")
    args = parser.parse_args()
    tables = {}
    for name in args.cohorts:
        spec = replace(
            PRESETS[name], subjects=args.subjects, minutes=args.minutes, prevalence=Prevalence(af=0.4, ectopy=0.6)
        )
        for threshold in args.min_quality:
            counts = measured(spec, threshold)
            tables[f"{name}, quality {threshold:g}"] = rows_of(counts)
            show(f"{name}, min_quality {threshold:g}", rows_of(counts))
    if args.json:
        Path(args.json).write_text(json.dumps(tables, indent=1))
    return 0


def measured(cohort: CohortSpec, min_quality: float) -> Count:
    counts: Count = []
    for at in range(cohort.subjects):
        own: dict[Kind, Counter[str]] = defaultdict(Counter)
        for recording in simulate_subject(cohort, at):
            for kind, fate in fates(recording, min_quality):
                own[kind][fate] += 1
        counts.append(own)
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
    """A row for each kind; `against_sinus` with `low` and `high` is the difference of kept shares."""
    rows: list[dict[str, float | str | bool | int]] = []
    drawn_RS = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=1000)
    for moving in (False, True):
        sinus_R = _shares(counts, ("sinus", moving), drawn_RS)
        for name in RHYTHMS:
            fate = sum((own.get((name, moving), Counter()) for own in counts), Counter[str]())
            total = sum(fate.values())
            if not total:
                continue
            difference_R = _shares(counts, (name, moving), drawn_RS) - sinus_R
            whole = np.ones((1, len(counts)))
            difference = _shares(counts, (name, moving), whole) - _shares(counts, ("sinus", moving), whole)
            low, high = np.nanquantile(difference_R, (0.025, 0.975))
            rows.append(
                {
                    "rhythm": name,
                    "motion": moving,
                    "people": sum((name, moving) in own for own in counts),
                    "windows": total,
                    "kept": fate[""] / total,
                    "low_quality": fate["low_quality"] / total,
                    "other": fate["other"] / total,
                    "against_sinus": float(difference[0]),
                    "low": float(low),
                    "high": float(high),
                }
            )
    return rows


def _shares(counts: Count, kind: Kind, drawn_RS: np.ndarray) -> np.ndarray:
    """(R,) share kept of the windows of a kind, where person s counts `drawn_RS[:, s]` times."""
    kept_S = np.array([own[kind][""] if kind in own else 0 for own in counts], float)
    all_S = np.array([sum(own[kind].values()) if kind in own else 0 for own in counts], float)
    kept_R, all_R = drawn_RS @ kept_S, drawn_RS @ all_S
    return np.divide(kept_R, all_R, out=np.full(len(drawn_RS), np.nan), where=all_R > 0)


def show(title: str, rows: list[dict[str, float | str | bool | int]]) -> None:
    print(f"\n{title}")
    head = ("people", "windows", "kept", "low quality", "other", "against sinus (95 %)")
    print(f"{'rhythm':<20}{'motion':<8}{head[0]:>7}{head[1]:>9}{head[2]:>8}{head[3]:>13}{head[4]:>8}  {head[5]}")
    for row in rows:
        print(
            f"{row['rhythm']:<20}{'yes' if row['motion'] else 'no':<8}{row['people']:>7}{row['windows']:>9}"
            f"{row['kept']:>8.1%}{row['low_quality']:>13.1%}{row['other']:>8.1%}  {row['against_sinus']:+.1%} "
            f"({row['low']:+.1%} to {row['high']:+.1%})",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
