"""Encoders on real people: patients of the Challenge 2015, phones with a reference; and two more pairs of signals.

    python -m bench.real_study --data FOLDER                  (challenge2015/, butppg/, welltory/ below FOLDER; hours)
    python -m bench.real_study --data FOLDER --minutes 60     (goes on from what is there, and ends in time)
    python -m bench.real_study --data FOLDER --minutes 0      (the page alone)

Every arm sees `--budget` windows of the same patients in the same order, at its objective's first learning rate of the
simulated study. Probes are on patients whom nobody trained on. A seed of everything is there before the next
begins; rows are appended as they come, and a run goes on where it was ended. With `--simulated` (`people-1000` below
the simulated study's --out), that study's encoders are probed on the phones, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.embedding_study import score, training
from bench.embedding_study.arms import FIRST_RATE, LARGER, TRAINED
from bench.embedding_study.planning import Planned
from bench.embedding_study.score import Score
from bench.embedding_study.study import Study
from bench.embedding_study.unfinished import Ended, Ending, Unfinished
from bench.real_study import corpora, page, pairs, phones
from bench.real_study.tasks import PATIENTS
from bench.reconstruction_study.rows import rounded
from xmae_dist.evaluate.results import ResultTable
from xmae_dist.model import bundle
from xmae_dist.model.interface import PretrainModel

ROOT = Path(__file__).resolve().parents[2]
ARMS = (
    *("random", "features", "constant", "cross", "cross_beats", "ppg_autoencoder", "contrastive", "contrastive_beats"),
    *("features + cross_beats", "features + cross", "features + random"),
)
USED = ("cross", "cross_beats")
"""Arms that rebuild the ECG from the PPG."""
ECG_FROM_PPG = "ecg_from_ppg"
STAGES = {stage.name: stage for stage in (pairs.PRESSURE, pairs.WRIST)}
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A row beside those of arms on patients."""

    kind: str
    """pair, or phone."""
    what: str
    """Which pair of signals, or which phone."""
    arm: str
    seed: int
    windows: int


