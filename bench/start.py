"""How long until the first step: from `ray job submit`, and from a killed worker, with what the seconds consist of.

    python bench/start.py [--workers 2] [--kills 3] [--json FILE]

A real cluster of one node on this machine (token authentication, dashboard, jobs), an empty process pool; the job's
working directory is this checkout, as users submit it; the window store is there already, as for every start but the
first. Then a worker is killed (SIGKILL), again and again, each time after a new checkpoint. Seconds are those the run
itself reports with each start (docs/training.md says what each is); what comes before, from the command or the kill to
the first of them, and after, up to the end of the first step, is added here.

The CPU seconds of every process of the cluster and of the submitting one, over the same spans, come with them: unlike
the clock they can be compared on a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from xmae_dist.testing.local_cluster import LocalCluster, local_cluster
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.observe.metrics import Row, read_metrics

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 300.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--rest-s", type=float, default=40.0, help="seconds from a checkpoint to the next kill")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xmae-bench-") as folder:
        results = run(args, Path(folder))
    show(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    os.environ.pop("RAY_ADDRESS", None)
    command([sys.executable, "-m", "xmae_dist.cli", "simulate", "bedside", "--corpus", str(folder / "corpus")], None)
    with local_cluster(raylets=1, num_cpus=args.workers + 1, environment=environment) as cluster:
        submit(args, cluster, folder, "first", steps=1)  # makes the window store
    with local_cluster(raylets=1, num_cpus=args.workers + 1, environment=environment) as cluster:
        load = os.getloadavg()[0]
        with CpuSeconds() as used:
            began_s = time.time()
            submit(args, cluster, folder, "run", steps=1_000_000)
            start = first_step(str(folder / "run"), began_s)
            start_cpu = used.since_last()
            restarts, restarts_cpu, while_training = [], [], []
            for _ in range(args.kills):
                until_saved(str(folder / "run"))
                time.sleep(args.rest_s / 2)  # spares are made
                used.since_last()
                time.sleep(args.rest_s / 2)
                while_training.append({kind: s / (args.rest_s / 2) for kind, s in used.since_last().items()})
                killed_s = kill_a_worker(cluster)
                restarts.append(first_step(str(folder / "run"), killed_s))
                restarts_cpu.append(used.since_last())
        ray(cluster, "job", "stop", "run")
    return {
        "workers": args.workers,
        "preset": args.preset,
        "load": load,
        "start": start,
        "restarts": restarts,
        "start_cpu": start_cpu,
        "restarts_cpu": restarts_cpu,
        "while_training": while_training,
    }


def submit(args: argparse.Namespace, cluster: LocalCluster, folder: Path, name: str, *, steps: int) -> None:
    """Submits a run; waits for its end only where it has one step."""
    words = ["jobs/pretrain.py", "debug_cpu2", "--corpus", str(folder / "corpus"), "--run", str(folder / name)]
    words += ["--model.preset", args.preset, "--train.steps", str(steps), "--train.workers", str(args.workers)]
    words += [
        "--validation.windows",
        "0",
        "--checkpoint.every-steps",
        "10",
        "--train.max-failures",
        "-1",
        "--resources.spares",
    ]
    options = ["--submission-id", name, "--working-dir", str(ROOT), *([] if steps == 1 else ["--no-wait"])]
    ray(cluster, "job", "submit", *options, "--", "python", *words)


def ray(cluster: LocalCluster, *words: str) -> None:
    command([str(Path(sys.executable).with_name("ray")), *words], cluster)


def command(words: list[str], cluster: LocalCluster | None) -> None:
    environment = {**os.environ, **(cluster.environment() if cluster else {})}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(words)} ended with status {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
        )


def first_step(run_url: str, since_s: float) -> dict[str, float]:
    """Seconds from `since_s` to the end of the first step of the start that came after, by what they were spent on."""
    start, step = until(f"a step of {run_url}", lambda: _first_step(run_url, since_s))
    phases = {name[:-2]: row_s for name, row_s in start.items() if name.endswith("_s") and name != "time_s"}
    before_s = start["time_s"] - sum(phases.values()) - since_s
    return {
        "before": before_s,
        **phases,
        "first_step": step["time_s"] - start["time_s"],
        "all": step["time_s"] - since_s,
    }


def _first_step(run_url: str, since_s: float) -> tuple[Row, Row] | None:
    rows = [row for row in read_metrics(run_url) if row["time_s"] > since_s]
    starts = [row for row in rows if row["kind"] == "start"]
    if not starts:
        return None
    steps = [row for row in rows if row["kind"] == "step" and row["time_s"] > starts[0]["time_s"]]
    return (starts[0], min(steps, key=lambda row: row["step"])) if steps else None


def until_saved(run_url: str) -> None:
    """Waits for a checkpoint later than those there now."""
    there = {one.step for one in checkpoint.list_checkpoints(run_url)}
    until(
        f"another checkpoint of {run_url}",
        lambda: any(one.complete and one.step not in there for one in checkpoint.list_checkpoints(run_url)),
    )


def kill_a_worker(cluster: LocalCluster) -> float:
    """Kills one, as the kernel kills when memory is short; returns when."""
    family = psutil.Process(cluster.nodes[0].pid).children(recursive=True)
    worker = next(one for one in family if "RayTrainWorker" in one.name())
    worker.send_signal(signal.SIGKILL)
    return time.time()


class CpuSeconds:
    """CPU seconds by kind of process, of all that this process started, sampled by a thread while the block runs.

    A process that ends between two looks loses what it used since the earlier one.
    """

    _LOOK_EVERY_S = 0.5

    def __init__(self) -> None:
        self._used: dict[tuple[int, float], tuple[str, float]] = {}
        self._told: dict[tuple[int, float], float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> CpuSeconds:
        self._look()
        self.since_last()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def since_last(self) -> dict[str, float]:
        """By kind of process, since this was asked before."""
        self._look()
        found: dict[str, float] = defaultdict(float)
        for process, (kind, used_s) in list(self._used.items()):
            found[kind] += used_s - self._told.get(process, 0.0)
            self._told[process] = used_s
        return {kind: used_s for kind, used_s in found.items() if used_s > 0}

    def _work(self) -> None:
        while not self._done.wait(self._LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        for one in psutil.Process().children(recursive=True):
            try:
                times, words = one.cpu_times(), one.cmdline()
                process = (one.pid, one.create_time())
            except psutil.Error:
                continue
            self._used[process] = (kind_of(words), times.user + times.system)


def kind_of(words: list[str]) -> str:
    """Of a process with this command line: what Ray calls it, else which program it is."""
    text = " ".join(words)
    if text.startswith("ray::"):
        return text.split()[0].split(".")[0].partition("(")[0]
    if "jobs/pretrain.py" in text:
        return "ray job submit" if "submit" in words else "driver"
    programs = (
        "gcs_server",
        "raylet",
        "runtime_env_agent",
        "dashboard/agent.py",
        "dashboard/dashboard.py",
        "log_monitor",
    )
    return next((name for name in programs if name in text), "others")


def until(what: str, answer: Any) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := answer()):
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {PATIENCE_S:.0f} s for {what}")
        time.sleep(0.25)
    return found


def show(results: dict[str, Any]) -> None:
    where = f"{results['workers']} workers on {os.cpu_count()} cores, load before {results['load']:.1f}"
    print(f"{results['preset']}, {where}")
    restarts = results["restarts"]
    names = [*dict.fromkeys(name for one in (results["start"], *restarts) for name in one if name != "all"), "all"]
    print(f"{'seconds':<16} {'job submit':>12} {'killed worker':>14}   (median of {len(restarts)}; smallest, largest)")
    for name in names:
        again = [one.get(name, 0.0) for one in restarts]
        spread = f"{np.median(again):>14.1f}   {min(again):.1f} {max(again):.1f}" if again else ""
        print(f"{name:<16} {results['start'].get(name, 0.0):>12.1f} {spread}")
    show_cpu(results["start_cpu"], results["restarts_cpu"], results["while_training"])


def show_cpu(start: dict[str, float], restarts: list[dict[str, float]], while_training: list[dict[str, float]]) -> None:
    def median(rows: list[dict[str, float]], kind: str) -> float:
        return float(np.median([one.get(kind, 0.0) for one in rows])) if rows else 0.0

    def all_of(row: dict[str, float]) -> dict[str, float]:
        return {**row, "all": sum(row.values())}

    start, restarts, while_training = all_of(start), [*map(all_of, restarts)], [*map(all_of, while_training)]
    print(f"\n{'CPU seconds':<26} {'job submit':>12} {'killed worker':>14} {'a second of training':>22}   (median)")
    kinds = {kind for one in (start, *restarts, *while_training) for kind in one}
    for kind in sorted(kinds, key=lambda kind: -start.get(kind, 0.0)):
        print(
            f"{kind:<26} {start.get(kind, 0.0):>12.1f} {median(restarts, kind):>14.1f}"
            f" {median(while_training, kind):>22.3f}"
        )


if __name__ == "__main__":
    main()
