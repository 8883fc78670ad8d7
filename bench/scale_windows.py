"""A window store of a billion windows: what its index, its plan and questions about it cost, each in its own process.

The index is real, made by the product's own commit: 30,500 parts of 32,768 windows, with the stored size of every
chunk. Of the parts those exist that the questions read, as `meta.parquet` alone. CPU seconds and peak memory of
the process; what Python and the libraries take by themselves is the row `imports`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from process_tree import peak_mib

from xmae_dist.cli.main import main as xmae
from xmae_dist.core.fingerprint import canonical_json
from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.data.store.part_index import VERSION, commit_index
from xmae_dist.data.store.window_store import FORMAT, META_SCHEMA, WindowStore, part_path
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage import parquet, uri

PART_WINDOWS = 32_768
CHUNK_WINDOWS = 64
WINDOWS_A_SUBJECT = 4096
COHORTS = 100
FINGERPRINT = "a-billion"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=30_500)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--child", nargs=2, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measured(OPERATIONS[args.child[0]], args.child[1], args.parts)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-scale-windows-") as folder:
        rows = {name: in_a_process(name, folder, args.parts) for name in OPERATIONS}
    for name, row in rows.items():
        print(f"{name:44} {row['cpu_s']:>6.1f} s of CPU {row['peak_mib']:>6.0f} MiB  {row['found']}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def in_a_process(name: str, folder: str, parts: int) -> dict[str, Any]:
    words = [sys.executable, __file__, "--child", name, folder, "--parts", str(parts)]
    done = subprocess.run(
        words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {row}", file=sys.stderr, flush=True)
    return row


def measured(work: Callable[[str, int], object], url: str, parts: int) -> dict[str, Any]:
    found = work(url, parts)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": used.ru_utime + used.ru_stime, "peak_mib": peak_mib(), "found": found}


def make(url: str, parts: int) -> object:
    rng = np.random.default_rng(0)
    chunks = PART_WINDOWS // CHUNK_WINDOWS
    rows = []
    for number in range(parts):
        cohort, place = divmod(number, -(-parts // COHORTS))
        subjects = subjects_of(cohort, place)
        rows.append(
            {
                "cohort": f"c{cohort:03d}",
                "split": "train",
                "part": f"p{place:06d}",
                "n_windows": PART_WINDOWS,
                "n_recordings": PART_WINDOWS,
                "n_subjects": len(subjects),
                "dropped": {"ppg_low_quality": 1000, "ecg_flat": 10},
                "first_subject": subjects[0],
                "last_subject": subjects[-1],
                "meta_bytes": None,
                "chunk_bytes": {name: rng.integers(95_000, 110_000, chunks, dtype=np.int32) for name in ("ecg", "ppg")},
            }
        )
    document = {
        "format": FORMAT,
        "spec": WindowSpec().to_dict(),
        "split": {"fractions": [1.0, 0.0, 0.0]},
        "chunk_windows": CHUNK_WINDOWS,
        "snapshot": {"fingerprint": FINGERPRINT, "version": 0},
        "fingerprint": FINGERPRINT,
        "index": VERSION,
        "shard_windows": PART_WINDOWS,
    }
    uri.write_bytes(uri.join(url, "store.json"), canonical_json(document))
    commit_index(uri.normalise(url), FINGERPRINT, rows)
    return f"{sum(file.stat().st_size for file in Path(url).rglob('*.parquet')) / 2**20:.0f} MiB of index"


def subjects_of(cohort: int, place: int) -> list[str]:
    each = PART_WINDOWS // WINDOWS_A_SUBJECT
    return [f"c{cohort:03d}-s{place * each + k:06d}" for k in range(each)]


def metas(url: str, parts: int) -> object:
    """Of the parts that are asked for: the first of each cohort, and the one that holds a person."""
    for cohort in range(COHORTS):
        write_meta(url, cohort, 0)
    write_meta(url, 7, 100)
    return f"{COHORTS + 1} parts"


def write_meta(url: str, cohort: int, place: int) -> None:
    """What is known of the windows of a part: who they are of."""
    names = np.repeat(subjects_of(cohort, place), WINDOWS_A_SUBJECT)
    columns = [
        pa.array(names, pa.string()) if one.name == "subject_id" else pa.nulls(names.size, one.type)
        for one in META_SCHEMA
    ]
    where = uri.join(url, part_path(f"c{cohort:03d}", "train", f"p{place:06d}"), "meta.parquet")
    uri.write_bytes(where, parquet.encode(pa.Table.from_arrays(columns, schema=META_SCHEMA)))


def open_only(url: str, parts: int) -> object:
    return f"{WindowStore.open(url).n_windows:,} windows"


def ready(url: str, parts: int) -> object:
    store = WindowStore.open(url).ready()
    return f"{len(store.segments('train')):,} parts and their chunks"


def first_step(url: str, parts: int) -> object:
    plan = plan_for(WindowStore.open(url), OrderConfig(global_batch=4096))
    return f"step 100,000 begins with {plan.ids(100_000)[0]:,}"


def audit(url: str, parts: int) -> object:
    person = subjects_of(7, 100)[3]
    return f"{len(told('audit', '--subject', person, '--windows', url)['steps']):,} steps saw one person"


def plan_show(url: str, parts: int) -> object:
    shuffle = told("plan", "show", "--windows", url, "--global-batch", "4096")["shuffle"]
    return f"{shuffle['subjects']:.0f} subjects in a batch, from {shuffle['known_share']:.2%} of the windows"


def held_out(url: str, parts: int) -> object:
    from xmae_dist.train.validation.held_out import evenly

    ids = evenly(WindowStore.open(url).segments("train"), 256)
    return f"{ids.size} of {ids[-1] + 1:,}"


def told(*words: str) -> dict[str, Any]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        if xmae([*words, "--json"]):
            raise SystemExit(f"{' '.join(words)} failed")
    return dict(json.loads(said.getvalue()))


OPERATIONS: dict[str, Callable[[str, int], object]] = {
    "imports": lambda url, parts: "",
    "the index written": make,
    "meta.parquet of parts written": metas,
    "opened": open_only,
    "opened, with where all chunks lie": ready,
    "plan made, a step asked for": first_step,
    "plan show": plan_show,
    "audit of one person": audit,
    "256 held-out windows chosen": held_out,
}


if __name__ == "__main__":
    main()
