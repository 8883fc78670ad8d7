"""Ingest at volume: many small files, and one long EDF; every figure by the command itself, in processes of its own.

    python bench/ingest.py [--files 20000 200000] [--kinds wfdb csv] [--kill-after 20] [--skip-edf] [--json FILE]

For each kind and number of files: files per second; milliseconds of CPU a file, of the command itself and of its whole
process tree, the start of Ray included; seconds of clock and of CPU until the first line of progress; the peak of
memory of the command itself and of its tree (proportional set size: pages that processes share count once); seconds of
clock and of CPU of the same command again, which finds nothing to do. Of two numbers of files: growth of the peaks in
bytes a file. With `--kill-after` a run is killed with SIGKILL so many seconds after the first recordings were done, and
started again: how many recordings were done, how many of them had to be read again, and in how many seconds of the
run's own rate. EDF: 24 h of three signals of different rates, MB/s (by the clock and by CPU second) of reading it
through our reader, of the bare library doing the same, and of the whole ingest.
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
from process_tree import Watch, cpu_s

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
        for kind in args.kinds:
            for count in sorted(args.files):
                source = written(folder / f"{kind}-{count}", kind, count)
                corpus = folder / f"corpus-{kind}-{count}"
                results[f"{kind} {count}"] = measured(source, kind, count, corpus) | again(source, kind, corpus)
                show(f"{kind} {count}", results[f"{kind} {count}"])
                if args.kill_after:
                    killed = interrupted(source, kind, folder / f"killed-{kind}-{count}", args.kill_after)
                    results[f"{kind} {count} killed"] = killed
                    show(f"{kind} {count} killed", killed)
            if len(args.files) > 1:
                ends = [(count, results[f"{kind} {count}"]) for count in (min(args.files), max(args.files))]
                results[f"{kind} growth"] = growth(*ends)
                show(f"{kind} growth", results[f"{kind} growth"])
        if not args.skip_edf:
            results["edf"] = long_edf(folder)
            show("edf 24 h", results["edf"])
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def growth(one: tuple[int, dict[str, float]], other: tuple[int, dict[str, float]]) -> dict[str, float]:
    """By how many bytes a file the peaks of memory differ between two numbers of files."""
    files = other[0] - one[0]
    return {f"{key[:-3]}_B/file": round((other[1][key] - one[1][key]) * 1e6 / files) for key in ("own_MB", "tree_MB")}


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
        self.first_cpu_s = 0.0
        self._process, self._start_s = process, time.monotonic()
        self.start()

    def run(self) -> None:
        for line in self._process.stderr or ():
            self.all.append(line)
            if line.startswith("ingest "):
                self.first_cpu_s = self.first_cpu_s or cpu_s(psutil.Process(self._process.pid))
                self.seen.append((time.monotonic() - self._start_s, line.strip()))

    def done(self) -> int:
        """Recordings that the newest line says are done."""
        counts = [
            int(float(found.group(1))) for _, line in self.seen if (found := re.match(r"ingest c: (\d\S*)/", line))
        ]
        return counts[-1] if counts else 0


def finished(process: subprocess.Popen[str], lines: Lines) -> Watch:
    """Waits for the end of a command. Raises SystemExit with what it said where it failed."""
    watch = Watch(process)
    if process.returncode:
        told = process.stdout.read() if process.stdout else ""
        raise SystemExit(f"{told[-2000:]}\n{''.join(lines.all[-10:])}\nexit status {process.returncode}")
    return watch


def measured(source: Path, kind: str, count: int, corpus: Path) -> dict[str, float]:
    start_s = time.monotonic()
    process = started(source, kind, corpus)
    lines = Lines(process)
    watch = finished(process, lines)
    took_s = time.monotonic() - start_s
    return {
        "files/s": round(count / took_s, 1),
        "took_s": round(took_s, 1),
        "own_cpu_ms/file": round(watch.own_cpu_s / count * 1e3, 3),
        "cpu_ms/file": round(watch.tree_cpu_s / count * 1e3, 3),
        "first_progress_s": round(lines.seen[0][0], 2),
        "first_progress_cpu_s": round(lines.first_cpu_s, 2),
        "own_MB": round(watch.own_mb, 1),
        "tree_MB": round(watch.tree_mb, 1),
    }


def again(source: Path, kind: str, corpus: Path) -> dict[str, float]:
    """The same command once more, which finds nothing to do."""
    start_s = time.monotonic()
    process = started(source, kind, corpus)
    watch = finished(process, Lines(process))
    return {"again_s": round(time.monotonic() - start_s, 1), "again_cpu_s": round(watch.tree_cpu_s, 1)}


def interrupted(source: Path, kind: str, corpus: Path, after_s: float) -> dict[str, float]:
    """What a kill costs: recordings that were done when it came and are not in a finished part."""
    process = started(source, kind, corpus)
    lines = Lines(process)
    while process.poll() is None and not lines.done():  # until then Ray starts, which is not done again
        time.sleep(0.1)
    time.sleep(after_s)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        if child.is_running():
            child.kill()
    process.wait()
    register = corpus / "ingest" / "c"
    noted = sum(len(json.loads(note.read_text())["items"]) for note in (register / "parts").glob("*.json"))
    committed = sum(len(json.loads(run.read_text())["items"]) for run in (register / "runs").glob("*.json"))
    kept = noted + committed
    done = max(lines.done(), kept)
    seconds = next((s for s, line in reversed(lines.seen) if line.startswith("ingest c: ")), after_s)
    first_s = next((s for s, line in lines.seen if line.startswith("ingest c: ")), 0.0)
    rate = done / max(seconds - first_s, 1e-3)
    process = started(source, kind, corpus)
    finished(process, Lines(process))
    return {
        "done": done,
        "committed": committed,
        "in_finished_parts": noted,
        "lost": done - kept,
        "lost_s": round((done - kept) / max(rate, 1e-9), 1),
    }


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
