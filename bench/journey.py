"""A whole journey over N recordings of PulseDB's shape, every stage a command of `xmae` with all its processes watched.

    python bench/journey.py --recordings 100000 [--cohorts 2] [--folder DIR | --keep DIR] [--json FILE]

Ingest (a command a cohort) → inspect → windows → 20 steps of pretraining → export → a tick that embeds everything → a
tick with nothing new → evaluate. Of each stage: seconds by the clock, CPU seconds of the whole process tree, the peak
of memory of the command itself, of the largest other process and of all together (proportional set sizes, looked at
four times a second), and CPU milliseconds a recording. The files of a cohort are written before its ingest and removed
after it; they take about 6 kB a recording.

A million recordings take hours. With `--keep` everything stays in that folder, what each command took too, and the same
words go on after the last command that ended; one that was cut off is run again, and its row says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pulsedb_files
from process_tree import Watch

SUITE = """name = "pressure"
title = "Pressures of segments, and who they are of"
[[task]]
name = "systolic"
title = "Systolic pressure"
family = "vital signs"
label = "sbp_mmhg"
kind = "regression"
unit = "recording"
[[task]]
name = "rate"
title = "Pulse rate"
family = "vital signs"
label = "pulse_rate_bpm"
kind = "regression"
unit = "window"
[[task]]
name = "age"
title = "Age"
family = "demographics"
label = "age"
kind = "regression"
unit = "subject"
"""


@dataclass(kw_only=True)
class Stage:
    """What one stage took; of several commands, their sum, and the largest of each peak."""

    name: str
    took_s: float = 0.0
    cpu_s: float = 0.0
    own_mb: float = 0.0
    tree_mb: float = 0.0
    peak_mb: dict[str, float] = field(default_factory=dict)
    said: str = ""
    """The last of what it printed."""
    cut_off: int = 0
    """Commands that were cut off and run again, which found some of their work done; that time is not in the others."""

    @property
    def largest(self) -> tuple[str, float]:
        """The largest process beside the command itself."""
        return max(self.peak_mb.items(), key=lambda one: one[1], default=("–", 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=10_000)
    parser.add_argument("--cohorts", type=int, help="1 for each 50,000 recordings unless given, and 2 at least")
    parser.add_argument("--segments-a-person", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where everything is kept while it runs; a temporary one")
    parser.add_argument("--keep", type=Path, help="a folder of this journey alone, which stays: to go on later")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cohorts = args.cohorts or max(2, args.recordings // 50_000)
    with contextlib.ExitStack() as stack:
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
        folder = args.keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-journey-", dir=args.folder))
        stages = journey(Path(folder), args.recordings, cohorts, args.segments_a_person)
    show(stages, args.recordings)
    if args.json:
        about = {"recordings": args.recordings, "cohorts": cohorts, "load": os.getloadavg()[0]}
        args.json.write_text(json.dumps({**about, "stages": [asdict(one) for one in stages]}, indent=1))


def journey(folder: Path, recordings: int, cohorts: int, segments_a_person: int) -> list[Stage]:
    """All stages, in order."""
    done = Done(folder / "took.jsonl", {"recordings": recordings, "cohorts": cohorts, "segments": segments_a_person})
    stages = [ingested(folder, done, recordings, cohorts, segments_a_person)]
    (folder / "pressure.toml").write_text(SUITE)
    for name, words in commands(folder):
        stage = Stage(name=name)
        done.run(stage, name, words)
        stages.append(stage)
        print(row(stage, recordings), file=sys.stderr, flush=True)
    return stages


def commands(folder: Path) -> list[tuple[str, list[str]]]:
    """Name and words of each stage after the ingest."""
    corpus, windows, run, bundle, table = (
        str(folder / name) for name in ("corpus", "windows", "run", "bundle", "embeddings")
    )
    tick = ["reembed", "--corpus", corpus, "--bundle", bundle, "--table", table, "--json"]
    steps = ["--train.steps", "20", "--train.workers", "1", "--train.micro-batch", "16"]
    fit = ["--suite", str(folder / "pressure.toml"), "--replicates", "100", "--json"]
    return [
        ("inspect", ["inspect", corpus, "--json"]),
        ("windows", ["windows", "--corpus", corpus, "--out", windows, "--json"]),
        (
            "pretrain, 20 steps",
            ["pretrain", "debug_cpu2", "--corpus", corpus, "--windows", windows, "--run", run, *steps],
        ),
        ("export", ["export", "--run", run, "--out", bundle]),
        ("tick that embeds all", tick),
        ("tick with nothing new", tick),
        (
            "evaluate",
            [
                "evaluate",
                "--corpus",
                corpus,
                "--windows",
                windows,
                "--bundle",
                bundle,
                "--out",
                f"{folder}/results",
                *fit,
            ],
        ),
    ]


def ingested(folder: Path, done: Done, recordings: int, cohorts: int, segments_a_person: int) -> Stage:
    """Writes the files of each cohort and has them ingested; only the ingest is measured."""
    stage, waves = Stage(name="ingest"), pulsedb_files.waves()
    people = 0
    for cohort in range(cohorts):
        own = recordings * (cohort + 1) // cohorts - recordings * cohort // cohorts
        source, name = folder / "source", f"c{cohort:03d}"
        if f"ingest {name}" not in done.rows:
            shutil.rmtree(source, ignore_errors=True)
            pulsedb_files.write(source, waves, own, segments_a_person, people)
        people += -(-own // segments_a_person)
        words = [str(source), "--adapter", "pulsedb", "--corpus", str(folder / "corpus"), "--cohort", name]
        done.run(stage, f"ingest {name}", ["ingest", *words, "--json"])
        shutil.rmtree(source, ignore_errors=True)
    print(row(stage, recordings), file=sys.stderr, flush=True)
    return stage


class Done:
    """What commands took that have ended, kept in a file."""

    def __init__(self, path: Path, journey: dict[str, int]) -> None:
        """Raises SystemExit where the file is of another journey."""
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        first, *rest = [json.loads(line) for line in lines] or [journey]
        if first != journey:
            raise SystemExit(f"{path}: of the journey {first}, not of {journey}: name another folder")
        self.rows = {row["command"]: row for row in rest if "took_s" in row}
        self._begun = {row["command"] for row in rest}
        if not lines:
            self._write(journey)

    def run(self, stage: Stage, name: str, words: list[str]) -> None:
        """Adds what a command took, or took when it was run, to `stage`."""
        if name not in self.rows:
            cut_off = int(name in self._begun)
            self._write({"command": name})
            alone = Stage(name=name, cut_off=cut_off)
            run(alone, words)
            self.rows[name] = {"command": name, **asdict(alone)}
            self._write(self.rows[name])
        add(stage, self.rows[name])

    def _write(self, row: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def add(stage: Stage, row: Mapping[str, Any]) -> None:
    """One command's figures to those of the stage it is part of."""
    stage.took_s += row["took_s"]
    stage.cpu_s += row["cpu_s"]
    stage.own_mb, stage.tree_mb = max(stage.own_mb, row["own_mb"]), max(stage.tree_mb, row["tree_mb"])
    for name, mb in row["peak_mb"].items():
        stage.peak_mb[name] = max(stage.peak_mb.get(name, 0.0), mb)
    stage.said, stage.cut_off = row["said"], stage.cut_off + row["cut_off"]


