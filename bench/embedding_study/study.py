"""Rows of arms, one after another: trained or found, embedded, probed, kept."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.embedding_study import attentive, probing, score, training
from bench.embedding_study.arms import ATTENTIVE, RANDOM, TOGETHER, TRAINED, Arm, fitted
from bench.embedding_study.people import People, Windows
from bench.embedding_study.planning import Job, Planned
from bench.embedding_study.probing import Probes
from bench.embedding_study.score import Score
from bench.embedding_study.unfinished import Ended, Unfinished
from bench.reconstruction_study.rows import rounded
from xmae_dist.evaluate.encoders.features import pulse_features
from xmae_dist.evaluate.results import Result, ResultTable
from xmae_dist.evaluate.tasks import Suite
from xmae_dist.model import bundle
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.xmae import XMAEConfig

Row = dict[str, Any]
Embedding = NDArray[np.floating]


class Study:
    """The jobs of `planned` that have no row in the file `rows` yet, in their order, until `ending`."""

    def __init__(
        self, people: People, planned: Planned, probes: Probes, rows: Path, ending: Callable[[], bool]
    ) -> None:
        self.people, self.planned, self.probes, self.ending = people, planned, probes, ending
        self.place = f"{people.store.fingerprint}-{people.probe_windows}"
        """What rows must share to be compared: the people and their probed windows."""
        self.table = ResultTable(str(people.out / f"results-{people.probe_windows}"))
        self.untrained: dict[str, Callable[[int], Embedding]] = {
            **{name: partial(self._random, name) for name in RANDOM},
            "features": lambda _: self.features(people.probed.ppg_ML.numpy()),
            "constant": lambda _: np.zeros((len(people.probed), 1), np.float32),
        }
        """Embeddings of the probed windows that need no training, by arm; told the seed."""
        self._rows = rows
        self._kept_at = rows.with_suffix("") / self.place
        self._read: dict[str, list[Score]] = {}

    def run(self, write: Callable[[], None]) -> None:
        """Row after row; `write` is called after each."""
        with contextlib.suppress(Ended):
            while not self.ending() and (job := next(self._missing(), None)) is not None:
                print(f"{job.key} …", flush=True)
                row = self._row(job)
                with self._rows.open("a") as file:
                    file.write(json.dumps(rounded(row)) + "\n")
                self._unfinished(job).clear()
                print(f"   {row['cpu_s']:.0f} s of CPU", flush=True)
                write()

    def compared(
        self, planned: Planned | None = None
    ) -> tuple[dict[str, list[Job]], dict[str, dict[str, list[Score]]]]:
        """By arm the jobs that speak for it, and their scores by task, in the order of seeds.

        By another plan than the study's own if it is given.
        """
        done, losses, planned = self._done(), self._losses(), planned or self.planned
        jobs = {name: planned.compared(name, done, losses) for name in planned.arms}
        return jobs, self._scores(jobs)

    def rows(self) -> list[Row]:
        """Those of these people; the last where one was made twice."""
        path = self._rows
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        here = [row for row in rows if row["place"] == self.place]
        return list({Job.of(row).key: row for row in here}.values())

    def _missing(self) -> Iterator[Job]:
        done = self._done()
        return (job for job in self._jobs() if job.key not in done)

    def _jobs(self) -> list[Job]:
        """All of the plan, in its order."""
        return self.planned.jobs(self._losses())

    def _done(self) -> set[str]:
        """Jobs with a row, those of arms with scores."""
        jobs = [Job.of(row) for row in self.rows()]
        return {job.key for job in jobs if job.kind == "rate" or self._file(job).exists()}

    def _losses(self) -> dict[str, float]:
        return {Job.of(row).key: row["val_loss"] for row in self.rows() if row["kind"] == "rate"}

    def _row(self, job: Job) -> Row:
        began_s = training.cpu_s()
        row = self._rate(job) if job.kind == "rate" else self._arm(job)
        before_s = row.pop("before_s", 0.0)
        return {**asdict(job), "place": self.place, **row, "cpu_s": training.cpu_s() - began_s + before_s}

    def _rate(self, job: Job) -> Row:
        model, work, before_s = self._trained(job, lambda _: None)
        return {"val_loss": training.validation_loss(model, self.people), "train_s": work.train_s, "before_s": before_s}

    def _arm(self, job: Job) -> Row:
        about: Row = {}
        if job.arm in TRAINED:
            about = self._train(job)
        elif job.arm in TOGETHER:
            about = {"with": TOGETHER[job.arm]}
        return about | self._probed(job)

    def _probed(self, job: Job) -> Row:
        """A finished arm read and probed; what a row says of it."""
        if job.arm in ATTENTIVE:
            return self._attentive(job)
        embedding_ME = self._embedding(job)
        probed_s = training.cpu_s()
        found = probing.results(job.arm, job.key, embedding_ME, *self._asked)
        numbers = {"numbers": embedding_ME.shape[1], "rank": probing.effective_rank(embedding_ME)}
        return {**numbers, **self._kept(job, found), "probes_s": training.cpu_s() - probed_s}

    def _attentive(self, job: Job) -> Row:
        of = Job(**{**asdict(job), "arm": ATTENTIVE[job.arm]})
        model = self.model(of) if of.arm in TRAINED else self.random(job.seed)
        return {"with": of.arm, **self._kept(job, attentive.results(job.arm, job.key, model, *self._asked))}

    @property
    def _asked(self) -> tuple[Windows, str, Suite]:
        return self.people.probed, self.people.store.fingerprint, self.probes.suite

    def _kept(self, job: Job, found: list[Result]) -> Row:
        """Commits results and keeps their scores; what a row says of them."""
        for result in found:
            self.table.commit(result)
        scores = [Score.of(result) for result in found]
        score.write(self._file(job), scores)
        return {
            "held_out": len(np.unique(self.people.probed.subjects)),
            "probed_windows": len(self.people.probed),
            "probes": {one.task: _told(one) for one in scores},
        }

    def _train(self, job: Job) -> Row:
        def look(model: PretrainModel) -> dict[str, float]:
            embedding_ME = probing.embedded(model, self.people.probed.ppg_ML)
            return probing.values(embedding_ME, self.people.probed, self.probes)

        model, work, before_s = self._trained(job, look)
        self._save(job, model)
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
        arm, kept = TRAINED[job.arm], self._unfinished(job)
        model, work = training.train(self._config(arm), run, self.people, look, kept, latent=arm.latent)
        return model, work, max(0.0, work.spent_s - (training.cpu_s() - began_s))

    def _unfinished(self, job: Job) -> Unfinished:
        return Unfinished(folder=self.people.out / "unfinished" / job.key, ending=self.ending)

    def _embedding(self, job: Job) -> Embedding:
        ppg_ML = self.people.probed.ppg_ML
        if job.arm in TRAINED:
            return probing.embedded(self.model(job), ppg_ML)
        if job.arm in TOGETHER:
            other = Job(**{**asdict(job), "arm": TOGETHER[job.arm]})
            return np.concatenate([self.features(ppg_ML.numpy()), self._embedding(other)], axis=1)
        return self.untrained[job.arm](job.seed)

    def features(self, ppg_ML: NDArray[np.floating]) -> Embedding:
        return pulse_features(ppg_ML, self.people.store.spec.rate_hz)

    def model(self, job: Job) -> PretrainModel:
        """The frozen model of a finished job of a trained arm, trained again where it is not here."""
        if not Path(self._bundle(job)).exists():
            print(f"   {job.key}: no model at {self._bundle(job)}: trained again", flush=True)
            self._save(job, self._trained(job, lambda _: None)[0])
            self._unfinished(job).clear()
        return bundle.load(self._bundle(job)).model

    def _save(self, job: Job, model: PretrainModel) -> None:
        spec = self.people.store.spec.to_dict()
        bundle.save(self._bundle(job), model.read_by(probing.READOUT), window_spec=spec, lineage=asdict(job))

    def random(self, seed: int, name: str = "random") -> PretrainModel:
        """A model that never is trained."""
        return training.initial(self._config(RANDOM[name]), seed).eval()

    def _random(self, name: str, seed: int) -> Embedding:
        return probing.embedded(self.random(seed, name), self.people.probed.ppg_ML)

    def _config(self, arm: Arm) -> XMAEConfig:
        return fitted(arm, self.people.store.spec.length, self.people.store.spec.rate_hz)

    def _bundle(self, job: Job) -> str:
        return str(self.people.out / "models" / job.key)

    def _file(self, job: Job) -> Path:
        return self._kept_at / f"{job.key}.parquet"

    def _scores(self, compared: Mapping[str, list[Job]]) -> dict[str, dict[str, list[Score]]]:
        found: dict[str, dict[str, list[Score]]] = {}
        for arm, jobs in compared.items():
            for one in (one for job in jobs for one in self._of(job)):
                found.setdefault(arm, {}).setdefault(one.task, []).append(one)
        return found

    def _of(self, job: Job) -> list[Score]:
        if job.key not in self._read:
            self._read[job.key] = score.read(self._file(job))
        return self._read[job.key]


def _told(one: Score) -> dict[str, Any]:
    """What a row says of it."""
    same = {name: getattr(one, name) for name in ("metric", "value", "low", "high")}
    return {**same, "units": one.n_units, "people": one.n_subjects}
