"""Requests to an object store, operation by operation, counted by the S3 test server: they are what far stores cost.

`python bench/request_counts.py` makes a window store of many small parts on the server (the real format, made-up
windows) and counts what each of these asks of it. Counts do not depend on how busy the machine is.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.testing.s3_server import S3Server, serve_s3
from xmae_dist.testing.window_store import write_window_store

SPEC = WindowSpec(window_s=0.64, stride_s=0.64)  # 64 samples: what is asked for does not depend on their number
CHUNK_WINDOWS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=300)
    parser.add_argument("--batch", type=int, default=128, help="windows in a step; the chunks of a block")
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-counts-") as folder, serve_s3(log=Path(folder) / "log") as server:
        os.environ.update(server.environment())
        rows = counted(server, args.parts, args.batch, args.ranks)
    for name, row in rows.items():
        print(f"{name:52} {row['requests']:>6,} requests" + (f"  {row['each']}" if row["each"] else ""))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def counted(server: S3Server, parts: int, batch: int, ranks: int) -> dict[str, dict[str, Any]]:
    """Operation → how many requests it made."""
    url = f"{server.bucket_url()}/windows"
    write_window_store(url, {"c": [64] * parts}, chunk_windows=CHUNK_WINDOWS, windows_per_subject=16, spec=SPEC)
    rows: dict[str, dict[str, Any]] = {}

    def count(name: str, work: Callable[[], Any], per: int = 0, what: str = "") -> Any:
        before = server.requests()
        made = work()
        requests = server.requests() - before
        each = f"{requests / per:.3f} for each {what}" if per else ""
        rows[name] = {"requests": requests, "each": each}
        return made

    store: WindowStore = count("open a store", lambda: WindowStore.open(url))
    count("where all chunks lie", store.ready)
    plan = plan_for(store, OrderConfig(global_batch=batch))
    chunks = 2 * batch  # of each signal
    ids_KB = plan.ids_of_steps(0, plan.block_steps)
    count(
        f"a block of {plan.block_steps} steps, {batch} stretches", lambda: store.read(ids_KB.ravel()), chunks, "chunk"
    )
    every = np.linspace(0, store.n_windows - 1, 256).astype(np.int64)
    count("256 held-out windows: signals", lambda: store.read(every), 512, "window and signal")
    count("256 held-out windows: subjects", lambda: store.meta(every, ["subject_id"]))
    count("audit of one person", lambda: store.windows_of("c-p000007-0001"))
    count("subjects of 32 parts (plan show)", lambda: list(store.subjects_of(store.segments("train")[:32])), 32, "part")
    count(f"{ranks} ranks: the store, handed on by the driver", lambda: [_rank(store) for _ in range(ranks)])
    return rows


def _rank(store: WindowStore) -> object:
    return plan_for(pickle.loads(pickle.dumps(store)), OrderConfig(global_batch=128)).ids(0)


if __name__ == "__main__":
    main()
