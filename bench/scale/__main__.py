"""`python -m bench.scale`: a table of what each operation costs at each size, and how that grows."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from bench.scale.register import OPERATIONS
from xmae_dist.testing.s3_server import S3Server, serve_s3

ROOMS = ("storage", "embed")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--recordings", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--cohorts", type=int, default=100)
    parser.add_argument("--only", nargs="*", default=[], help="operations to measure; all unless named")
    parser.add_argument("--s3", action="store_true", help="on the S3 test server, which counts requests")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("OPERATION", "URL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    for room in ROOMS:
        importlib.import_module(f"bench.scale.{room}")
    if args.measure:
        print(json.dumps(measured(*args.measure)))
        return
    found = {size: of_size(size, args) for size in sorted(args.recordings)}
    show(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def measured(name: str, url: str) -> dict[str, Any]:
    """CPU seconds (all threads, without imports) and peak MiB (with them) of one operation in this process."""
    before_s = time.process_time()
    result = OPERATIONS[name].run(url)
    cpu_s = time.process_time() - before_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cpu_s": round(cpu_s, 2), "peak_mib": round(peak_mib), "result": result}


def of_size(size: int, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """All operations on a corpus of `size` recordings, made for them and removed after."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="bench-scale-"))
        stack.callback(shutil.rmtree, folder)
        server = stack.enter_context(serve_s3(log=folder / "requests.log")) if args.s3 else None
        url = _place(folder, server)
        made = _process(["-m", "bench.scale.corpus", url, str(size), str(args.cohorts)], server)
        rows: dict[str, dict[str, Any]] = {"ingest of the index": made}
        for name in args.only or OPERATIONS:
            rows[name] = _process(["-m", "bench.scale", "--measure", name, url], server)
        for name, row in rows.items():
            print(f"{size:>10,} {name:34} {row}", file=sys.stderr, flush=True)
    return rows


def _place(folder: Path, server: S3Server | None) -> str:
    return f"{server.bucket_url()}/corpus" if server else f"{folder}/corpus"


def _process(words: Sequence[str], server: S3Server | None) -> dict[str, Any]:
    """What a process of its own says of itself, or is seen to take."""
    requests = server.requests() if server else 0
    environment = server.environment() if server else {}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *words], env=_environment(environment), stdout=subprocess.PIPE, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row = json.loads(done.stdout) if done.stdout else {"cpu_s": round(took_s, 1), "peak_mib": None}
    return row | ({"requests": server.requests() - requests} if server else {})


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def show(found: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> None:
    """A row an operation: its cost at each size, and exponents where there are three sizes or more."""
    sizes = list(found)
    print("| operation | " + " | ".join(f"{size:,}" for size in sizes) + " | exponent of CPU, memory | aim at 5 M |")
    print("|---|" + "---|" * (len(sizes) + 2))
    for name in found[sizes[0]]:
        rows = [found[size][name] for size in sizes]
        aim = OPERATIONS[name].aim if name in OPERATIONS else ""
        grows = " ".join(_exponent(sizes, [row[kind] for row in rows]) for kind in ("cpu_s", "peak_mib"))
        print(f"| {name} | " + " | ".join(map(_cell, rows)) + f" | {grows} | {aim} |")


def _cell(row: Mapping[str, Any]) -> str:
    parts = [f"{row['cpu_s']} s"]
    if row["peak_mib"]:
        parts.append(f"{row['peak_mib']} MiB")
    if "requests" in row:
        parts.append(f"{row['requests']} requests")
    return ", ".join(parts)


def _exponent(sizes: Sequence[int], costs: Sequence[float | None]) -> str:
    """The slope of log cost over log size; a constant part makes it smaller, so it is of what was measured."""
    if len(sizes) < 3 or not all(costs):
        return "–"
    slope = np.polyfit([math.log(size) for size in sizes], [math.log(cost or 1) for cost in costs], 1)[0]
    return f"{slope:.2f}"


if __name__ == "__main__":
    main()
