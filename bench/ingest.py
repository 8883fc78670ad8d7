"""Ingest at volume: many small files, and one long EDF; every figure by the command itself, in processes of its own.

    python bench/ingest.py [--files 20000 200000] [--kinds wfdb csv] [--kill-after 20] [--skip-edf] [--json FILE]

For each kind and number of files: files per second, seconds until the first line of progress, the peak of memory of
the command itself and of its whole process tree (proportional set size: pages that processes share count once). With
`--kill-after` a run is killed with SIGKILL after so many seconds and started again: how many recordings were done, how
many of them had to be read again, and in how many seconds of the run's own rate. EDF: 24 h of three signals of
different rates, MB/s (by the clock and by CPU second) of reading it through our reader, of the bare library doing the
same, and of the whole ingest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

RATE_HZ, SECONDS = 125, 10
MAPPING = """layout = "columns"
files = "*.csv"
rate_hz = 125
[[channels]]
name = "ecg"
column = "a"
unit = "uV"
[[channels]]
name = "ppg"
column = "b"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="*", default=[20_000])
    parser.add_argument("--kinds", nargs="*", default=["wfdb", "csv"])
    parser.add_argument("--kill-after", type=float, default=0.0)
    parser.add_argument("--skip-edf", action="store_true")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="xmae-bench-") as name:
        folder = Path(name)
        for count in args.files:
            for kind in args.kinds:
                source = written(folder / f"{kind}-{count}", kind, count)
                results[f"{kind} {count}"] = measured(source, kind, count, folder / f"corpus-{kind}-{count}")
                show(f"{kind} {count}", results[f"{kind} {count}"])
                if args.kill_after:
                    killed = interrupted(source, kind, folder / f"killed-{kind}-{count}", args.kill_after)
                    results[f"{kind} {count} killed"] = killed
                    show(f"{kind} {count} killed", killed)
        if not args.skip_edf:
            results["edf"] = long_edf(folder)
            show("edf 24 h", results["edf"])
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def show(name: str, figures: dict[str, Any]) -> None:
    print(f"{name:22}" + "   ".join(f"{key} {value:g}" for key, value in figures.items()), flush=True)


