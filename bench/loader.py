"""Loaders over the same windows in one run: windows per second as float32 batches in random order.

    python bench/loader.py [--windows N] [--rounds R] [--python312 PYTHON] [--without-peers] [--json FILE]

Ours, in one process and through Ray Data, from local files and from an S3 server on loopback, against a file with
an HDF5 dataset per window, WebDataset tar shards, MosaicML streaming and LitData (in an environment of their own,
which shares this one's torch), zarr-python 3.4 reading the same chunks in the same order (its coalesced reads of
shards need Python 3.12: `--python312`), plain sequential reads of the same Zarr arrays (no shuffling), and a gather
from memory (the limit). Loaders take turns; the median of the rounds is reported, by the clock and by CPU second, which
a busy machine changes less. The S3 figure to compare with is what the client reads raw: whole objects, nothing decoded.
"512" and "4096" read so many neighbouring windows at a time instead of 64; "copies" keeps segments of the store on
this machine, fetched in the first pass ("cold") and read from local files in later ones ("warm").
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from peers.rate import rated

from xmae_dist.cluster import private_ray
from xmae_dist.data.order.plan import OrderConfig, Plan, plan_for
from xmae_dist.data.store.window_store import WindowStore, part_path
from xmae_dist.data.stream import direct
from xmae_dist.storage import uri
from xmae_dist.storage.segment_cache import CacheConfig
from xmae_dist.testing.s3_server import serve_s3
from xmae_dist.testing.window_store import write_window_store

BATCH = 128
# Loaders that open a file entry a window are slow to build too; they get this many windows and are rated on them.
PER_WINDOW = 4096
PEER_WINDOWS = 32_768
PEERS = Path(__file__).parent / "peers"

Rates = dict[str, float]
Loader = Callable[[], Rates]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python312", default="python3.12", help="an interpreter of Python 3.12 or later")
    parser.add_argument("--without-peers", action="store_true", help="install and run nothing of others")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xmae-bench-") as folder, serve_s3() as server:
        os.environ.update(server.environment())
        results = run(Path(folder), server.bucket_url(), args)
    show(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def run(folder: Path, bucket: str, args: argparse.Namespace) -> dict[str, Any]:
    windows, rounds = args.windows, args.rounds
    share = windows // 8
    local = write_window_store(
        f"file://{folder}/windows", {"a": [share * 2, share * 2], "b": [share * 2, share], "c": [share]}
    )
    uri.upload_tree(str(folder / "windows"), uri.join(bucket, "windows"))
    remote = WindowStore.open(uri.join(bucket, "windows"))
    not_run: dict[str, str] = {}
    loaders = loaders_over(folder, local, remote, not_run)
    if not args.without_peers:
        loaders |= peers(folder, local, not_run) | zarr_peers(folder, local, remote, args.python312, not_run)
    measured: dict[str, list[Rates]] = {name: [] for name in loaders}
    for number in range(rounds):
        for name, loader in loaders.items():
            print(f"round {number + 1}/{rounds}: {name}", file=sys.stderr, flush=True)
            measured[name].append(loader())
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
        "memory": memory(local, plan_for(local, OrderConfig(global_batch=BATCH))),
        "not_run": not_run,
    }


def loaders_over(folder: Path, local: WindowStore, remote: WindowStore, not_run: dict[str, str]) -> dict[str, Loader]:
    """Every loader as a function that goes through the windows once and says how fast it was."""
    private_ray.start(
        num_cpus=os.cpu_count(),
        object_store_memory=600 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    plan = plan_for(local, OrderConfig(global_batch=BATCH))
    long_reads = plan_for(local, OrderConfig(global_batch=BATCH, read_windows=512, block_steps=64))
    longest_reads = plan_for(local, OrderConfig(global_batch=BATCH, read_windows=4096, block_steps=64))
    copies = CacheConfig(max_gib=8.0, folder=str(folder / "copies"))
    cached = WindowStore.open(remote.url, copies)

    def cold(read: Callable[[WindowStore, Plan], Iterator[int]]) -> Rates:
        shutil.rmtree(copies.path, ignore_errors=True)
        return rated(read(cached, plan))

    list(ours_by_ray(local, plan))  # Ray starts its reading processes once
    in_memory = local.read(np.arange(local.n_windows))
    loaders: dict[str, Loader] = {
        "in-memory gather": lambda: rated(gathered(in_memory, plan)),
        "Zarr, sequential": lambda: rated(sequential(local)),
        "ours, one process, files": lambda: rated(ours(local, plan)),
        "ours, Ray Data, files": lambda: rated(ours_by_ray(local, plan)),
        "S3, raw objects": lambda: rated(raw_objects(remote)),
        "ours, one process, S3": lambda: rated(ours(remote, plan)),
        "ours, Ray Data, S3": lambda: rated(ours_by_ray(remote, plan)),
        "ours, one process, S3, 512": lambda: rated(ours(remote, long_reads)),
        "ours, Ray Data, S3, 512": lambda: rated(ours_by_ray(remote, long_reads)),
        "ours, one process, S3, 4096": lambda: rated(ours(remote, longest_reads)),
        "ours, Ray Data, S3, 4096": lambda: rated(ours_by_ray(remote, longest_reads)),
        "ours, one process, cold copies": lambda: cold(ours),
        "ours, one process, warm copies": lambda: rated(ours(cached, plan)),
        "ours, Ray Data, cold copies": lambda: cold(ours_by_ray),
        "ours, Ray Data, warm copies": lambda: rated(ours_by_ray(cached, plan)),
    }
    few = local.read(np.arange(min(PER_WINDOW, local.n_windows)))
    if importlib.util.find_spec("h5py"):
        path = write_hdf5(folder, few)
        loaders["HDF5, dataset a window"] = lambda: rated(hdf5(path))
    else:
        not_run["HDF5"] = "h5py is not installed"
    if importlib.util.find_spec("webdataset"):
        shards = write_tar(folder, few)
        loaders["WebDataset"] = lambda: rated(webdataset_batches(shards))
    else:
        not_run["WebDataset"] = "webdataset is not installed"
    return loaders


def peers(folder: Path, local: WindowStore, not_run: dict[str, str]) -> dict[str, Loader]:
    """Loaders of others, each in a process of their environment; without and with two worker processes."""
    names = {"MosaicML streaming": "mosaicml", "LitData": "lightning"}
    python, why = environment(".venv", "requirements.txt", sys.executable, shared=True)
    if python is None:
        not_run.update(dict.fromkeys(names, why))
        return {}
    ecg_BL, ppg_BL = local.read(np.arange(min(PEER_WINDOWS, local.n_windows)))
    windows = folder / "windows.npz"
    np.savez(windows, ecg=np.asarray(ecg_BL), ppg=ppg_BL)

    def run_in(script: str, workers: int) -> Rates:
        command = [python, PEERS / f"{script}.py", windows, folder / script, str(BATCH), str(workers)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    loaders: dict[str, Loader] = {}
    for name, script in names.items():
        try:
            run_in(script, 0)  # writes its shards
        except subprocess.CalledProcessError as error:
            not_run[name] = error.stderr.strip().splitlines()[-1]
            continue
        loaders[f"{name}, one process"] = lambda script=script: run_in(script, 0)  # type: ignore[misc]
        loaders[f"{name}, 2 workers"] = lambda script=script: run_in(script, 2)  # type: ignore[misc]
    return loaders


def zarr_peers(
    folder: Path, local: WindowStore, remote: WindowStore, python312: str, not_run: dict[str, str]
) -> dict[str, Loader]:
    """A newer zarr-python than this environment can have, over the chunks that our reader reads, in its order."""
    python, why = environment(".venv-zarr", "zarr.txt", python312, shared=False)
    if python is None:
        not_run["zarr-python 3.4"] = why
        return {}

    def run_over(store: WindowStore, read_windows: int | None) -> Rates:
        order = written_order(folder / f"order-{read_windows}.npz", store, read_windows)
        command = [python, PEERS / "zarr_reads.py", uri.normalise(store.url), order, str(BATCH)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    return {
        "zarr-python 3.4, files": lambda: run_over(local, None),
        "zarr-python 3.4, S3": lambda: run_over(remote, None),
        "zarr-python 3.4, S3, 512": lambda: run_over(remote, 512),
    }


def written_order(path: Path, store: WindowStore, read_windows: int | None) -> Path:
    """Where the windows of an epoch lie, in the plan's order, for a reader that knows no store."""
    order = OrderConfig(global_batch=BATCH, read_windows=read_windows, block_steps=read_windows and 64)
    plan = plan_for(store, order)
    segments = sorted(store.segments("train"), key=lambda one: one.first_id)
    first = np.array([one.first_id for one in segments])
    ids_N = plan.ids_of_steps(0, plan.epoch_windows // BATCH).ravel()
    part_N = np.searchsorted(first, ids_N, side="right") - 1
    paths = [part_path(one.cohort, "train", one.part) for one in segments]
    np.savez(path, part=part_N, row=ids_N - first[part_N], paths=paths, block=plan.block_steps * BATCH)
    return path


def environment(name: str, requirements: str, python: str, *, shared: bool) -> tuple[str | None, str]:
    """The interpreter of an environment of others, made at the first call; or None and why there is none.

    A `shared` one sees the packages of this environment, so that no second torch is installed.
    """
    home = PEERS / name
    inside = home / "bin" / "python"
    wanted = (PEERS / requirements).read_text()
    done = home / "installed.txt"
    if done.exists() and done.read_text() == wanted:
        return str(inside), ""
    print(f"bench: installing {requirements}, once", file=sys.stderr, flush=True)
    command = [str(inside), "-m", "pip", "install", "--quiet", "-r", str(PEERS / requirements)]
    try:
        subprocess.run([python, "-m", "venv", "--clear", str(home)], check=True, capture_output=True, text=True)
        if shared:
            packages = Path(sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})["purelib"])
            (packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
            pins = (PEERS.parents[1] / "constraints.txt").read_text().splitlines()
            kept = home / "constraints.txt"  # torch alone: others may need other versions of what we use
            kept.write_text("\n".join(pin for pin in pins if pin.startswith("torch==")) + "\n")
            command += ["-c", str(kept)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        return None, f"no interpreter {python}"
    except subprocess.CalledProcessError as error:
        return None, "could not be installed: " + (error.stderr.strip().splitlines() or ["no reason told"])[-1]
    done.write_text(wanted)
    return str(inside), ""


def memory(store: WindowStore, plan: Plan, passes: int = 4) -> dict[str, float]:
    """Resident MiB of all of Ray's readers and this process, over passes through Ray Data, in quarters."""
    from xmae_dist.data.stream import read_ahead

    steps = passes * (plan.epoch_windows // BATCH)
    seen = [
        resident_mib()
        for batch in read_ahead.step_batches(store, plan, stop_step=steps)
        if batch.step % max(1, steps // 64) == 0
    ]
    quarters = np.array_split(np.array(seen), 4)
    return {f"quarter {number + 1}": round(float(np.median(one)), 1) for number, one in enumerate(quarters)}


def resident_mib() -> float:
    """Private memory of this process and of the reading processes (not of Ray's servers, nor the object store)."""
    own = psutil.Process()
    readers = [p for p in own.children(recursive=True) if "ray::" in " ".join(p.cmdline()[:1])]
    return sum((info := p.memory_info()).rss - info.shared for p in [own, *readers]) / 2**20


def ours(store: WindowStore, plan: Plan) -> Iterator[int]:
    for batch in direct.step_batches(store, plan, stop_step=plan.epoch_windows // BATCH):
        yield len(batch.ids_B)


def ours_by_ray(store: WindowStore, plan: Plan) -> Iterator[int]:
    from xmae_dist.data.stream import read_ahead

    for batch in read_ahead.step_batches(store, plan, stop_step=plan.epoch_windows // BATCH):
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


def ratios(median: dict[str, Rates]) -> list[str]:
    """What is aimed at, by the clock."""
    rate = {name: row["windows_per_s"] for name, row in median.items()}
    others = ("HDF5", "WebDataset", "MosaicML", "LitData", "zarr-python 3.4, files")
    alone, ray_data = rate["ours, one process, files"], rate["ours, Ray Data, files"]
    lines = [f"ours, one process, files / in-memory gather: {alone / rate['in-memory gather']:.2f} (aim 0.6)"]
    for name, their in rate.items():
        if name.startswith(others):
            aim = " (aim 2)" if name.startswith("LitData") else ""
            lines.append(f"ours from files / {name}: {max(alone, ray_data) / their:.1f}{aim}")
        elif "copies" in name or ", S3" in name:
            lines.append(f"{name} / raw S3: {their / rate['S3, raw objects']:.2f} (aim 0.8)")
    return lines


def show(results: dict[str, Any]) -> None:
    median = results["median"]
    by_clock = median["Zarr, sequential"]["windows_per_s"]
    by_cpu = median["Zarr, sequential"]["windows_per_cpu_s"]
    load = f"{results['cpus']} CPUs, load {results['load_before']:.1f}"
    print(f"{results['windows']:,} windows of 2 x 1000 float16 in batches of {BATCH}; {load}")
    print("(Ray Data reads in other processes, so its CPU column is what handing over costs the training process)\n")
    print(f"{'loader':<31} {'windows/s':>10} {'of Zarr':>8} {'per CPU s':>10} {'of Zarr':>8} {'first batch s':>14}")
    for name, row in median.items():
        relative = row["windows_per_s"] / by_clock, row["windows_per_cpu_s"] / by_cpu
        print(
            f"{name:<31} {row['windows_per_s']:>10,.0f} {relative[0]:>8.2f} "
            f"{row['windows_per_cpu_s']:>10,.0f} {relative[1]:>8.2f} {row['first_batch_s']:>14.2f}"
        )
    print("\n" + "\n".join(ratios(median)))
    print("memory over four passes, MiB: " + ", ".join(f"{value:g}" for value in results["memory"].values()))
    for name, why in results["not_run"].items():
        print(f"not run: {name}: {why}")


if __name__ == "__main__":
    main()
