"""What the seconds before a first step are spent on."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Marks:
    """Seconds by what they were spent on, from `since_s` (Unix time) on."""

    def __init__(self, since_s: float) -> None:
        self.seconds: dict[str, float] = {}
        self._last_s = since_s

    def note(self, what: str, at_s: float | None = None) -> None:
        """Books the time since the last note, up to `at_s` (now), on `what`."""
        at_s = time.time() if at_s is None else at_s
        # Other machines' clocks may be a little ahead.
        self.seconds[f"{what}_s"], self._last_s = round(max(at_s - self._last_s, 0.0), 3), max(at_s, self._last_s)


def process_started_s() -> float:
    """Unix time at which this process began; now, where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        since_boot_s = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.time()
    return time.time() - since_boot_s + ticks / os.sysconf("SC_CLK_TCK")