def run(stage: Stage, words: list[str]) -> None:
    """Runs a command of `xmae` and notes what it took. Raises SystemExit, with what it said, if it fails."""
    command = [sys.executable, "-m", "xmae_dist.cli.main", *words]
    started_s = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, text=True)
        watch = Watch(process)
        said.seek(0)
        stage.said = said.read()[-4000:]
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}\n{stage.said}\nexit status {process.returncode}")
    stage.took_s, stage.cpu_s = time.monotonic() - started_s, watch.tree_cpu_s
    stage.own_mb, stage.tree_mb, stage.peak_mb = watch.own_mb, watch.tree_mb, dict(watch.peak_mb)


def row(stage: Stage, recordings: int) -> str:
    name, mb = stage.largest
    again = f" (cut off {stage.cut_off} times)" if stage.cut_off else ""
    return (
        f"| {stage.name}{again} | {stage.took_s:.0f} s | {stage.cpu_s:.0f} s | {1e3 * stage.cpu_s / recordings:.2f} ms "
        f"| {stage.own_mb:.0f} MB | {mb:.0f} MB ({name}) | {stage.tree_mb:.0f} MB |"
    )


def show(stages: list[Stage], recordings: int) -> None:
    print(f"{recordings:,} recordings, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print("| stage | clock | CPU | CPU a recording | command | largest other process | all processes |")
    print("|---|---|---|---|---|---|---|")
    for stage in stages:
        print(row(stage, recordings))
    largest = max(max(stage.own_mb, stage.largest[1]) for stage in stages)
    print(f"whole: {sum(stage.took_s for stage in stages) / 60:.1f} minutes; no process over {largest:.0f} MB")


if __name__ == "__main__":
    main()
