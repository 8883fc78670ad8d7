"""What an evaluation holds and takes as its window store grows: choosing windows, and pooling what is embedded of them.

The store is real, as `xmae windows` writes it, with people, recordings and 30 labels that are made up and signals of 25
samples. Its windows are read by the reader of stores, and pooled as in an evaluation; the encoder is a projection of 64
features, since encoding is not what is measured. Each size runs in a process of its own.

    OMP_NUM_THREADS=1 python bench/scale_evaluate.py --windows 1000000 4000000 16000000 --json FILE

The people are the same at every size: their recordings get longer. Tasks are of all four units; `epoch` and `window`
are what keeps more than a sum. Reported: CPU seconds and the peak of resident memory above that of a process which has
opened the store, for choosing and for pooling, and growth fitted between sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from process_tree import peak_mib

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmae_dist.core.fingerprint import canonical_json
from xmae_dist.data.store.part import finish_part, kept_as, signal_writers, stored_sizes
from xmae_dist.data.store.part_index import commit_index
from xmae_dist.data.store.window_store import FORMAT, META_SCHEMA, WindowStore, part_path
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate.chosen import ChosenWindows
from xmae_dist.evaluate.embedding import BLOCK_WINDOWS
from xmae_dist.evaluate.gathering import Limit, gathered
from xmae_dist.evaluate.pooling import Pool, Wanted
from xmae_dist.evaluate.tasks import Task
from xmae_dist.storage import uri

SPEC = WindowSpec(require=("ppg",), window_s=1.0, stride_s=1.0, rate_hz=25.0)
PART_WINDOWS = 32_768
N_LABELS = 30
N_FEATURES = 64
NIGHTS = 4
TASKS = (
    Task(name="rate", title="Rate", label="pulse_rate_bpm", kind="regression"),
    Task(name="well", title="Rate in good windows", label="pulse_rate_bpm", kind="regression", min_quality=0.9),
    Task(name="night", title="By recording", label="number_03", kind="regression", unit="recording"),
    Task(name="clean", title="By recording, some windows", label="number_04", kind="regression", unit="recording",
         min_quality=0.2),
    Task(name="person", title="By person", label="kind", kind="binary", unit="subject", classes=("a", "b")),
)  # fmt: skip


def main() -> int:
    args = _arguments()
    if args.child:
        print(json.dumps(measured(args.child)))
        return 0
    rows = []
    for windows in args.windows:
        folder = tempfile.mkdtemp(prefix="scale-evaluate-", dir=args.place)
        try:
            store_of(folder, windows, args.people)
            found = subprocess.run(
                [sys.executable, __file__, "--child", folder], stdout=subprocess.PIPE, check=True, text=True
            )
        finally:
            shutil.rmtree(folder)
        rows.append({"windows": windows, "people": args.people, **json.loads(found.stdout)})
        print(rows[-1], flush=True)
    growth = {name: _growth(rows, name) for name in rows[0] if name not in ("windows", "people")}
    print("growth with windows, largest sizes:", growth)
    if args.json:
        Path(args.json).write_text(json.dumps({"rows": rows, "growth": growth}, indent=1))
    return 0


def _growth(rows: list[dict[str, Any]], name: str) -> float | None:
    """The exponent between the two largest sizes."""
    if len(rows) < 2 or not (rows[-1][name] > 0 and rows[-2][name] > 0):
        return None
    return round(math.log(rows[-1][name] / rows[-2][name]) / math.log(rows[-1]["windows"] / rows[-2]["windows"]), 2)


def measured(url: str) -> dict[str, float]:
    """Of one store: choosing the windows of all tasks, then reading and pooling what they want."""
    store = WindowStore.open(url).ready()
    start_mb = peak_mib()
    begun = time.process_time()
    found = gathered(TASKS, ChosenWindows(store=store, splits=("train",)), limit=Limit(windows=100))
    chosen_s, chosen_mb = time.process_time() - begun, peak_mib()
    wanted = Wanted([_units(found[task.name]).windows for task in TASKS])
    projection_LE = np.random.default_rng(0).normal(size=(SPEC.length, N_FEATURES)).astype(np.float32)
    pool = Pool(wanted, N_FEATURES)
    for block in wanted.blocks(BLOCK_WINDOWS):
        pool.add(block, block.pooled(store.read(block.ids_B)[1].astype(np.float32) @ projection_LE))
    embedded = pool.embedded()
    return {
        "chosen_cpu_s": round(chosen_s, 1),
        "pooled_cpu_s": round(time.process_time() - begun - chosen_s, 1),
        "start_mb": round(start_mb),
        "chosen_mb": round(chosen_mb - start_mb),
        "all_mb": round(peak_mib() - start_mb),
        "features_mb": round(embedded.n_bytes / 1e6, 1),
        "units": sum(len(_units(found[task.name]).y_N) for task in TASKS),
        "runs": sum(len(_units(found[task.name]).windows.first_R) for task in TASKS),
        "embedded": wanted.n_windows,
    }


def _units(found: Any) -> Any:
    if isinstance(found, Exception):
        raise found
    return found


def store_of(url: str, n_windows: int, people: int) -> None:
    """A complete store; a part has whole recordings where they fit, and windows of some people in turn."""
    content = {
        "format": FORMAT, "spec": SPEC.to_dict(), "split": {}, "chunk_windows": 64, "fingerprint": "made-up",
        "snapshot": {"fingerprint": "made-up", "version": 0}, **kept_as(64),
    }  # fmt: skip
    uri.write_bytes(uri.join(url, "store.json"), canonical_json(content))
    per_night = -(-n_windows // (people * NIGHTS))
    rows = [
        _part(url, number, np.arange(start, min(start + PART_WINDOWS, n_windows)), per_night)
        for number, start in enumerate(range(0, n_windows, PART_WINDOWS))
    ]
    commit_index(url, "made-up", rows)


def _part(url: str, number: int, ids_B: np.ndarray, per_night: int) -> dict[str, Any]:
    place = ("band", "train", f"p{number:06d}")
    where = uri.join(url, part_path(*place))
    rng = np.random.default_rng(number)
    with signal_writers(where, SPEC, 64) as writers:
        writers["ppg"].append(rng.uniform(-1, 1, (len(ids_B), 1, SPEC.length)).astype(np.float16))
    return finish_part(where, place, _meta(ids_B, per_night, rng), {}, (0, 0), stored_sizes(writers))


def _meta(ids_B: np.ndarray, per_night: int, rng: np.random.Generator) -> pa.Table:
    night_B = ids_B // per_night
    nights, code_B = np.unique(night_B, return_inverse=True)
    n = len(ids_B)

    def by_night(of: Any) -> pa.Array:
        return pa.array([of(int(night)) for night in nights]).take(pa.array(code_B))

    def maps(keys: list[str], values: pa.Array) -> pa.Array:
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * len(keys))
        return pa.MapArray.from_arrays(offsets, pa.array(keys).take(pa.array(np.tile(np.arange(len(keys)), n))), values)

    numbers = ((night_B[:, None] * 7 + np.arange(N_LABELS)) % 97).astype(float)
    columns = {
        "subject_id": by_night(lambda night: f"person-{night // NIGHTS:07d}"),
        "recording_id": by_night(lambda night: f"person-{night // NIGHTS:07d}-night-{night % NIGHTS}"),
        "cohort": pa.repeat("band", n),
        "start_s": pa.array((ids_B % per_night) * SPEC.stride_s),
        "labels": maps([f"number_{i:02d}" for i in range(N_LABELS)], pa.array(numbers.ravel())),
        "label_text": maps(["kind"], by_night(lambda night: "ab"[night // NIGHTS % 2])),
        "arrival_time_absolute": pa.array(np.ones(n, bool)),
        "quality_ppg": pa.array(rng.uniform(0, 1, n).astype(np.float32)),
        "pulse_rate_bpm": pa.array((60 + night_B % 40 + rng.normal(size=n)).astype(np.float32)),
    }
    arrays = [columns.get(field.name, pa.nulls(n, field.type)) for field in META_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=META_SCHEMA)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, nargs="+", default=[1_000_000, 4_000_000, 16_000_000])
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--place", help="folder for the stores: about 110 bytes a window")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
