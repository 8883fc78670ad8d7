"""Loaders over the same windows in one run: windows per second as float32 batches in random order.

    python bench/loader.py [--windows N] [--rounds R] [--json FILE]

Ours, in one process and through Ray Data, from local files and from an S3 server on loopback, against a file with
an HDF5 dataset per window, WebDataset tar shards, plain sequential reads of the same Zarr arrays (no shuffling),
and a gather from memory (the limit). Loaders take turns; the median of the rounds is reported, by the clock and by
CPU second, which a busy machine does not change. The S3 figure to compare with is what the client reads raw:
whole objects, nothing decoded; "512" reads 512 neighbouring windows at a time instead of 64.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xmae_dist.data import direct
from xmae_dist.data.plan import OrderConfig, Plan, plan_for
from xmae_dist.data.window_store import WindowStore
from xmae_dist.storage import uri
from xmae_dist.testing.s3_server import serve_s3
from xmae_dist.testing.window_store import write_window_store

BATCH = 128
# Loaders that open a file entry a window are slow to build too; they get this many windows and are rated on them.
PER_WINDOW = 4096

Count = Callable[[], Iterator[int]]
NOT_RUN = {
    "MosaicML streaming": "asks for torchvision and a CUDA build of torch; needs an environment of its own",
    "LitData": "asks for torchvision and a CUDA build of torch; needs an environment of its own",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xmae-bench-") as folder, serve_s3() as server:
        os.environ.update(server.environment())
        results = run(Path(folder), server.bucket_url(), args.windows, args.rounds)
    show(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def run(folder: Path, bucket: str, windows: int, rounds: int) -> dict[str, Any]:
    share = windows // 8
    local = write_window_store(
        f"file://{folder}/windows", {"a": [share * 2, share * 2], "b": [share * 2, share], "c": [share]}
    )
    uri.upload_tree(str(folder / "windows"), uri.join(bucket, "windows"))
    remote = WindowStore.open(uri.join(bucket, "windows"))
    not_run = dict(NOT_RUN)
    loaders = loaders_over(folder, local, remote, not_run)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in loaders}
    for number in range(rounds):
        for name, loader in loaders.items():
            print(f"round {number + 1}/{rounds}: {name}", file=sys.stderr, flush=True)
            measured[name].append(timed(loader))
    return {
        "windows": windows,
        "rounds": rounds,
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "median": {
            name: {key: round(float(np.median([one[key] for one in many])), 3) for key in many[0]}
            for name, many in measured.items()
        },
        "all_rounds": measured,
        "not_run": not_run,
    }


def loaders_over(folder: Path, local: WindowStore, remote: WindowStore, not_run: dict[str, str]) -> dict[str, Count]:
    """Every loader as a function that yields the number of windows of each batch."""
    import ray

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(
        num_cpus=os.cpu_count(),
        object_store_memory=600 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    plan = plan_for(local, OrderConfig(global_batch=BATCH))
    long_reads = plan_for(local, OrderConfig(global_batch=BATCH, read_windows=512, block_steps=64))
    list(ours_by_ray(local, plan))  # Ray starts its reading processes once
    in_memory = local.read(np.arange(local.n_windows))
    loaders: dict[str, Count] = {
        "in-memory gather": lambda: gathered(in_memory, plan),
        "Zarr, sequential": lambda: sequential(local),
        "ours, one process, files": lambda: ours(local, plan),
        "ours, Ray Data, files": lambda: ours_by_ray(local, plan),
        "ours, one process, S3": lambda: ours(remote, plan),
        "ours, Ray Data, S3": lambda: ours_by_ray(remote, plan),
        "ours, one process, S3, 512": lambda: ours(remote, long_reads),
        "ours, Ray Data, S3, 512": lambda: ours_by_ray(remote, long_reads),
        "S3, raw objects": lambda: raw_objects(remote),
    }
    few = local.read(np.arange(min(PER_WINDOW, local.n_windows)))
    if importlib.util.find_spec("h5py"):
        path = write_hdf5(folder, few)
        loaders["HDF5, dataset a window"] = lambda: hdf5(path)
    else:
        not_run["HDF5"] = "h5py is not installed"
    if importlib.util.find_spec("webdataset"):
        shards = write_tar(folder, few)
        loaders["WebDataset"] = lambda: webdataset_batches(shards)
    else:
        not_run["WebDataset"] = "webdataset is not installed"
    return loaders


def timed(loader: Count) -> dict[str, float]:
    """Rates over everything, first batch included; the CPU is that of this process, all its threads."""
    started, cpu_started = time.perf_counter(), time.process_time()
    total, first_s = 0, 0.0
    for count in loader():
        first_s = first_s or time.perf_counter() - started
        total += count
    return {
        "windows_per_s": total / (time.perf_counter() - started),
        "windows_per_cpu_s": total / (time.process_time() - cpu_started),
        "first_batch_s": first_s,
    }


def ours(store: WindowStore, plan: Plan) -> Iterator[int]:
    for batch in direct.step_batches(store, plan, stop_step=plan.epoch_windows // BATCH):
        yield len(batch.ids_B)


def ours_by_ray(store: WindowStore, plan: Plan) -> Iterator[int]:
    from xmae_dist.data import stream

    for batch in stream.step_batches(store, plan, stop_step=plan.epoch_windows // BATCH):
        yield len(batch.ids_B)


def gathered(signals: tuple[np.ndarray | None, np.ndarray], plan: Plan) -> Iterator[int]:
    ids_KB = np.random.default_rng(0).permutation(plan.epoch_windows)[: plan.epoch_windows // BATCH * BATCH]
    for ids_B in ids_KB.reshape(-1, BATCH):
        batch = [signal[ids_B].astype(np.float32) for signal in signals if signal is not None]
        yield len(batch[0])


def sequential(store: WindowStore) -> Iterator[int]:
    """The same arrays through the zarr library, a shard's worth of chunks at a time, front to back."""
    import zarr

    root = Path(uri.filesystem(store.url)[1])
    for part in sorted(root.glob("parts/*/train/*")):
        ecg, ppg = (zarr.open_array(part / name, mode="r") for name in ("ecg", "ppg"))
        for start in range(0, ecg.shape[0], 2048):
            signals = [np.asarray(array[start : start + 2048]).astype(np.float32) for array in (ecg, ppg)]
            yield len(signals[0])


