"""How long until the first step: from `ray job submit`, and from a killed worker, with what the seconds consist of.

    python bench/start.py [--workers 2] [--kills 3] [--json FILE]

A real cluster of one node on this machine (token authentication, dashboard, jobs), an empty process pool; the job's
working directory is this checkout, as users submit it; the window store is there already, as for every start but the
first. Then a worker is killed (SIGKILL), again and again, each time after a new checkpoint. Seconds are those the run
itself reports with each start (docs/training.md says what each is); what comes before, from the command or the kill to
the first of them, and after, up to the end of the first step, is added here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
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
        began_s = time.time()
        submit(args, cluster, folder, "run", steps=1_000_000)
        start = first_step(str(folder / "run"), began_s)
        restarts = []
        for _ in range(args.kills):
            until_saved(str(folder / "run"))
            killed_s = kill_a_worker(cluster)
            restarts.append(first_step(str(folder / "run"), killed_s))
        ray(cluster, "job", "stop", "run")
    return {"workers": args.workers, "preset": args.preset, "load": load, "start": start, "restarts": restarts}


def submit(args: argparse.Namespace, cluster: LocalCluster, folder: Path, name: str, *, steps: int) -> None:
    """Submits a run; waits for its end only where it has one step."""
    words = ["jobs/pretrain.py", "debug_cpu2", "--corpus", str(folder / "corpus"), "--run", str(folder / name)]
    words += ["--model.preset", args.preset, "--train.steps", str(steps), "--train.workers", str(args.workers)]
    words += ["--validation.windows", "0", "--checkpoint.every-steps", "10", "--train.max-failures", "-1"]
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


if __name__ == "__main__":
    main()