class RealStudy:
    """Patients, two more pairs of signals, phones: a seed after another."""

    def __init__(self, args: argparse.Namespace, ending: Callable[[], bool]) -> None:
        self.args, self.ending = args, ending
        self.people = corpora.patients(args.data / "challenge2015", args.out, args.probe_windows)
        self.phones = {
            "butppg": corpora.butppg(args.data / "butppg", args.out),
            "welltory": corpora.welltory(args.data / "welltory" / "data", args.out),
        }
        self.table = ResultTable(str(args.out / "phones"))
        self.study = self._study(args.seeds)

    def run(self) -> None:
        """Until every row is there, or `ending`."""
        for count, seed in enumerate(self.args.seeds, 1):
            self._study(self.args.seeds[:count]).run(self.write)
            for one in self._planned(seed):
                if self.ending():
                    return
                if one not in self._done():
                    self._append({**asdict(one), "place": "beside", **self._made(one)})

    def write(self) -> None:
        """The page."""
        jobs, scores = self.study.compared()
        keys = {job.key for group in jobs.values() for job in group}
        told = page.Told(self.study.rows(), self._rows(), keys, self.args.budget)
        page.write(self.args.page, told, scores, self._scores_on_phones())

    def _study(self, seeds: Sequence[int]) -> Study:
        planned = Planned(ARMS, seeds, self.args.budget, tried=False)
        return Study(self.people, planned, PATIENTS, self.args.rows, self.ending)

    def _planned(self, seed: int) -> Iterator[Beside]:
        models = self._models(seed)
        rows = [("pair", ECG_FROM_PPG, arm) for arm in USED if arm in models]
        rows += [("phone", phone, arm) for arm in models for phone in self.phones]
        rows += [("pair", stage, "cross") for stage in STAGES]
        for kind, what, arm in rows:
            yield Beside(kind=kind, what=what, arm=arm, seed=seed, windows=self.args.budget)

    def _made(self, one: Beside) -> Row:
        if one.kind == "phone":
            return self._on_phone(one)
        if one.what == ECG_FROM_PPG:
            return pairs.used(self._models(one.seed)[one.arm](), self.people.probed)
        return self._pair(STAGES[one.what], one.seed)

    def _models(self, seed: int) -> dict[str, Callable[[], PretrainModel]]:
        """What loads the encoder of each arm."""
        jobs, _ = self.study.compared()
        trained = {job.arm: job for group in jobs.values() for job in group if job.arm in TRAINED and job.seed == seed}
        return {
            "random": partial(self.study.random, seed),
            **{arm: partial(self.study.model, job) for arm, job in trained.items()},
            **(_simulated(self.args.simulated / "models", seed) if self.args.simulated else {}),
        }

    def _on_phone(self, one: Beside) -> Row:
        """The encoder of an arm; with the first seed's random encoder, features, too."""
        phone, identity = self.phones[one.what], f"{one.arm}-{one.seed}-{one.windows}"
        found = phones.results(one.arm, identity, phones.embedded(self._models(one.seed)[one.arm](), phone), phone)
        beside: Row = {}
        if one.arm == "random" and one.seed == self.args.seeds[0]:
            plain = phones.results(
                "features", "features", phones.features(phone, self.people.store.spec.rate_hz), phone
            )
            beside, found = {"features": dict(phones.told(plain))}, [*found, *plain]
        for result in found:
            self.table.commit(result)
        score.write(self._phone_scores / f"{one.what}-{identity.replace(' ', '')}.parquet", map(Score.of, found))
        return {"probes": dict(phones.told([r for r in found if r.encoder == one.arm])), **beside}

    @property
    def _phone_scores(self) -> Path:
        rows: Path = self.args.rows
        return rows.with_suffix("") / "phones"

    def _scores_on_phones(self) -> list[Score]:
        return [one for file in sorted(self._phone_scores.glob("*.parquet")) for one in score.read(file)]

    def _pair(self, stage: pairs.Stage, seed: int) -> Row:
        if stage is pairs.WRIST:
            people = corpora.wrist(self.args.out)
        else:
            people = corpora.pressure(self.args.data / "challenge2015", self.args.out)
        run = training.Run(seed=seed, lr=FIRST_RATE["cross"], windows=self.args.budget)
        kept = Unfinished(folder=people.out / "unfinished" / f"{stage.name}-{seed}", ending=self.ending)
        row = pairs.trained(stage, people, run, kept)
        kept.clear()
        return row

    def _rows(self) -> list[Row]:
        path: Path = self.args.rows
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if row["place"] == "beside"]

    def _done(self) -> set[Beside]:
        return {Beside(**{name: row[name] for name in Beside.__dataclass_fields__}) for row in self._rows()}

    def _append(self, row: Row) -> None:
        with self.args.rows.open("a") as file:
            file.write(json.dumps(rounded(row)) + "\n")
        print(f"{row['what']} {row['arm']} seed {row['seed']}", flush=True)
        self.write()


def _simulated(folder: Path, seed: int) -> dict[str, Callable[[], PretrainModel]]:
    """Trained encoders of the simulated study of this seed, of each arm the one that saw most windows.

    Of the small ones at the first learning rate, as the patients' own arms: the study has others, too.
    """
    most: dict[str, tuple[int, str]] = {}
    for place in sorted(str(one) for one in folder.iterdir()):
        job = bundle.describe(place)["lineage"]
        small = job["arm"] not in LARGER
        if job["seed"] == seed and small and job["lr"] == FIRST_RATE[TRAINED[job["arm"]].family]:
            most[job["arm"]] = max(most.get(job["arm"], (0, place)), (job["windows"], place))
    return {
        f"{arm}, simulated {windows:,}": partial(lambda url: bundle.load(url).model, place)
        for arm, (windows, place) in most.items()
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.real_study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with challenge2015/, butppg/ and welltory/")
    parser.add_argument("--budget", type=int, default=57_600, help="windows that each trained arm sees")
    parser.add_argument("--probe-windows", type=int, default=30, help="windows probed of each held-out recording")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--simulated", type=Path, help="people-1000 of the simulated study, for its encoders")
    parser.add_argument("--out", type=Path, default=Path("real-study-out"), help="windows, models and results, kept")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after so many; 0: the page alone")
    parser.add_argument("--rows", type=Path, default=ROOT / "bench" / "results" / "real-study.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "real-study.md")
    args = parser.parse_args()
    args.out, args.data = args.out.resolve(), args.data.resolve()
    return args


def main() -> int:
    args = _arguments()
    torch.set_num_threads(1)
    study = RealStudy(args, Ending(args.minutes))
    with contextlib.suppress(Ended):
        study.run()
    study.write()
    print(args.page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
