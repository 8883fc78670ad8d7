"""Requests to an object store, operation by operation, counted by the S3 test server: they are what far stores cost.

`python bench/request_counts.py` makes a window store of many small parts on the server (the real format, made-up
windows), and a checkpoint of a file for each rank, and counts what each operation asks of it. Ranks that restore are
threads here, which tell one another what processes tell by collectives. Counts do not depend on how busy the machine
is.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.testing.s3_server import S3Server, serve_s3
from xmae_dist.testing.window_store import write_window_store
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.checkpoints.saved import SavedRanges
from xmae_dist.train.engines.protocol import MOMENTS, WEIGHT, Slice
from xmae_dist.train.step.collective import Ranks

SPEC = WindowSpec(window_s=0.64, stride_s=0.64)  # 64 samples: what is asked for does not depend on their number
CHUNK_WINDOWS = 8
TENSORS = 12
ELEMENTS = 600_000  # of each tensor: 9 blocks of a MiB in three kinds, so that ranks share most of them


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
    run = f"{server.bucket_url()}/run"
    _write_checkpoint(run, ranks)
    where, manifest = count("newest checkpoint and its manifest (rank 0)", lambda: _newest(run))
    stored = sum(file["size"] for file in manifest["files"])
    restoring = f"{ranks} ranks restore, {stored / 1e6:.0f} MB in {ranks} files"
    read = count(restoring, lambda: _restore(where, manifest, ranks))
    rows[restoring]["each"] = f"{read / stored:.3f} copies read"
    # Each rank reads its share of the held-out windows: all together what one process reads of them.
    starting = [name for name in rows if not name.startswith(("a block", "audit", "subjects of"))]
    total = sum(rows[name]["requests"] for name in starting)
    rows[f"{ranks} ranks start: the sum of {len(starting)} rows"] = {"requests": total, "each": ""}
    return rows


def _write_checkpoint(run: str, ranks: int) -> None:
    """As ZeRO 1 leaves it: each rank's file has its span of every kind."""
    url = checkpoint.step_url(run, 1)
    files = []
    for rank in range(ranks):
        tensors = {
            f"{one.kind}|{one.name}|{one.start}": torch.full((one.stop - one.start,), float(rank))
            for kind in (WEIGHT, *MOMENTS)
            for one in _span(kind, rank, ranks)
        }
        files.append(checkpoint.write_shard(url, tensors, attempt="a", rank=rank, world=ranks))
    checkpoint.commit(url, files, {"state": {"optimizer_steps": 1}})


def _span(kind: str, rank: int, ranks: int) -> list[Slice]:
    """A rank's share of the concatenation of all tensors."""
    first, last = (TENSORS * ELEMENTS * one // ranks for one in (rank, rank + 1))
    spans = ((at, max(first - at * ELEMENTS, 0), min(last - at * ELEMENTS, ELEMENTS)) for at in range(TENSORS))
    return [Slice(kind, f"t{at:02d}", start, stop) for at, start, stop in spans if start < stop]


def _newest(run: str) -> tuple[str, dict[str, Any]]:
    found = checkpoint.newest_complete(run, lambda url, why: None)
    assert found is not None
    return found


class _Threads:
    """Threads that stand in for a process group."""

    def __init__(self, world: int) -> None:
        self._barrier, self._told = threading.Barrier(world), [None] * world

    def gather(self, rank: int, value: Any) -> list[Any]:
        self._told[rank] = value
        self._barrier.wait()
        found = list(self._told)
        self._barrier.wait()
        return found


@dataclass(frozen=True, kw_only=True)
class _ThreadRanks(Ranks):
    group: _Threads

    def gather(self, value: Any) -> list[Any]:
        return self.group.gather(self.rank, value)

    def exchange(self, sent: Sequence[bytes]) -> list[bytes]:
        return [one[self.rank] for one in self.gather(sent)]


def _restore(where: str, manifest: dict[str, Any], ranks: int) -> int:
    """Bytes that all ranks read: each its share of the weights, then of the moments, as engines load them."""
    group = _Threads(ranks)

    def of_rank(rank: int) -> int:
        saved = SavedRanges(where, manifest, _ThreadRanks(rank=rank, world=ranks, group=group))
        for kinds in ((WEIGHT,), MOMENTS):
            wanted = [one for kind in kinds for one in _span(kind, rank, ranks)]
            assert sum(part.numel() for part in saved.parts(wanted)) == sum(one.stop - one.start for one in wanted)
        return saved.bytes_read

    with ThreadPoolExecutor(ranks) as pool:
        return sum(pool.map(of_rank, range(ranks)))


def _rank(store: WindowStore) -> object:
    return plan_for(pickle.loads(pickle.dumps(store)), OrderConfig(global_batch=128)).ids(0)


if __name__ == "__main__":
    main()
