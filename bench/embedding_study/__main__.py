"""What frozen embeddings know of people whom nobody trained on; a row for each arm and seed.

    python -m bench.embedding_study                    (or: make model-study; hours)
    python -m bench.embedding_study --budget 2048 --people 120 --arms random cross features constant     (minutes)

Every trained arm sees the same windows of the same people in the same order, `--budget` of them in batches of 32. The
learning rate of each objective is the best of three by the loss on validation people at a quarter of the budget and the
first seed. All models are read by the same readout. Probes are linear, nested, with folds by person, on people of the
test split alone.

Rows are appended as they come, results (predictions, folds) are kept below --out, and what is there is not computed
again; a run that is stopped loses the arm it was in. The page is written after each row.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.embedding_study import ceilings, page, probing, training
from bench.embedding_study.arms import NAMES, RANDOM, RATES, SEEDLESS, TOGETHER, TRAINED, UNTRAINED, Arm, fitted
from bench.embedding_study.people import People, made
from bench.embedding_study.training import Run
from bench.reconstruction_study.rows import rounded
from xmae_dist.evaluate.encoders.features import pulse_features
from xmae_dist.evaluate.results import Result, ResultTable
from xmae_dist.model import bundle
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.xmae import XMAEConfig

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]
Embedding = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row. `windows` is 0 for what is not trained."""

    kind: str
    """rate, or arm."""
    arm: str
    seed: int
    windows: int
    lr: float

    @property
    def key(self) -> str:
        return "-".join(str(value) for value in asdict(self).values()).replace(" ", "")


class Study:
    """Jobs one after another, in an order in which early rows compare."""

    def __init__(self, args: argparse.Namespace, people: People) -> None:
        self.args, self.people = args, people
        self.place = f"{people.store.fingerprint}-{args.probe_windows}"
        """What rows must share to be compared: the people and their probed windows."""
        self.table = ResultTable(str(people.out / f"results-{args.probe_windows}"))
        self._moves = probing.Moves()
        self._have = {result.encoder_id for result in self.table.read()}

    def run(self) -> None:
        while (job := next(self._missing(), None)) is not None:
            print(f"{job.key} …", flush=True)
            began = training.cpu_s()
            row = self._rate(job) if job.kind == "rate" else self._arm(job)
            row = {**asdict(job), "place": self.place, **row, "cpu_s": training.cpu_s() - began}
            with self.args.rows.open("a") as file:
                file.write(json.dumps(rounded(row)) + "\n")
            print(f"   {row['cpu_s']:.0f} s of CPU", flush=True)
            self.write()

    def write(self) -> None:
        """The page, and the differences that it counts."""
        files, budget = (self.args.page, self.args.differences), self.args.budget
        page.write(*files, self.rows(), self._results(), budget, self._moves)

    def rows(self) -> list[Row]:
        """Those of these people; the last where one was made twice."""
        path = self.args.rows
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        here = [row for row in rows if row["place"] == self.place]
        return list({_key(row): row for row in here}.values())

    def _missing(self) -> Iterator[Job]:
        done = {_key(row) for row in self.rows()}
        for job in self._planned():
            if job.key not in done or (job.kind == "arm" and job.key not in self._have):
                yield job

    def _planned(self) -> Iterator[Job]:
        wanted = [name for name in NAMES if name in self.args.arms]
        for name in wanted:
            if name in UNTRAINED:
                yield Job(kind="arm", arm=name, seed=self.args.seeds[0], windows=0, lr=0.0)
        families = dict.fromkeys(TRAINED[name].family for name in wanted if name in TRAINED)
        for family in families:
            yield from (self._rate_job(family, rate) for rate in RATES[family])
        for seed in self.args.seeds:
            for name in wanted:
                yield from self._planned_at(name, seed)

    def _planned_at(self, name: str, seed: int) -> Iterator[Job]:
        if name in TRAINED or TOGETHER.get(name) in TRAINED:
            rate = self._chosen(TRAINED[TOGETHER.get(name, name)].family)
            if rate is not None:
                yield Job(kind="arm", arm=name, seed=seed, windows=self.args.budget, lr=rate)
        elif name not in SEEDLESS:
            yield Job(kind="arm", arm=name, seed=seed, windows=0, lr=0.0)

    def _rate_job(self, family: str, rate: float) -> Job:
        return Job(kind="rate", arm=family, seed=self.args.seeds[0], windows=self.args.budget // 4, lr=rate)

    def _chosen(self, family: str) -> float | None:
        """The rate with the least validation loss; None until all are known."""
        jobs = {self._rate_job(family, rate).key: rate for rate in RATES[family]}
        loss = {jobs[_key(row)]: row["val_loss"] for row in self.rows() if _key(row) in jobs}
        return min(loss, key=loss.__getitem__) if len(loss) == len(jobs) else None

    def _rate(self, job: Job) -> Row:
        model = training.train(self._config(TRAINED[job.arm]), _run(job), self.people, lambda *_: None)
        return {"val_loss": training.validation_loss(model, self.people)}

    def _arm(self, job: Job) -> Row:
        about: Row = {}
        if job.arm in TRAINED:
            about = self._train(job)
        elif job.arm in TOGETHER:
            about = {"with": TOGETHER[job.arm]}
        embedding_ME = self._embedding(job)
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
        }

    def _train(self, job: Job) -> Row:
        config, curve = self._config(TRAINED[job.arm]), []

        def look(model: PretrainModel, seen: int) -> None:
            embedding_ME = probing.embedded(model, self.people.probed.ppg_ML)
            curve.append([seen, probing.values(embedding_ME, self.people.probed)])

        model = training.train(config, _run(job), self.people, look)
        spec = self.people.store.spec.to_dict()
        bundle.save(self._bundle(job), model.read_by(probing.READOUT), window_spec=spec, lineage=asdict(job))
        return {
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "train_windows": len(self.people.train),
            "train_people": len(np.unique(self.people.train.subjects)),
            "val_loss": training.validation_loss(model, self.people),
            "errors": training.errors(model, self.people.probed),
            "curve": curve,
        }

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

    def _results(self) -> dict[str, dict[str, list[Result]]]:
        """By arm and task, in the order of seeds, of rows of this budget."""
        rows = {_key(row): row for row in self.rows() if row["kind"] == "arm"}
        found: dict[str, dict[str, list[Result]]] = {}
        for result in sorted(self.table.read(), key=lambda one: rows.get(one.encoder_id, {}).get("seed", 0)):
            row = rows.get(result.encoder_id)
            if row is not None and row["windows"] in (0, self.args.budget) and row["seed"] in self.args.seeds:
                found.setdefault(row["arm"], {}).setdefault(result.task.name, []).append(result)
        return found


def _run(job: Job) -> Run:
    return Run(seed=job.seed, lr=job.lr, windows=job.windows)


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


def _key(row: Row) -> str:
    return Job(**{name: row[name] for name in Job.__dataclass_fields__}).key


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
    study = Study(args, made(args.people, args.probe_windows, args.out.resolve()))
    study.run()
    study.write()
    print(args.page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
