"""What `xmae embed` adds to the encoder: from Zarr on an S3 server to a committed table, beside the encoder alone.

    bare       windows that are tensors already, in batches of 256
    worker     a batch of recordings read, cut, encoded, written and noted, as each actor does
    published  the path that the published code describes: whole recordings in memory, then each window filtered and
               resampled by itself and scaled, the model as released, in batches of 512
    scored     the same with NeuroKit2's cleaning and template-match quality of each window, by which the published
               data were chosen; where NeuroKit2 is there (bench/peers/neurokit.txt)
    committed  the whole command: a Ray of its own, actors, commit; CPU of all its processes, as what a window adds and
               what is there with any number: a run of all recordings beside a run of one. What its encoding actors
               take is told apart: the rest is the driver and Ray, which wait at the same cost beside any number of them

All take the same recordings and a model of one size. All but the last run in turns in one process on one thread, so
that a busy machine is busy for all alike; figures are CPU seconds, medians over rounds.

    OMP_NUM_THREADS=1 python bench/embed.py --preset published --recordings 8 --minutes 30 [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy import signal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.process_tree import Watch
from xmae_dist.data.windows.cutting import WindowBatch
from xmae_dist.data.windows.spans import spans_of_recording
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed.backlog import View, open_request
from xmae_dist.embed.encode import BATCH_WINDOWS, LoadedEncoder
from xmae_dist.embed.request import Encoder, read_encoder
from xmae_dist.embed.work import Work, encode, prepare
from xmae_dist.model import bundle, presets
from xmae_dist.simulate.cohorts import PRESETS, simulate_subject
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.snapshot import Recording
from xmae_dist.storage.table import Table
from xmae_dist.testing.s3_server import S3Server, serve_s3

COHORT, OF_ONE = "bedside", "one"
PUBLISHED_BATCH = 512


def main() -> int:
    """Prints a line for each way and the ratios, and writes them where --json says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="published", choices=presets.NAMES)
    parser.add_argument("--recordings", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=30.0, help="of each recording")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--no-ray", action="store_true", help="leave out the whole command")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with serve_s3() as server:
        os.environ.update(server.environment())
        corpus, encoder = prepared(server, args)
        found = measured(corpus, encoder, f"{server.bucket_url()}/tables", args)
    show(found)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))
    return 0


def prepared(server: S3Server, args: argparse.Namespace) -> tuple[Corpus, Encoder]:
    """A simulated bedside cohort, its PPG alone, and a bundle with random weights."""
    corpus = Corpus.create(f"{server.bucket_url()}/corpus")
    for cohort, recordings in ((COHORT, args.recordings), (OF_ONE, 1)):
        simulate_into(corpus, cohort, recordings, args.minutes)
    url = f"{server.bucket_url()}/bundle"
    bundle.save(url, presets.build(args.preset), window_spec=WindowSpec().to_dict(), lineage={"origin": "bench"})
    return corpus, read_encoder(url)


def simulate_into(corpus: Corpus, cohort: str, recordings: int, minutes: float) -> None:
    spec = replace(PRESETS["bedside"], subjects=recordings, minutes=minutes, recordings_per_subject=1)
    rows = []
    with corpus.begin_part(cohort, "p0") as part:
        for number in range(recordings):
            one = simulate_subject(spec, number)[0].channels["ppg"]
            channel = part.channel(
                "ppg", dtype=one.raw.dtype, rate_hz=one.rate_hz, unit="nu", scale=one.scale, offset=one.offset
            )
            name = f"{cohort}-r{number:03d}"
            rows.append(channel.add(one.raw, subject_id=name, recording_id=name, clock_id=name, gaps=one.gaps))
    corpus.commit_part(rows, cohort)


def measured(corpus: Corpus, encoder: Encoder, tables: str, args: argparse.Namespace) -> dict[str, Any]:
    """CPU milliseconds a window of each way, and what the ways come to beside one another."""
    loaded = LoadedEncoder.open(encoder)
    recordings = list(corpus.snapshot().recordings([("cohort", "=", COHORT)]))
    windows = WindowBatch.concatenate(
        [batch for one in recordings for batch, _ in spans_of_recording(corpus.url, one, encoder.spec)], encoder.spec
    ).ppg_BL
    with tempfile.TemporaryDirectory(prefix="bench-embed-") as folder:
        work = request(corpus, encoder, tables, folder)
        ways: dict[str, Callable[[], int]] = {
            "bare": lambda: len(loaded(windows)),
            "worker": lambda: sum(sum(encode(one, work.place, loaded).windows) for one in work.encode),
            "published": lambda: sum(len(published(one, loaded, filtered)) for one in recordings),
        }
        if importlib.util.find_spec("neurokit2"):
            ways["scored"] = lambda: sum(len(published(one, loaded, scored)) for one in recordings)
        cpu_ms = in_turns(ways, args.rounds)
    found: dict[str, Any] = {
        "preset": args.preset, "windows": len(windows), "batch": BATCH_WINDOWS, "cpu_ms_a_window": cpu_ms,
        "bare / worker": round(cpu_ms["bare"] / cpu_ms["worker"], 3),
        **{f"{way} / worker": round(cpu_ms[way] / cpu_ms["worker"], 3) for way in list(ways)[2:]},
    }  # fmt: skip
    return found if args.no_ray else found | committed(corpus, encoder, f"{tables}-committed", args, found)


