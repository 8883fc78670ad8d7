"""`python -m bench.scale`: what each operation costs at each size, how that grows, and what it cost before."""

from __future__ import annotations

import argparse
import importlib
import json
import math
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

from bench.process_tree import peak_mib
from bench.scale.register import OPERATIONS
from bench.scale.tree import HERE, Tree
from xmae_dist.testing.s3_server import serve_s3

ROOMS = ("storage", "data", "embed")
INGEST = "ingest of the index"
# What grows with windows, files or ranks and not with recordings, by programs of their own.
OTHERS = (
    ("scale_windows.py",),
    ("scale_evaluate.py", "--windows", "1000000", "4000000", "16000000"),
    ("request_counts.py", "--parts", "150"),
    ("ingest.py", "--files", "20000", "60000", "--skip-edf"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=__doc__)
    parser.add_argument("--recordings", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--cohorts", type=int, default=100)
    parser.add_argument("--only", nargs="*", default=[], help="operations to measure; all unless named")
    parser.add_argument("--s3", action="store_true", help="on the S3 test server, which counts requests")
    parser.add_argument("--against", metavar="COMMIT", help="also measure that commit, each operation after ours")
    parser.add_argument("--whole", action="store_true", help="then also what grows with windows, files and ranks")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("OPERATION", "URL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measured(*args.measure)))
        return
    for room in ROOMS:
        importlib.import_module(f"bench.scale.{room}")
    with ExitStack() as stack:
        trees = [Tree(name="now", root=HERE)]
        if args.against:
            trees.append(stack.enter_context(Tree.of_commit(args.against)))
        found = {size: of_size(size, args, trees) for size in sorted(args.recordings)}
    show(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    if args.whole:
        others(args.json)


def measured(name: str, url: str) -> dict[str, Any]:
    """CPU seconds (all threads, without imports) and peak MiB (with them) of one operation in this process."""
    for room in ROOMS:  # no further than to its own: torch alone would be 300 MiB
        if name not in OPERATIONS:
            importlib.import_module(f"bench.scale.{room}")
    before_s = time.process_time()
    result = OPERATIONS[name].run(url)
    cpu_s = time.process_time() - before_s
    return {"cpu_s": round(cpu_s, 2), "peak_mib": round(peak_mib()), "result": result}


def of_size(size: int, args: argparse.Namespace, trees: Sequence[Tree]) -> dict[str, dict[str, dict[str, Any]]]:
    """Operation → tree → row, on corpora of `size` recordings, made for them and removed after. Trees take turns."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="bench-scale-"))
        stack.callback(shutil.rmtree, folder)
        server = stack.enter_context(serve_s3(log=folder / "requests.log")) if args.s3 else None
        urls = {tree: f"{server.bucket_url() if server else folder}/corpus-{tree.name}" for tree in trees}
        words = {INGEST: lambda url: ["-m", "bench.scale.corpus", url, str(size), str(args.cohorts)]}
        for name in args.only or OPERATIONS:
            words[name] = lambda url, name=name: ["-m", "bench.scale", "--measure", name, url]
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for name, of_url in words.items():
            found[name] = {tree.name: tree.row(of_url(url), server) for tree, url in urls.items()}
            print(f"{size:>10,} {name:34} {found[name]}", file=sys.stderr, flush=True)
    failed = {name: rows["now"]["failed"] for name, rows in found.items() if "failed" in rows["now"]}
    if failed:
        raise SystemExit(f"failed: {failed}")
    return found


def show(found: Mapping[int, Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> None:
    """A row an operation: its cost at each size, exponents where there are three sizes or more, and at the largest size
    how many times as much as at the other commit.
    """
    sizes = list(found)
    other = next((name for name in found[sizes[0]][INGEST] if name != "now"), None)
    heads = ["operation", *(f"{size:,}" for size in sizes), "exponent of CPU, memory"]
    heads += [f"CPU, memory / {other}"] * bool(other) + ["aim at 5 M"]
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    for name in found[sizes[0]]:
        rows = [found[size][name]["now"] for size in sizes]
        grows = " ".join(_exponent(sizes, [row[kind] for row in rows]) for kind in ("cpu_s", "peak_mib"))
        cells = [name, *map(_cell, rows), grows]
        cells += [_ratios(rows[-1], found[sizes[-1]][name][other])] if other else []
        print("| " + " | ".join([*cells, OPERATIONS[name].aim if name in OPERATIONS else ""]) + " |")


def _cell(row: Mapping[str, Any]) -> str:
    parts = [f"{row['cpu_s']} s"]
    if row["peak_mib"]:
        parts.append(f"{row['peak_mib']} MiB")
    if "requests" in row:
        parts.append(f"{row['requests']} requests")
    return ", ".join(parts)


def _ratios(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    if "failed" in before:
        return "not there, or failed"
    pairs = ((now[kind], before[kind]) for kind in ("cpu_s", "peak_mib"))
    return ", ".join(f"{one / other:.2f}" if one and other else "–" for one, other in pairs)


def _exponent(sizes: Sequence[int], costs: Sequence[float | None]) -> str:
    """The slope of log cost over log size; a constant part makes it smaller, so it is of what was measured."""
    if len(sizes) < 3 or not all(costs):
        return "–"
    slope = np.polyfit([math.log(size) for size in sizes], [math.log(cost or 1) for cost in costs], 1)[0]
    return f"{slope:.2f}"


def others(path: Path | None) -> None:
    """Runs the programs whose costs grow with something else; figures go beside `path`."""
    for program, *words in OTHERS:
        print(f"\n{' '.join([program, *words])}", flush=True)
        kept = ["--json", str(path.with_name(f"{path.stem}-{Path(program).stem}.json"))] if path else []
        subprocess.run([sys.executable, str(HERE / "bench" / program), *words, *kept], check=True)


if __name__ == "__main__":
    main()
