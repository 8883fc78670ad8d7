"""How fast the simulator makes signals, against real time: `python bench/simulate.py [--json FILE]`.

Each preset is run for long and for short recordings in one process on one thread; the figure that matters is CPU
seconds per recorded hour of one device.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from dataclasses import replace

from xmae_dist.simulate.cohorts import PRESETS, CohortSpec, simulate_subject


def main() -> int:
    """Print the table and write it where --json says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures here as well")
    parser.add_argument("--hours", type=float, default=4.0, help="session hours for each row")
    arguments = parser.parse_args()
    rows = [
        measure(replace(spec, minutes=minutes), arguments.hours) for spec in PRESETS.values() for minutes in (60.0, 5.0)
    ]
    print(f"{'cohort':14s} {'minutes':>8s} {'hours':>7s} {'CPU s':>7s} {'CPU s/h':>8s} {'x real time':>12s}")
    for row in rows:
        print(
            f"{row['cohort']:14s} {row['minutes']:8.0f} {row['recorded_hours']:7.1f} {row['cpu_s']:7.2f} "
            f"{row['cpu_s_per_recorded_hour']:8.3f} {row['times_real_time']:12,.0f}"
        )
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak_mib:.0f} MiB")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"rows": rows, "peak_memory_mib": peak_mib}, file, indent=1)
    return 0


def measure(spec: CohortSpec, session_hours: float) -> dict[str, float | str]:
    """Simulate `session_hours` of one cohort, all subjects different."""
    subjects = max(int(round(session_hours * 60.0 / spec.minutes)), 1)
    spec = replace(spec, subjects=subjects + 1, recordings_per_subject=1)
    simulate_subject(spec, subjects)  # imports and caches are not what we measure
    wall, cpu = time.perf_counter(), time.process_time()
    recordings = [len(simulate_subject(spec, index)) for index in range(subjects)]
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    hours = sum(recordings) * spec.minutes / 60.0
    return {
        "cohort": spec.name,
        "minutes": spec.minutes,
        "recorded_hours": hours,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "cpu_s_per_recorded_hour": cpu_s / hours,
        "times_real_time": hours * 3600.0 / cpu_s,
    }


if __name__ == "__main__":
    raise SystemExit(main())