def request(corpus: Corpus, encoder: Encoder, table: str, folder: str) -> Work:
    view = View.of(corpus.url, table)
    return prepare(open_request(view, encoder.lineage(COHORT), encoder, folder), view)


def in_turns(ways: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """CPU milliseconds a window of each way: the median of the rounds after the first, which warms up."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            began_s = time.process_time()
            windows = way()
            if number:
                found[name].append((time.process_time() - began_s) * 1e3 / windows)
    return {name: round(median(some), 3) for name, some in found.items()}


def published(
    recording: Recording, loaded: LoadedEncoder, clean: Callable[[np.ndarray, float], np.ndarray]
) -> pa.Table:
    """A recording by the published path: (windows, E) as a column of lists."""
    row = recording.channels["ppg"]
    values_T = recording.read("ppg").astype(np.float64)
    window = round(10 * row.rate_hz)
    scaled = []
    for start in range(0, len(values_T) - window + 1, window):
        even_L = signal.resample(clean(np.nan_to_num(values_T[start : start + window]), row.rate_hz), 1000)
        low, high = even_L.min(), even_L.max()
        scaled.append(2 * (even_L - low) / (high - low) - 1 if high > low else np.zeros(1000))
    ppg_BL = torch.from_numpy(np.stack(scaled).astype(np.float32))
    with torch.no_grad():
        parts = [loaded.model.embed(some).numpy() for some in ppg_BL.split(PUBLISHED_BATCH)]
    return pa.table({"embedding": list(np.concatenate(parts))})


def filtered(values_T: np.ndarray, rate_hz: float) -> np.ndarray:
    return np.asarray(signal.sosfiltfilt(band(rate_hz), values_T))


def scored(values_T: np.ndarray, rate_hz: float) -> np.ndarray:
    """Cleaned; no window is left out, so that all ways embed the same."""
    neurokit2 = importlib.import_module("neurokit2")
    clean_T = neurokit2.ppg_clean(values_T, sampling_rate=rate_hz)
    with contextlib.suppress(ValueError, IndexError):  # no pulse found: the published code leaves such a window out
        np.quantile(neurokit2.ppg_quality(clean_T, sampling_rate=rate_hz), 0.15)
    return np.asarray(clean_T)


def band(rate_hz: float) -> np.ndarray:
    return np.asarray(signal.butter(3, (0.5, 8.0), btype="bandpass", fs=rate_hz, output="sos"))


COMMAND = """
import sys
from xmae_dist.cluster import fanout
from xmae_dist.embed.pipeline import Resources, embed_cohort
from xmae_dist.embed.request import read_encoder
corpus, bundle, table, cohort, actors = sys.argv[1:]
fanout.connect()
done = embed_cohort(corpus, read_encoder(bundle), table, cohort, Resources(max_actors=int(actors)))
fanout.leave()
"""


def committed(
    corpus: Corpus, encoder: Encoder, table: str, args: argparse.Namespace, found: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole command in processes of their own, for all recordings and for one."""
    runs, windows = {}, {}
    for cohort in (COHORT, OF_ONE):
        runs[cohort] = process([corpus.url, encoder.url, f"{table}-{cohort}", cohort, str(args.actors)])
        windows[cohort] = len(Table(f"{table}-{cohort}").read(columns=["start_s"]))
    if windows[COHORT] != found["windows"]:
        raise RuntimeError(f"{windows[COHORT]} rows of {found['windows']} windows")
    more = windows[COHORT] - windows[OF_ONE]
    cpu_ms, actors_ms = ((runs[COHORT][what] - runs[OF_ONE][what]) * 1e3 / more for what in ("cpu_s", "actors_cpu_s"))
    bare_ms = found["cpu_ms_a_window"]["bare"]
    return {
        "committed": runs[COHORT],
        "committed, one recording": {**runs[OF_ONE], "windows": windows[OF_ONE]},
        "cpu_ms_of_a_window_more": {"all": round(cpu_ms, 3), "actors": round(actors_ms, 3)},
        "cpu_s_of_a_run": round(runs[OF_ONE]["cpu_s"] - windows[OF_ONE] * cpu_ms / 1e3, 2),
        "bare / committed": round(bare_ms / cpu_ms, 3),
        "bare / its actors": round(bare_ms / actors_ms, 3),
    }


def process(words: list[str]) -> dict[str, float]:
    """CPU seconds of a process and of all below it, and seconds by the clock.

    By looking while it runs: what Ray's raylet starts is not waited for, so no parent is told what it took.
    """
    began_s = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    started = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        cwd=Path(__file__).parents[1],
        env={**environment, "OMP_NUM_THREADS": "1"},
        text=True,
    )
    watch = Watch(started)
    if started.returncode:
        raise SystemExit(f"embedding ended with {started.returncode}")
    return {
        "cpu_s": round(watch.tree_cpu_s, 2),
        "actors_cpu_s": round(watch.cpu_s_of("ray::MapWorker"), 2),
        "clock_s": round(time.monotonic() - began_s, 2),
    }


def show(found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
