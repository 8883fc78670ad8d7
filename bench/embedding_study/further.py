"""The finished encoders of a study, probed on further people: more of them, and none of whom anything was chosen by.

The study's own held-out people are few for a task with one label a person, and objectives, readouts and rates were
tried with them in sight. These are simulated with another seed, after that. Nothing is trained: each encoder that the
study compares is read and probed as there, with folds of these people.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.embedding_study.arms import ATTENTIVE, SEEDLESS
from bench.embedding_study.people import People
from bench.embedding_study.planning import Job, Planned
from bench.embedding_study.score import Score
from bench.embedding_study.study import Row, Study
from xmae_dist.model.interface import PretrainModel


class Further(Study):
    """The jobs that the study `of` compares, on other people; rows in a file of their own."""

    def __init__(self, of: Study, people: People, rows: Path, ending: Callable[[], bool]) -> None:
        super().__init__(people, of.planned, of.probes, rows, ending)
        self.of = of

    def compared(
        self, planned: Planned | None = None
    ) -> tuple[dict[str, list[Job]], dict[str, dict[str, list[Score]]]]:
        """Of what the study compares, what is done here."""
        jobs, _ = self.of.compared(planned)
        done = self._done()
        here = {name: [job for job in some if job.key in done] for name, some in jobs.items()}
        return here, self._scores(here)

    def _jobs(self) -> list[Job]:
        """What the study compares, seed by seed; last the readouts learned in the probe, which take long."""
        compared, _ = self.of.compared()
        jobs = [job for some in compared.values() for job in some if job.arm not in SEEDLESS or job == some[0]]
        return sorted(jobs, key=lambda job: (job.arm in ATTENTIVE, job.seed))

    def _arm(self, job: Job) -> Row:
        return self._probed(job)

    def model(self, job: Job) -> PretrainModel:
        """The study's own."""
        return self.of.model(job)