def raw_objects(store: WindowStore) -> Iterator[int]:
    """Every object of the arrays, whole; counted in the windows that it holds."""
    fs, path = uri.filesystem(store.url)
    objects = [p for p in fs.find(path) if "/c/" in p]
    per_object = store.n_windows / len(objects)
    total = 0.0
    for name in objects:
        fs.cat_file(name)
        total += per_object
    yield round(total)


def write_hdf5(folder: Path, signals: tuple[np.ndarray | None, np.ndarray]) -> Path:
    import h5py

    path = folder / "windows.h5"
    with h5py.File(path, "w") as file:
        for name, signal_BL in zip(("ecg", "ppg"), signals, strict=True):
            for number, window_L in enumerate(np.asarray(signal_BL)):
                file[f"{name}/{number:08d}"] = window_L.astype(np.float32)
    return path


def hdf5(path: Path) -> Iterator[int]:
    import h5py

    with h5py.File(path, "r") as file:
        n = len(file["ecg"])
        for ids_B in np.random.default_rng(0).permutation(n)[: n // BATCH * BATCH].reshape(-1, BATCH):
            signals = [np.stack([file[f"{name}/{i:08d}"][:] for i in ids_B]) for name in ("ecg", "ppg")]
            yield len(signals[0])


def write_tar(folder: Path, signals: tuple[np.ndarray | None, np.ndarray]) -> list[str]:
    shards = []
    n = len(signals[1])
    for first in range(0, n, 1024):
        shards.append(str(folder / f"windows-{first // 1024:04d}.tar"))
        with tarfile.open(shards[-1], "w") as tar:
            for number in range(first, min(first + 1024, n)):
                for name, signal_BL in zip(("ecg", "ppg"), signals, strict=True):
                    buffer = io.BytesIO()
                    np.save(buffer, np.asarray(signal_BL)[number])
                    info = tarfile.TarInfo(f"{number:08d}.{name}.npy")
                    info.size = buffer.tell()
                    tar.addfile(info, io.BytesIO(buffer.getvalue()))
    return shards


def webdataset_batches(shards: list[str]) -> Iterator[int]:
    import webdataset

    samples = (
        webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0)
        .shuffle(1000)
        .decode()
        .to_tuple("ecg.npy", "ppg.npy")
        .batched(BATCH)
    )
    for ecg_BL, ppg_BL in samples:
        signals = [np.asarray(signal, np.float32) for signal in (ecg_BL, ppg_BL)]
        yield len(signals[0])


def show(results: dict[str, Any]) -> None:
    median = results["median"]
    by_clock = median["Zarr, sequential"]["windows_per_s"]
    by_cpu = median["Zarr, sequential"]["windows_per_cpu_s"]
    load = f"{results['cpus']} CPUs, load {results['load_before']:.1f}"
    print(f"{results['windows']:,} windows of 2 x 1000 float16 in batches of {BATCH}; {load}")
    print("(Ray Data reads in other processes, so its CPU column is what handing over costs the training process)\n")
    print(f"{'loader':<26} {'windows/s':>10} {'of Zarr':>8} {'per CPU s':>10} {'of Zarr':>8} {'first batch s':>14}")
    for name, row in median.items():
        relative = row["windows_per_s"] / by_clock, row["windows_per_cpu_s"] / by_cpu
        print(
            f"{name:<26} {row['windows_per_s']:>10,.0f} {relative[0]:>8.2f} "
            f"{row['windows_per_cpu_s']:>10,.0f} {relative[1]:>8.2f} {row['first_batch_s']:>14.2f}"
        )
    for name, why in results["not_run"].items():
        print(f"not run: {name}: {why}")


if __name__ == "__main__":
    main()
