"""Ten device cohorts, three ticks with arrivals between them, a fourth with nothing new: by the commands themselves.

Cohorts are simulated into a corpus on an S3 server. After each tick no window is in the table twice; in the end it
holds exactly the windows that cutting every recording anew gives, which the ticks do not do. The table of what each
tick did (windows, seconds, requests) is printed.

    OMP_NUM_THREADS=1 python bench/ticks.py --hours 500 [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmae_dist.data.windows.spans import spans_of_recording
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.model import bundle, presets
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table
from xmae_dist.testing.s3_server import S3Server, serve_s3

SPEC = WindowSpec(require=("ppg",))
DEVICES = ("bedside", "ring", "telemetry")
# What arrives before each tick: (cohort, seed). The second seed brings other people into a cohort that is there.
ARRIVALS = (
    tuple((cohort, 0) for cohort in range(4)),
    (*((cohort, 0) for cohort in range(4, 7)), (0, 1)),
    (*((cohort, 0) for cohort in range(7, 10)), (4, 1)),
    (),
)


def main() -> int:
    """Prints a row a tick; fails where a window is missing, there twice, or there without a reason."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=500.0, help="of all cohorts together")
    parser.add_argument("--minutes", type=float, default=60.0, help="of a recording")
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serve_s3(log=Path(folder) / "requests.log") as server:
        os.environ.update(server.environment())
        rows = study(server, args)
    print("| tick | windows committed | in the table | seconds | requests |")
    print("|---|---|---|---|---|")
    for number, row in enumerate(rows, 1):
        print(f"| {number} | {row['committed']:,} | {row['held']:,} | {row['clock_s']} | {row['requests']:,} |")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    return 0


def study(server: S3Server, args: argparse.Namespace) -> list[dict[str, Any]]:
    places = {name: f"{server.bucket_url()}/{name}" for name in ("corpus", "bundle", "table")}
    bundle.save(places["bundle"], presets.build("tiny"), window_spec=SPEC.to_dict(), lineage={"origin": "bench"})
    hours = args.hours / sum(map(len, ARRIVALS))
    rows: list[dict[str, Any]] = []
    held = 0
    for arrivals in ARRIVALS:
        for cohort, seed in arrivals:
            simulated(places["corpus"], cohort, seed, hours, args.minutes)
        row = ticked(server, places, args.actors)
        windows = in_table(places["table"])
        if twice := [window for window, times in windows.items() if times > 1]:
            raise SystemExit(f"{len(twice)} windows are in the table twice, {twice[0]} among them")
        rows.append(row | {"committed": len(windows) - held, "held": len(windows)})
        held = len(windows)
        print(f"tick {len(rows)}: {rows[-1]}", file=sys.stderr, flush=True)
    wanted, found = eligible(places["corpus"]), set(in_table(places["table"]))
    if wanted != found:
        raise SystemExit(f"{len(wanted - found)} windows are missing, {len(found - wanted)} have no reason to be there")
    return rows


def simulated(corpus: str, cohort: int, seed: int, hours: float, minutes: float) -> None:
    device = DEVICES[cohort % len(DEVICES)]
    words = ["simulate", device, "--corpus", corpus, "--cohort", f"{device}-{cohort}", "--seed", str(seed)]
    words += ["--subject-prefix", f"c{cohort}s{seed}-", "--hours", str(hours), "--minutes", str(minutes)]
    command(words)


def ticked(server: S3Server, places: dict[str, str], actors: int) -> dict[str, Any]:
    words = ["reembed", "--max-actors", str(actors)]
    for name, url in places.items():
        words += [f"--{name}", url]
    requests, began_s = server.requests(), time.monotonic()
    command(words)
    return {"clock_s": round(time.monotonic() - began_s, 1), "requests": server.requests() - requests}


def command(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "xmae_dist.cli", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"xmae {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")


Window = tuple[str, str, float]
"""Cohort, recording, start in seconds."""


def in_table(url: str) -> Counter[Window]:
    rows = Table(url).read(columns=["cohort", "recording_id", "start_s"])
    return Counter(zip(*(rows[name].to_pylist() for name in ("cohort", "recording_id", "start_s")), strict=True))


def eligible(corpus: str) -> set[Window]:
    return {
        (recording.cohort, recording.recording_id, float(start_s))
        for recording in Corpus.open(corpus).snapshot().recordings()
        for batch, _ in spans_of_recording(corpus, recording, SPEC)
        for start_s in batch.start_s_B
    }


if __name__ == "__main__":
    sys.exit(main())
