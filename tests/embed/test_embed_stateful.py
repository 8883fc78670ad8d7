"""The embedding table holds each recording of the corpus once, whoever embeds, dies, sweeps or comes late."""

from __future__ import annotations

import contextlib
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.embed.jobs import ENCODER, Job, by_telling, embed, opened, telling_rows, told
from xmae_dist.embed import manifest, staging
from xmae_dist.embed.backlog import View
from xmae_dist.embed.part import put_part
from xmae_dist.embed.publish import gather
from xmae_dist.embed.request import OvertakenError
from xmae_dist.embed.sweep import sweep
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table

COHORT = "watch"
LINEAGE = ENCODER.lineage(COHORT)
subjects = st.lists(st.sampled_from(["s0", "s1", "s2"]), min_size=1, max_size=2, unique=True)
DEATHS = ("opened", "part", "facts", "manifest")


class TableMachine(RuleBasedStateMachine):
    """Recordings, withdrawals, jobs that end, die at a boundary, or are overtaken, and sweeps that take nothing young
    or everything.
    """

    late = Bundle("late")

    @initialize()
    def start(self) -> None:
        folder = tempfile.mkdtemp(prefix="xmae-embed-")
        self.table = f"file://{folder}/table"
        corpus = Corpus.create(f"file://{folder}/corpus")
        self.corpus = corpus
        self.count = 0

    @rule(people=subjects, value=st.sampled_from([1, 2]))
    def record(self, people: list[str], value: int) -> None:
        """The same recordings may come again after a withdrawal, with the same content or another."""
        taken = set(self.corpus.snapshot().subjects().to_pylist())
        self.corpus.readmit(sorted(self.corpus.withdrawn.read().subjects.intersection(people)))
        self.count += 1
        with self.corpus.begin_part(COHORT, f"p{self.count}") as part:
            ppg = part.channel("ppg", dtype=np.float32, rate_hz=100.0, unit="nu")
            rows = [
                ppg.add(np.full(9, value, np.float32), subject_id=name, recording_id=name, clock_id=name)
                for name in people
                if name not in taken
            ]
        if rows:
            self.corpus.commit_part(rows, f"p{self.count}")

    @rule(people=subjects)
    def withdraw(self, people: list[str]) -> None:
        self.corpus.withdraw(people)

    def opened(self) -> Job | None:
        if COHORT not in View.of(self.corpus.url, self.table).cohorts(ENCODER):
            return None
        return opened(self.corpus.url, self.table, LINEAGE, ENCODER)

    @rule(target=late)
    def finish_and_pause(self) -> Job | None:
        job = self.opened()
        if job is not None:
            job.finish(by_telling)
        return job

    @rule(job=late)
    def publish_late(self, job: Job | None) -> None:
        if job is None:
            return
        with contextlib.suppress(OvertakenError):
            job.publish()
        if Table(self.table).exists():
            told(self.table)

    @rule(death=st.sampled_from(DEATHS))
    def die(self, death: str) -> None:
        job = self.opened()
        if job is None or death == "opened":
            return
        if death == "part":  # a worker had put its file in place, and left no facts
            for task in job.work.encode:
                place = job.work.place
                rows = telling_rows(staging.read_work(task.work_url))
                put_part(place.table_url, rows, place.partition, request=place.request, key=task.key)
            return
        job.finish(by_telling)
        if death == "manifest":
            windows = gather(job.request, job.work).windows
            manifest.append(self.table, job.request, windows, job.view.position(LINEAGE))

    @rule(grace_s=st.sampled_from([3600.0, 0.0]))
    def sweep(self, grace_s: float) -> None:
        sweep(self.table, grace_s=grace_s)
        if Table(self.table).exists():
            told(self.table)

    @rule()
    def embed(self) -> None:
        """A job to its end; afterwards the table is what the corpus is."""
        if COHORT in View.of(self.corpus.url, self.table).cohorts(ENCODER):
            embed(self.corpus.url, self.table, COHORT)
            assert View.of(self.corpus.url, self.table).behind(ENCODER) == []
        rows = told(self.table) if Table(self.table).exists() else {}
        recorded = {
            row["recording_id"]: float(int(row["digest"][:4], 16))
            for row in self.corpus.snapshot().table(["recording_id", "digest"]).to_pylist()
        }
        assert rows == {(COHORT, name, start_s): value for name, value in recorded.items() for start_s in (0.0, 10.0)}

    def teardown(self) -> None:
        if hasattr(self, "corpus"):
            self.embed()


def test_on_local_files() -> None:
    run_state_machine_as_test(
        TableMachine,
        settings=settings(
            max_examples=8,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("death", DEATHS)
def test_a_job_goes_on_where_another_died(death: str) -> None:
    people = TableMachine()
    people.start()
    people.record(people=["s0", "s1"], value=1)
    people.die(death=death)
    people.embed()
    people.withdraw(people=["s0"])
    people.record(people=["s2"], value=2)
    people.die(death=death)
    people.embed()


def test_a_withdrawal_that_was_taken_back_after_its_job_died() -> None:
    people = TableMachine()
    people.start()
    people.record(people=["s0", "s1"], value=1)
    people.embed()
    people.withdraw(people=["s0"])
    people.die(death="manifest")
    people.record(people=["s0"], value=1)
    people.embed()


def test_a_job_whose_parts_were_swept_commits_nothing() -> None:
    people = TableMachine()
    people.start()
    people.record(people=["s0", "s1"], value=1)
    people.embed()
    people.record(people=["s2"], value=2)
    job = people.finish_and_pause()
    assert job is not None
    people.sweep(grace_s=0.0)
    before = told(people.table)
    people.publish_late(job)
    assert told(people.table) == before
    people.embed()
