"""How well clocks are found again, on planted truth: `python bench/align.py [--pairs N] [--json FILE]`.

Pairs of an hour, offsets to 60 s, drifts to 100 ppm that change in the middle, 25 to 500 Hz, 5-30 % missing beats,
ectopy, fibrillation, wandering arrival times; then unrelated people on purpose. Errors are the largest at any time
of the hour, against the person's median arrival time in place of the declared one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter

import numpy as np

from xmae_dist.signals.align import align
from xmae_dist.simulate.traits import Prevalence
from xmae_dist.testing.beat_trains import PairSpec, beat_train_pair

RATES_HZ = (25.0, 50.0, 64.0, 100.0, 250.0, 500.0)
MISSING = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
WANDER_S = (0.004, 0.008, 0.012, 0.018)


def main() -> int:
    """Print the figures and write them where --json says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60, help="pairs of one person, and as many of two")
    parser.add_argument("--seed", type=int, default=20_000, help="first seed; tuning used those below 2,000")
    parser.add_argument("--json", metavar="FILE", help="write the figures here as well")
    arguments = parser.parse_args()
    figures = study(arguments.pairs, arguments.seed)
    for name, value in figures.items():
        print(f"{name:36s} {value}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)
    return 0


def pair_spec(index: int, seed: int) -> PairSpec:
    """The pair at `index` of the study: all conditions in turn, drawn independently of each other."""
    rng = np.random.default_rng([seed, index])
    return PairSpec(
        seed=seed + index,
        reference_hz=float(rng.choice([100.0, 125.0, 250.0, 500.0])),
        other_hz=float(rng.choice(RATES_HZ)),
        missing=float(rng.choice(MISSING)),
        wander_s=float(rng.choice(WANDER_S)),
        spurious=float(rng.choice([0.0, 0.02, 0.05])),
        change=bool(rng.random() < 0.75),
        prevalence=Prevalence(ectopy=0.5, af=0.15),
    )


def study(pairs: int, seed: int) -> dict[str, object]:
    """All figures of both studies."""
    error_ms, drift_ppm, floor_ppm, seconds = [], [], [], 0.0
    reasons: Counter[str] = Counter()
    unrelated: Counter[str] = Counter()
    before = beat_train_pair(pair_spec(pairs, seed))
    for index in range(pairs):
        pair = beat_train_pair(pair_spec(index, seed))
        start = time.process_time()
        found = align(pair.reference_s, pair.other_s)
        seconds += time.process_time() - start
        reasons[found.reason or "accepted"] += 1
        unrelated[align(before.reference_s, pair.other_s).reason or "accepted"] += 1
        before = pair
        if found.accepted:
            true_s = np.linspace(pair.r_true_s[0], pair.r_true_s[-1], 361)
            told_s = found.to_reference(pair.clock.wall_s(true_s))
            error_s = pair.misalignment_s(told_s, true_s, found.arrival_prior_s)
            error_ms.append(1e3 * float(np.abs(error_s).max()))
            drift_ppm.append(1e6 * float(np.polyfit(true_s, error_s, 1)[0]))
            floor_ppm.append(pair.drift_floor_ppm())
    error = np.array(error_ms)
    return {
        "pairs of one person": pairs,
        "accepted": reasons["accepted"] / pairs,
        "verdicts": dict(reasons),
        "accepted within 25 ms all hour": float((error <= 25.0).mean()),
        "worst ms": float(error.max()),
        "median of the worst ms": float(np.median(error)),
        "95th percentile of the worst ms": float(np.percentile(error, 95)),
        "drift error ppm (rms)": float(np.sqrt(np.mean(np.square(drift_ppm)))),
        "its physiological floor ppm (rms)": float(np.sqrt(np.mean(np.square(floor_ppm)))),
        "CPU seconds per pair of an hour": seconds / pairs,
        "pairs of two people": pairs,
        "of these accepted (must be 0)": unrelated["accepted"],
        "verdicts on two people": dict(unrelated),
    }


if __name__ == "__main__":
    raise SystemExit(main())
