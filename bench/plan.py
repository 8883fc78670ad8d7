"""The plan at scale: time to the first window id, memory, cost per step, and the quality of the shuffle.

A billion windows in 100 cohorts and 10,000 parts, started at step 1,000,000. Memory is the growth of this
process's peak while the plan is built and asked. The shuffle is judged by the subjects in a batch against a
perfect shuffle's expectation, and by the windows decoded for each window used.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from process_tree import peak_mib

from xmae_dist.data.order.plan import OrderConfig, plan_of
from xmae_dist.data.store.window_store import Segment

WINDOWS_PER_SUBJECT = 180


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=10**9)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    results = {"start": start_anywhere(args.windows), "shuffle": [shuffle(g) for g in (48, 256, 1024)]}
    show(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def start_anywhere(windows: int, cohorts: int = 100, parts: int = 10_000) -> dict[str, Any]:
    segments = big_store(windows, cohorts, parts)
    before_mib = peak_mib()
    started = time.perf_counter()
    plan = plan_of(segments, 64, OrderConfig(global_batch=4096))
    plan.ids(1_000_000, 1000, 0)
    first_s = time.perf_counter() - started
    started = time.perf_counter()
    for step in range(1_000_000, 1_000_020):
        plan.ids(step, 1000, 7)
    per_step_s = (time.perf_counter() - started) / 20
    started = time.perf_counter()
    block = plan.ids_of_steps(1_000_000, 1_000_064, 100, 7)
    block_s = time.perf_counter() - started
    return {
        "windows": windows,
        "cohorts": cohorts,
        "parts": parts,
        "first_id_s": round(first_s, 3),
        "step_share_of_one_rank_in_1000_ms": round(per_step_s * 1e3, 2),
        "ids_per_s_by_block": round(block.size / block_s),
        "memory_growth_mib": round(peak_mib() - before_mib, 1),
        "peak_mib": round(peak_mib(), 1),
    }


def big_store(windows: int, cohorts: int, parts: int) -> list[Segment]:
    rng = np.random.default_rng(0)
    sizes = rng.multinomial(windows - parts, rng.dirichlet(np.ones(parts))) + 1
    firsts = np.cumsum(sizes) - sizes
    return [
        Segment(cohort=f"c{i * cohorts // parts:03d}", part=f"p{i}", first_id=int(firsts[i]), n=int(sizes[i]))
        for i in range(parts)
    ]


def shuffle(global_batch: int, subjects: int = 2000) -> dict[str, Any]:
    """Three cohorts of unequal size, `WINDOWS_PER_SUBJECT` windows in a row from each subject."""
    n = subjects * WINDOWS_PER_SUBJECT
    bounds = [0, n * 6 // 10, n * 9 // 10, n]
    segments = [Segment(cohort=f"c{i}", part="p0", first_id=bounds[i], n=bounds[i + 1] - bounds[i]) for i in range(3)]
    plan = plan_of(segments, 64, OrderConfig(global_batch=global_batch))
    ids = plan.ids_of_steps(640, 768)
    seen = np.mean([np.unique(row // WINDOWS_PER_SUBJECT).size for row in ids])
    perfect = subjects * (1 - (1 - 1 / subjects) ** global_batch)
    return {
        "global_batch": global_batch,
        "subjects_per_batch": round(float(seen), 1),
        "perfect_shuffle": round(perfect, 1),
        "read_amplification": {w: amplification(plan, segments, w) for w in (1, 8) if global_batch >= w},
    }


def amplification(plan: Any, segments: list[Segment], world: int) -> float:
    """Windows decoded by all ranks for each window used, in one block."""
    start = 10 * plan.block_steps
    firsts = np.array([s.first_id for s in segments])
    decoded = 0
    for rank in range(world):
        ids = plan.ids_of_steps(start, start + plan.block_steps, world, rank).ravel()
        part = np.searchsorted(firsts, ids, side="right") - 1
        decoded += np.unique(part * 10**9 + (ids - firsts[part]) // 64).size * 64
    return round(decoded / (plan.block_steps * plan.global_batch), 3)


def show(results: dict[str, Any]) -> None:
    for name, value in results["start"].items():
        print(f"{name:>36}  {value:,}")
    print(f"\n{'batch':>6} {'subjects':>9} {'perfect':>8}  windows decoded per window used, by ranks")
    for row in results["shuffle"]:
        print(
            f"{row['global_batch']:>6} {row['subjects_per_batch']:>9} {row['perfect_shuffle']:>8}  "
            + ", ".join(f"{w}: {a}" for w, a in row["read_amplification"].items())
        )


if __name__ == "__main__":
    main()
