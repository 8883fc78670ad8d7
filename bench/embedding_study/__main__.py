"""What frozen embeddings know of people whom nobody trained on; a row for each arm and seed.

    python -m bench.embedding_study                    (or: make model-study; many hours)
    python -m bench.embedding_study --minutes 90       (goes on from what is there, and ends in time)
    python -m bench.embedding_study --minutes 0        (the page alone, from rows and results)
    python -m bench.embedding_study --budget 2048 --people 120 --arms random cross features constant     (minutes)

Every trained arm sees the same windows of the same people in the same order, `--budget` of them in batches of 32. All
models are read by the same readout. Probes are linear, nested, with folds by person, on people of the test split alone.

A table of one seed is whole before the next begins (`planning`). Arms are trained at the middle one of three learning
rates; when all seeds are there the other two are tried, by the loss on validation people at a quarter of the budget and
the first seed, and where one of them is better, arms are trained at that rate too.

Rows are appended as they come, results (predictions, folds) are kept below --out, and what is there is not computed
again. The arm in hand is kept every 500 steps and when the process is asked to end (SIGTERM, --minutes). The page is
written after each row.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.embedding_study import ceilings, page, probing, training
from bench.embedding_study.arms import NAMES, RANDOM, TOGETHER, TRAINED, Arm, fitted
from bench.embedding_study.people import People, made
from bench.embedding_study.planning import Job, Planned
from bench.embedding_study.unfinished import Ended, Ending, Unfinished
from bench.reconstruction_study.rows import rounded
from xmae_dist.evaluate.encoders.features import pulse_features
from xmae_dist.evaluate.results import Result, ResultTable
from xmae_dist.model import bundle
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.xmae import XMAEConfig

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]
Embedding = NDArray[np.floating]


class Study:
    """Jobs one after another, in an order in which early rows compare."""

    def __init__(self, args: argparse.Namespace, people: People, ending: Callable[[], bool]) -> None:
        self.args, self.people, self.ending = args, people, ending
        self.planned = Planned(args.arms, args.seeds, args.budget)
        self.place = f"{people.store.fingerprint}-{args.probe_windows}"
        """What rows must share to be compared: the people and their probed windows."""
        self.table = ResultTable(str(people.out / f"results-{args.probe_windows}"))
        self._moves = probing.Moves()
        self._have = {result.encoder_id for result in self.table.read()}

    def run(self) -> None:
        while not self.ending() and (job := next(self._missing(), None)) is not None:
            print(f"{job.key} …", flush=True)
            began_s = training.cpu_s()
            row = self._rate(job) if job.kind == "rate" else self._arm(job)
            before_s = row.pop("before_s", 0.0)
            row = {**asdict(job), "place": self.place, **row, "cpu_s": training.cpu_s() - began_s + before_s}
            with self.args.rows.open("a") as file:
                file.write(json.dumps(rounded(row)) + "\n")
            self._unfinished(job).clear()
            print(f"   {row['cpu_s']:.0f} s of CPU", flush=True)
            self.write()

    def write(self) -> None:
        """The page, and the differences that it counts."""
        rows, done, losses = self.rows(), self._done(), self._losses()
        compared = {name: self.planned.compared(name, done, losses) for name in self.args.arms}
        results = self._results({name: jobs for name, jobs in compared.items() if jobs})
        keys = {job.key for jobs in compared.values() for job in jobs}
        page.write(self.args.page, self.args.differences, page.Told(rows, keys, self.args.budget), results, self._moves)

    def rows(self) -> list[Row]:
        """Those of these people; the last where one was made twice."""
        path = self.args.rows
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        here = [row for row in rows if row["place"] == self.place]
        return list({Job.of(row).key: row for row in here}.values())

    def _missing(self) -> Iterator[Job]:
        done = self._done()
        return (job for job in self.planned.jobs(self._losses()) if job.key not in done)

    def _done(self) -> set[str]:
        """Jobs with a row, and those of arms with results."""
        jobs = [Job.of(row) for row in self.rows()]
        return {job.key for job in jobs if job.kind == "rate" or job.key in self._have}

    def _losses(self) -> dict[str, float]:
        return {Job.of(row).key: row["val_loss"] for row in self.rows() if row["kind"] == "rate"}

    def _rate(self, job: Job) -> Row:
        model, work, before_s = self._trained(job, lambda _: None)
        return {"val_loss": training.validation_loss(model, self.people), "train_s": work.train_s, "before_s": before_s}

    def _arm(self, job: Job) -> Row:
        about: Row = {}
        if job.arm in TRAINED:
            about = self._train(job)
        elif job.arm in TOGETHER:
            about = {"with": TOGETHER[job.arm]}
        embedding_ME = self._embedding(job)
        probed_s = training.cpu_s()
        found = probing.results(job.arm, job.key, embedding_ME, self.people.probed, self.people.store.fingerprint)
        for result in found:
            self.table.commit(result)
        self._have.add(job.key)
        return {
            **about,
            "numbers": embedding_ME.shape[1],
            "held_out": len(np.unique(self.people.probed.subjects)),
            "probed_windows": len(self.people.probed),
            "probes": {one.task.name: _score(one) for one in found},
            "probes_s": training.cpu_s() - probed_s,
        }

    def _train(self, job: Job) -> Row:
        def look(model: PretrainModel) -> dict[str, float]:
            return probing.values(probing.embedded(model, self.people.probed.ppg_ML), self.people.probed)

        model, work, before_s = self._trained(job, look)
        spec = self.people.store.spec.to_dict()
        bundle.save(self._bundle(job), model.read_by(probing.READOUT), window_spec=spec, lineage=asdict(job))
        return {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "train_windows": len(self.people.train),
            "train_people": len(np.unique(self.people.train.subjects)),
            "val_loss": training.validation_loss(model, self.people),
            "errors": training.errors(model, self.people.probed),
            "curve": work.curve,
            "train_s": work.train_s,
            "before_s": before_s,
        }

    def _trained(self, job: Job, look: training.Look) -> tuple[PretrainModel, training.Work, float]:
        """The model, what it took, and how many CPU seconds of that were in earlier processes."""
        began_s = training.cpu_s()
        run = training.Run(seed=job.seed, lr=job.lr, windows=job.windows)
        model, work = training.train(self._config(TRAINED[job.arm]), run, self.people, look, self._unfinished(job))
        return model, work, max(0.0, work.spent_s - (training.cpu_s() - began_s))

    def _unfinished(self, job: Job) -> Unfinished:
        return Unfinished(folder=self.people.out / "unfinished" / job.key, ending=self.ending)

    def _embedding(self, job: Job) -> Embedding:
        probed, spec = self.people.probed, self.people.store.spec
        if job.arm in TRAINED:
            return probing.embedded(bundle.load(self._bundle(job)).model, probed.ppg_ML)
        if job.arm in TOGETHER:
            other = Job(**{**asdict(job), "arm": TOGETHER[job.arm]})
            return np.concatenate([self._features(probed.ppg_ML.numpy()), self._embedding(other)], axis=1)
        if job.arm == "random":
            return probing.embedded(training.initial(self._config(RANDOM), job.seed).eval(), probed.ppg_ML)
        if job.arm == "features":
            return self._features(probed.ppg_ML.numpy())
        if job.arm == "latent":
            return ceilings.latent(self.people.specs, probed.table, spec.window_s)
        if job.arm == "noiseless":
            pulse_ML = ceilings.noiseless(self.people.specs, probed.table, spec)
            random = training.initial(self._config(RANDOM), job.seed).eval()
            return np.concatenate([self._features(pulse_ML), probing.embedded(random, torch.from_numpy(pulse_ML))], 1)
        return np.zeros((len(probed), 1), np.float32)

    def _features(self, ppg_ML: NDArray[np.floating]) -> Embedding:
        return pulse_features(ppg_ML, self.people.store.spec.rate_hz)

    def _config(self, arm: Arm) -> XMAEConfig:
        return fitted(arm, self.people.store.spec.length, self.people.store.spec.rate_hz)

    def _bundle(self, job: Job) -> str:
        return str(self.people.out / "models" / job.key)

    def _results(self, compared: dict[str, list[Job]]) -> dict[str, dict[str, list[Result]]]:
        """By arm and task, in the order of seeds."""
        keys = {job.key for jobs in compared.values() for job in jobs}
        by_key: dict[str, list[Result]] = {}
        for result in self.table.read(encoders=keys) if keys else ():
            by_key.setdefault(result.encoder_id, []).append(result)
        found: dict[str, dict[str, list[Result]]] = {}
        for arm, jobs in compared.items():
            for result in (result for job in jobs for result in by_key[job.key]):
                found.setdefault(arm, {}).setdefault(result.task.name, []).append(result)
        return found


def _score(result: Result) -> dict[str, Any]:
    headline = result.headline
    return {
        "metric": result.task.metric,
        "value": headline.value,
        "low": headline.low,
        "high": headline.high,
        "units": len(result.scored.predictions.y_N),
        "people": result.n_subjects,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.embedding_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--budget", type=int, default=200_000, help="windows that each trained arm sees")
    parser.add_argument("--people", type=int, default=1000, help="simulated people, half of each kind of device")
    parser.add_argument("--probe-windows", type=int, default=30, help="windows probed of each held-out recording")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(NAMES), choices=NAMES, metavar="ARM", help=", ".join(NAMES))
    parser.add_argument("--out", type=Path, default=Path("model-study-out"), help="people, models and results, kept")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after so many; 0: the page alone")
    results = ROOT / "bench" / "results"
    parser.add_argument("--rows", type=Path, default=results / "embedding-study.jsonl")
    parser.add_argument("--differences", type=Path, default=results / "embedding-study-differences.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "model-study.md")
    args = parser.parse_args()
    if args.budget < 4 * 32 * 32:
        parser.error(f"--budget: {args.budget} windows; give at least {4 * 32 * 32}, so that curves have six points")
    for name in args.arms:
        if TOGETHER.get(name, name) not in args.arms:
            parser.error(f"--arms: {name!r} without {TOGETHER[name]!r}; name both")
    return args


def main() -> int:
    args = _arguments()
    torch.set_num_threads(1)
    people = made(args.people, args.probe_windows, args.out.resolve())
    study = Study(args, people, Ending(args.minutes))
    with contextlib.suppress(Ended):
        study.run()
    study.write()
    print(args.page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