def written(folder: Path, kind: str, count: int) -> Path:
    """`count` recordings of 10 s with two channels, none like another."""
    folder.mkdir()
    t = np.arange(RATE_HZ * SECONDS) / RATE_HZ
    for at in range(count):
        wave = np.stack([np.sin(2 * np.pi * 1.2 * t + at), np.cos(2 * np.pi * 1.1 * t + at)], axis=1)
        samples_TC = np.round(1000 * wave).astype("<i2")
        samples_TC[:2] = [[at % 30_000, at // 30_000], [at % 29_989, at // 29_989]]
        if kind == "csv":
            lines = "\n".join(f"{a},{b}" for a, b in samples_TC.tolist())
            (folder / f"r{at:06d}.csv").write_text(f"a,b\n{lines}\n")
            continue
        (folder / f"r{at:06d}.dat").write_bytes(samples_TC.tobytes())
        sums = samples_TC.sum(axis=0, dtype=np.int64).astype(np.int16)
        signals = [
            f"r{at:06d}.dat 16 1000(0)/mV 16 0 {samples_TC[0, c]} {sums[c]} 0 {name}"
            for c, name in enumerate(("II", "PLETH"))
        ]
        (folder / f"r{at:06d}.hea").write_text("\n".join([f"r{at:06d} 2 {RATE_HZ} {len(t)}", *signals, ""]))
    return folder


def started(source: Path, kind: str, corpus: Path) -> subprocess.Popen[str]:
    words = [
        sys.executable,
        "-m",
        "xmae_dist.cli.main",
        "ingest",
        str(source),
        "--corpus",
        str(corpus),
        "--cohort",
        "c",
    ]
    if kind == "csv":
        mapping = source.with_suffix(".toml")
        mapping.write_text(MAPPING)
        words += ["--mapping", str(mapping)]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)  # type: ignore[call-overload, no-any-return]


class Lines(threading.Thread):
    """Lines of progress as they come, with the seconds since the start."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, str]] = []
        self.all: list[str] = []
        self._process, self._start_s = process, time.monotonic()
        self.start()

    def run(self) -> None:
        for line in self._process.stderr or ():
            self.all.append(line)
            if line.startswith("ingest "):
                self.seen.append((time.monotonic() - self._start_s, line.strip()))

    def done(self) -> int:
        """Recordings that the newest line says are done."""
        counts = [
            int(float(found.group(1))) for _, line in self.seen if (found := re.match(r"ingest c: (\d\S*)/", line))
        ]
        return counts[-1] if counts else 0


def measured(source: Path, kind: str, count: int, corpus: Path) -> dict[str, float]:
    start_s = time.monotonic()
    process = started(source, kind, corpus)
    lines = Lines(process)
    own = tree = 0.0
    while process.poll() is None:
        own_now, tree_now = memory_mb(process.pid)
        own, tree = max(own, own_now), max(tree, tree_now)
        time.sleep(0.5)
    took_s = time.monotonic() - start_s
    if process.returncode:
        told = process.stdout.read() if process.stdout else ""
        raise SystemExit(f"{told[-2000:]}\n{''.join(lines.all[-10:])}\nexit status {process.returncode}")
    return {
        "files/s": round(count / took_s, 1),
        "took_s": round(took_s, 1),
        "first_progress_s": round(lines.seen[0][0], 2),
        "own_MB": round(own),
        "tree_MB": round(tree),
    }


def interrupted(source: Path, kind: str, corpus: Path, after_s: float) -> dict[str, float]:
    """What a kill costs: recordings that were done when it came and are not in a finished part."""
    process = started(source, kind, corpus)
    lines = Lines(process)
    time.sleep(after_s)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        if child.is_running():
            child.kill()
    process.wait()
    notes = list((corpus / "ingest" / "c" / "parts").glob("*.json"))
    kept = sum(len(json.loads(note.read_text())["items"]) for note in notes)
    done = max(lines.done(), kept)
    seconds = next((s for s, line in reversed(lines.seen) if line.startswith("ingest c: ")), after_s)
    first_s = next((s for s, line in lines.seen if line.startswith("ingest c: ")), 0.0)
    rate = done / max(seconds - first_s, 1e-3)
    again = started(source, kind, corpus)
    told, _ = again.communicate()
    if again.returncode:
        raise SystemExit(told)
    return {
        "done": done,
        "in_finished_parts": kept,
        "lost": done - kept,
        "lost_s": round((done - kept) / max(rate, 1e-9), 1),
    }


def memory_mb(pid: int) -> tuple[float, float]:
    """Proportional set size of a process, and of it with all its children."""
    sizes = []
    try:
        parent = psutil.Process(pid)
        processes = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0, 0.0
    for process in processes:
        try:
            sizes.append(process.memory_full_info().pss / 1e6)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            sizes.append(0.0)
    return sizes[0], sum(sizes)


_READ = """
import sys, time, resource
from pathlib import Path
import numpy as np
path = Path(sys.argv[2])
def ours():
    from xmae_dist.ingest.formats.edf import EdfRecording
    for block in EdfRecording(path, "r").blocks():
        yield from block.values()
def bare():
    import edfio
    file = edfio.read_edf(path)
    for second in range(0, 86400, 600):
        for one in file.signals:
            yield one.get_digital_slice(second, second + 600)
start_s, cpu_s = time.perf_counter(), time.process_time()
total = sum(int(x.sum(dtype=np.int64)) for x in globals()[sys.argv[1]]())
print(time.perf_counter() - start_s, time.process_time() - cpu_s, total)
"""


def long_edf(folder: Path) -> dict[str, float]:
    import edfio

    rng = np.random.default_rng(0)
    (folder / "edf").mkdir()
    path = folder / "edf" / "day.edf"
    rates = {"ECG": 256, "PPG": 64, "Resp": 25}
    signals = [
        edfio.EdfSignal(np.clip(rng.standard_normal(86_400 * rate), -4, 4), rate, label=label, physical_range=(-5, 5))
        for label, rate in rates.items()
    ]
    edfio.Edf(signals, annotations=[edfio.EdfAnnotation(0, None, "start")]).write(path)
    size_mb = path.stat().st_size / 1e6
    figures: dict[str, float] = {"MB": round(size_mb, 1)}
    totals = set()
    for reader in ("ours", "bare", "ours", "bare"):
        told = subprocess.run(
            [sys.executable, "-c", _READ, reader, str(path)], capture_output=True, text=True, check=True
        )
        wall_s, cpu_s, total = map(float, told.stdout.split())
        totals.add(total)
        figures[f"{reader}_MB/s"] = max(figures.get(f"{reader}_MB/s", 0.0), round(size_mb / wall_s, 1))
        figures[f"{reader}_MB/cpu_s"] = max(figures.get(f"{reader}_MB/cpu_s", 0.0), round(size_mb / cpu_s, 1))
    assert len(totals) == 1, "the two readers give other samples"
    whole = measured(path.parent, "edf", 1, folder / "edf-corpus")
    return figures | {
        "ingest_MB/s": round(size_mb / whole["took_s"], 1),
        **{k: whole[k] for k in ("own_MB", "tree_MB")},
    }


if __name__ == "__main__":
    main()
