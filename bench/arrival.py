"""Whose pulse follows an R peak: of how many recordings of a corpus that can be told, and how many show it beats late.

Reads every recording with ECG and PPG on one clock, finds beats, and compares the delay to a beat's own foot
(`signals.arrival.own_pulse_s`) with the delay to the next foot, which is another beat's where a monitor shows the pulse
late.

    xmae ingest challenge2015 --corpus CORPUS --cohort challenge2015 ...
    OMP_NUM_THREADS=1 python bench/arrival.py CORPUS --json FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.signals.arrival import arrival_s, own_pulse_s
from xmae_dist.signals.beats import pulse_feet, r_peaks
from xmae_dist.signals.defects import fill_gaps
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.resample import resample
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.snapshot import Recording

EDGES_S = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.05, 1.2, 1.35, 1.5, 2.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", help="URL of a corpus")
    parser.add_argument("--json", metavar="FILE", help="write the figures here as well")
    args = parser.parse_args()
    recordings = [
        one for one in Corpus.open(args.corpus).snapshot().recordings() if {"ecg", "ppg"} <= set(one.channels)
    ]
    own_next = np.array([delays(recording) for recording in recordings], float).reshape(-1, 2)
    known = np.isfinite(own_next[:, 0])
    off = known & (np.abs(own_next[:, 0] - own_next[:, 1]) > 0.15)
    counts = np.histogram(own_next[known, 0], EDGES_S)[0]
    found = {
        "recordings": len(recordings),
        "known": int(known.sum()),
        "of_another_beat_by_the_next_foot": int(off.sum()),
        "own_delay_s": {
            f"{low:g} to {high:g}": int(n) for low, high, n in zip(EDGES_S, EDGES_S[1:], counts, strict=False)
        },
    }
    print(json.dumps(found, indent=1))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))
    return 0


def delays(recording: Recording) -> tuple[float, float]:
    """(to the beat's own foot, NaN where that cannot be told; to the next foot), seconds."""
    spec = WindowSpec()
    trains = []
    for name, band_hz, find in (("ecg", spec.ecg_band_hz, r_peaks), ("ppg", spec.ppg_band_hz, pulse_feet)):
        filled_T, _ = fill_gaps(recording.read(name))
        even_T = resample(filled_T, recording.channels[name].rate_hz, spec.rate_hz)
        trains.append(find(bandpass(even_T, spec.rate_hz, band_hz), spec.rate_hz))
    starts_s_B = np.arange(0.0, max(recording.duration_s - 10.0, 1.0), 10.0)
    own = own_pulse_s(*trains)
    following_B, _ = arrival_s(*trains, starts_s_B, 10.0)
    return float("nan") if own is None else own, float(np.nanmedian(following_B))


if __name__ == "__main__":
    sys.exit(main())
