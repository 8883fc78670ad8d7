"""`paper` against `published` and every control on an equal budget; a row of figures for each run.

    python -m bench.reconstruction_study --recordings FOLDER        (or: make reconstruction-study RECORDINGS=FOLDER)

Every preset sees the same windows in the same order, in the same number of steps of the same batch. Learning rates are
chosen per family of models from two, by the loss on validation subjects of the first dataset at seed 0. Errors are
measured on test subjects, probes on validation and test subjects, none of whom was trained on.

Rows are kept as JSON lines; those that are there are not computed again, and the table is written from them after each
row. The same command in a second process shares the work. Without --recordings only the simulated corpus is used.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench.reconstruction_study.dataset import Dataset, challenge2015, simulated
from bench.reconstruction_study.measure import Job, measure
from bench.reconstruction_study.rows import rounded
from bench.reconstruction_study.table import write

ROOT = Path(__file__).resolve().parents[2]
PRESETS = (
    *("paper", "published", "tiny", "random", "ppg_mae_75", "clip", "ecg_mae_80", "reversed", "ppg_mae_50"),
    *("joint", "symmetric"),
)
RATES = {"paper": (5e-4, 1e-3), "published": (3e-4, 1e-3), "tiny": (1e-3, 2e-3), "clip": (3e-4, 1e-3)}
"""The two learning rates of each family; presets not named are of the family of `paper`."""


def main() -> int:
    args = _arguments()
    torch.set_num_threads(1)
    makers: dict[str, Callable[[], Dataset]] = {"simulated": lambda: simulated(args.out)}
    if args.recordings:
        makers["challenge2015"] = lambda: challenge2015(args.recordings.resolve(), args.out)
    datasets = {name: makers[name]() for name in args.corpus if name in makers}
    while missing := _missing(args, tuple(datasets)):
        for job in missing:
            claim = _claim(args.out, job)
            if claim is None or job.key in _done(args.rows):
                continue
            with claim:
                print(f"{job.dataset} {job.preset} seed {job.seed} rate {job.lr:g}", flush=True)
                row = measure(job, datasets[job.dataset], args.out)
                with args.rows.open("a") as file:
                    file.write(json.dumps(rounded(row)) + "\n")
            write(args.table, _rows(args.rows))
            print(f"   {row['seconds']:.0f} s  {row['errors']}  {row['probes']}", flush=True)
            break
        else:
            time.sleep(5)  # another process has what is left
    write(args.table, _rows(args.rows))
    print(args.table)
    return 0


def _missing(args: argparse.Namespace, datasets: tuple[str, ...]) -> list[Job]:
    """Jobs not done whose learning rate is known: rates first, then seed by seed, so that early rows compare."""
    rows = _rows(args.rows)
    done = {_key(row) for row in rows}
    return [job for job in _planned(args, datasets, rows) if job.key not in done]


def _planned(args: argparse.Namespace, datasets: tuple[str, ...], rows: list[dict[str, Any]]) -> Iterator[Job]:
    first = datasets[0]
    families = [name for name in RATES if any(_family(preset) == name for preset in args.presets)]
    for family in families:
        yield from (_job(args, first, family, args.seeds[0], rate) for rate in RATES[family])
    for seed in args.seeds:
        for dataset in datasets:
            for preset in args.presets:
                rate = _chosen(args, first, _family(preset), rows)
                if rate is not None:
                    yield _job(args, dataset, preset, seed, rate)


def _chosen(args: argparse.Namespace, first: str, family: str, rows: list[dict[str, Any]]) -> float | None:
    """The rate with the lower validation loss; None until both are known."""
    keys = {_job(args, first, family, args.seeds[0], rate).key: rate for rate in RATES[family]}
    loss = {keys[key]: row["val_loss"] for row in rows if (key := _key(row)) in keys}
    return min(loss, key=loss.__getitem__) if len(loss) == len(keys) else None


def _job(args: argparse.Namespace, dataset: str, preset: str, seed: int, rate: float) -> Job:
    return Job(
        dataset=dataset,
        preset=preset,
        seed=seed,
        lr=rate,
        windows=args.windows[args.corpus.index(dataset)],
        batch=args.batch,
    )


def _family(preset: str) -> str:
    return preset if preset in RATES else "paper"


def _key(row: dict[str, Any]) -> str:
    return Job(**{name: row[name] for name in Job.__dataclass_fields__}).key


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _done(path: Path) -> set[str]:
    return {_key(row) for row in _rows(path)}


def _claim(out: Path, job: Job) -> Any:
    """An open, locked file, or None where another process holds it; the lock goes when its process does."""
    file = (out / f"{job.key}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.reconstruction_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recordings", type=Path, help="folder of Challenge 2015 with its manifest.csv")
    parser.add_argument("--corpus", nargs="+", default=["simulated", "challenge2015"], help="datasets, in this order")
    parser.add_argument("--windows", nargs="+", type=int, default=[4096, 8192], help="windows seen, for each dataset")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("reconstruction-study-out"), help="corpora and windows, kept")
    parser.add_argument("--rows", type=Path, default=ROOT / "bench" / "results" / "reconstruction-study.jsonl")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "reconstruction-study.md")
    args = parser.parse_args()
    if len(args.windows) != len(args.corpus):
        parser.error(f"--windows: {len(args.windows)} numbers for {len(args.corpus)} datasets; give one for each")
    args.out = args.out.resolve()
    return args


if __name__ == "__main__":
    raise SystemExit(main())
