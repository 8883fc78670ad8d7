"""How fast a loader hands out batches; knows nothing of the loaders, so that each can be measured where it runs."""

from __future__ import annotations

import time
from collections.abc import Iterable


def rated(counts: Iterable[int]) -> dict[str, float]:
    """Rates over everything, first batch included; the CPU is that of this process, all its threads."""
    started, cpu_started = time.perf_counter(), time.process_time()
    total, first_s = 0, 0.0
    for count in counts:
        first_s = first_s or time.perf_counter() - started
        total += count
    return {
        "windows_per_s": total / (time.perf_counter() - started),
        "windows_per_cpu_s": total / (time.process_time() - cpu_started),
        "first_batch_s": first_s,
    }
