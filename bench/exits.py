"""How commands end: status of the process after its result is printed, under load, on local files and on S3.

Each run is a process of its own, forked after the imports, that carries out one command and lets the interpreter
finalise as any program does. Beside them runs a control that reads the same table the way this project once did,
through delta-rs's Arrow dataset: Arrow's threads then hold Python's buffers when the process ends, and it dies of
SIGABRT now and then (xmae_dist/storage/parquet.py). Busy loops take every core away meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from xmae_dist.cli.main import main as xmae
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.testing.s3_server import serve_s3

_PATIENCE_S = 120.0
_PRELOADED = (
    "pandas",
    "pyarrow.dataset",
    "s3fs",
    *(f"xmae_dist.cli.{n}" for n in ("inspect", "plan", "verify", "windows")),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="of each command on each store")
    parser.add_argument("--stores", nargs="+", choices=("local", "s3"), default=("local", "s3"))
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="busy loops beside them")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--fork", nargs=5, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fork is not None:
        return _forked(*args.fork)
    rows = []
    with tempfile.TemporaryDirectory() as folder, serve_s3() as server:
        os.environ.update(server.environment())
        for store, base in (("local", f"file://{folder}"), ("s3", server.bucket_url())):
            if store not in args.stores:
                continue
            made = _made(base)
            with _busy(args.busy):
                for name in _works(*made):
                    told = subprocess.check_output([sys.executable, __file__, "--fork", str(args.runs), name, *made])
                    rows.append({"command": name, "store": store, "runs": args.runs, **json.loads(told)})
                    _show(rows[-1])
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    return 0


def _forked(runs: str, name: str, *made: str) -> int:
    """Prints how the runs of one command ended; in the process of a run, carries it out and lets it end."""
    for module in _PRELOADED:
        importlib.import_module(module)
    ends = _ends(int(runs))
    if ends is None:
        return _works(*made)[name]()
    print(json.dumps(ends))
    return 0


def _made(base: str) -> tuple[str, str, str]:
    """A corpus of several parts and a window store of it, made by processes of their own; (corpus, out, store)."""
    corpus, out = uri.join(base, "corpus"), uri.join(base, "windows")
    for device in ("bedside", "ring"):
        _command("simulate", device, "--corpus", corpus, "--hours", "0.5")
    _command("windows", "--corpus", corpus, "--out", out)
    return corpus, out, uri.list_urls(out)[0]


def _command(*options: str) -> None:
    subprocess.run([sys.executable, "-m", "xmae_dist.cli", *options], check=True, stdout=subprocess.DEVNULL)


def _works(corpus: str, out: str, store: str) -> dict[str, Callable[[], int]]:
    return {
        "plan show": lambda: xmae(["plan", "show", "--windows", store]),
        "windows (made before)": lambda: xmae(["windows", "--corpus", corpus, "--out", out]),
        "inspect": lambda: xmae(["inspect", corpus, "--windows", "2"]),
        "verify": lambda: xmae(["verify", corpus]),
        "control: Arrow dataset": lambda: _as_before(corpus),
    }


def _as_before(corpus: str) -> int:
    url = Corpus.open(corpus).index.url
    DeltaTable(url, storage_options=uri.delta_options(url)).to_pyarrow_table()
    return 0


@contextlib.contextmanager
def _busy(loops: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _ends(runs: int) -> dict[str, Any] | None:
    """How the runs ended; None in the process of a run."""
    started, bad = time.monotonic(), Counter[str]()
    for _ in range(runs):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            silent = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(silent, stream)
            return None
        if said := _end_of(child):
            bad[said] += 1
    return {"bad": bad.total(), "how": dict(bad), "seconds": round(time.monotonic() - started, 1)}


def _end_of(child: int) -> str:
    """ "" for status 0, else what happened."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return "" if code == 0 else f"status {code}" if code > 0 else f"signal {-code}"
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return "hung"


def _show(row: dict[str, Any]) -> None:
    how = ", ".join(f"{name}: {n}" for name, n in row["how"].items()) or "all with status 0"
    told = f"{row['bad']:>4} of {row['runs']} ended badly in {row['seconds']:>6} s   {how}"
    print(f"{row['command']:<24} {row['store']:<6} {told}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
