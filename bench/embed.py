"""What `xmae embed` adds to the encoder: from Zarr on an S3 server to a committed table, beside the encoder alone.

    bare       windows that are tensors already, in batches of 256
    worker     a batch of recordings read, cut, encoded, written and noted, as each actor does
    published  the path that the published code describes: whole recordings in memory, then each window filtered and
               resampled by itself and scaled (its quality scores left out), the model as released, in batches of 512
    committed  the whole command: a Ray of its own, actors, commit; CPU of all its processes, less that of a second run,
               which starts Ray too and finds nothing to embed

All take the same recordings and a model of one size. The first three run in turns in one process on one thread, so that
a busy machine is busy for all alike; figures are CPU seconds, medians over rounds.

    OMP_NUM_THREADS=1 python bench/embed.py --preset published --recordings 8 --minutes 30 [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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

COHORT = "bedside"
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
    spec = replace(PRESETS["bedside"], subjects=args.recordings, minutes=args.minutes, recordings_per_subject=1)
    rows = []
    with corpus.begin_part(COHORT, "p0") as part:
        for number in range(args.recordings):
            one = simulate_subject(spec, number)[0].channels["ppg"]
            channel = part.channel(
                "ppg", dtype=one.raw.dtype, rate_hz=one.rate_hz, unit="nu", scale=one.scale, offset=one.offset
            )
            name = f"r{number:03d}"
            rows.append(channel.add(one.raw, subject_id=name, recording_id=name, clock_id=name, gaps=one.gaps))
    corpus.commit_part(rows, "all")
    url = f"{server.bucket_url()}/bundle"
    bundle.save(url, presets.build(args.preset), window_spec=WindowSpec().to_dict(), lineage={"origin": "bench"})
    return corpus, read_encoder(url)


def measured(corpus: Corpus, encoder: Encoder, tables: str, args: argparse.Namespace) -> dict[str, Any]:
    """CPU milliseconds a window of each way, and what the ways come to beside one another."""
    loaded = LoadedEncoder.open(encoder)
    recordings = list(corpus.snapshot().recordings())
    windows = WindowBatch.concatenate(
        [batch for one in recordings for batch, _ in spans_of_recording(corpus.url, one, encoder.spec)], encoder.spec
    ).ppg_BL
    with tempfile.TemporaryDirectory(prefix="bench-embed-") as folder:
        work = request(corpus, encoder, tables, folder)
        ways: dict[str, Callable[[], int]] = {
            "bare": lambda: len(loaded(windows)),
            "worker": lambda: sum(sum(encode(one, work.place, loaded).windows) for one in work.encode),
            "published": lambda: sum(len(published(one, loaded)) for one in recordings),
        }
        cpu_ms = in_turns(ways, args.rounds)
    found: dict[str, Any] = {
        "preset": args.preset, "windows": len(windows), "batch": BATCH_WINDOWS, "cpu_ms_a_window": cpu_ms,
        "bare / worker": round(cpu_ms["bare"] / cpu_ms["worker"], 3),
        "published / worker": round(cpu_ms["published"] / cpu_ms["worker"], 3),
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


def published(recording: Recording, loaded: LoadedEncoder) -> pa.Table:
    """A recording by the published path: (windows, E) as a column of lists."""
    row = recording.channels["ppg"]
    values_T = recording.read("ppg").astype(np.float64)
    window = round(10 * row.rate_hz)
    scaled = []
    for start in range(0, len(values_T) - window + 1, window):
        clean_T = signal.sosfiltfilt(band(row.rate_hz), np.nan_to_num(values_T[start : start + window]))
        even_L = signal.resample(clean_T, 1000)
        low, high = even_L.min(), even_L.max()
        scaled.append(2 * (even_L - low) / (high - low) - 1 if high > low else np.zeros(1000))
    ppg_BL = torch.from_numpy(np.stack(scaled).astype(np.float32))
    with torch.no_grad():
        parts = [loaded.model.embed(some).numpy() for some in ppg_BL.split(PUBLISHED_BATCH)]
    return pa.table({"embedding": list(np.concatenate(parts))})


def band(rate_hz: float) -> np.ndarray:
    return np.asarray(signal.butter(3, (0.5, 8.0), btype="bandpass", fs=rate_hz, output="sos"))


COMMAND = """
import sys
from xmae_dist.cluster import fanout
from xmae_dist.embed.pipeline import Resources, embed_cohort
from xmae_dist.embed.request import read_encoder
corpus, bundle, table, actors = sys.argv[1:]
fanout.connect()
done = embed_cohort(corpus, read_encoder(bundle), table, "bedside", Resources(max_actors=int(actors)))
fanout.leave()
"""


def committed(
    corpus: Corpus, encoder: Encoder, table: str, args: argparse.Namespace, found: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole command in processes of their own, and the same again, which finds nothing to do."""
    words = [corpus.url, encoder.url, table, str(args.actors)]
    first, again = (process(words) for _ in range(2))
    rows = len(Table(table).read(columns=["start_s"]))
    if rows != found["windows"]:
        raise RuntimeError(f"{rows} rows of {found['windows']} windows")
    cpu_ms = (first["cpu_s"] - again["cpu_s"]) * 1e3 / rows
    return {
        "committed": first,
        "with nothing to do": again,
        "cpu_ms_a_window_committed": round(cpu_ms, 3),
        "bare / committed": round(found["cpu_ms_a_window"]["bare"] / cpu_ms, 3),
    }


def process(words: list[str]) -> dict[str, float]:
    """CPU seconds of a process and of all that it started, and seconds by the clock."""
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", COMMAND, *words]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1], env={**environment, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": round(cpu_s, 2), "clock_s": round(time.monotonic() - began_s, 2)}


def show(found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
