"""Memory and CPU of a command and of every process that it starts, looked at while it runs."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
from pathlib import Path

import psutil

EVERY_S, MEMORY_EVERY = 0.25, 8
"""Seconds between looks, and between looks at memory in looks: four a second took a fifth of a core. In the first
seconds every look is at memory, too, since a command may have no more of them."""


def peak_mib() -> float:
    """Of this process alone: `ru_maxrss` lives through fork and exec, and is the parent's where that was larger."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("/proc/self/status says no VmHWM: is this Linux?")


class Watch:
    """Watches a process to its end; Linux. Memory is the proportional set size: shared pages count once, in parts."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.own_mb = self.tree_mb = 0.0
        """Peaks of the process itself, and of all of them together."""
        self.peak_mb: dict[str, float] = {}
        """Peak of the largest process of each name, the process itself left out."""
        self._cpu_s: dict[int, float] = {}
        self._names: dict[int, str] = {}
        self._pid = process.pid
        for look in itertools.count():
            if process.poll() is not None:
                break
            self._look(memory=look < MEMORY_EVERY or look % MEMORY_EVERY == 0)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(EVERY_S)

    @property
    def own_cpu_s(self) -> float:
        return self._cpu_s.get(self._pid, 0.0)

    @property
    def tree_cpu_s(self) -> float:
        return sum(self._cpu_s.values())

    def cpu_s_of(self, prefix: str) -> float:
        """Of all processes whose name, when last seen, began so."""
        return sum(self._cpu_s[pid] for pid, name in self._names.items() if name.startswith(prefix))

    def _look(self, *, memory: bool) -> None:
        total_mb = 0.0
        for one in _tree(self._pid):
            # A process may end between two questions; what was seen of it stays.
            with contextlib.suppress(psutil.Error):
                self._cpu_s[one.pid], self._names[one.pid] = cpu_s(one), _name(one)
                if not memory:
                    continue
                size_mb = one.memory_full_info().pss / 1e6
                total_mb += size_mb
                if one.pid == self._pid:
                    self.own_mb = max(self.own_mb, size_mb)
                else:
                    name = self._names[one.pid]
                    self.peak_mb[name] = max(self.peak_mb.get(name, 0.0), size_mb)
        self.tree_mb = max(self.tree_mb, total_mb)


def cpu_s(process: psutil.Process) -> float:
    """Seconds in user and system mode so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _name(process: psutil.Process) -> str:
    """What Ray calls a worker at the moment (`ray::task`), or the program."""
    words = process.cmdline() or [process.name()]
    return words[0].split()[0] if words[0].startswith("ray::") else process.name()
