"""The embedding table holds each recording of the corpus once, whoever embeds, dies or comes late, in any order."""

from __future__ import annotations

import json
import tempfile

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed import staging
from xmae_dist.embed.backlog import cohorts_to_look_at, open_request, write_manifest
from xmae_dist.embed.encode import COUNTS_KEY, row_schema
from xmae_dist.embed.publish import _withdraw, collect, publish
from xmae_dist.embed.request import Batch, Encoder, Request
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table

COHORT, WIDTH = "watch", 2
ENCODER = Encoder(url="file:///nowhere", model_id="model", spec=WindowSpec(require=("ppg",)))
subjects = st.lists(st.sampled_from(["s0", "s1", "s2"]), min_size=1, max_size=2, unique=True)


def rows_of(batch: Batch) -> pa.Table:
    """Two rows a recording, as an encoder would make of it; the embedding tells its content."""
    rows = [
        {
            "subject_id": r.subject_id,
            "recording_id": r.recording_id,
            "cohort": r.cohort,
            "start_s": start_s,
            "start_time_ns": None,
            "quality": 1.0,
            "embedding": [float(int(r.channels["ppg"].digest[:4], 16))] * WIDTH,
            "model_id": ENCODER.model_id,
            "spec_id": ENCODER.spec_id,
        }
        for r in batch.recordings
        for start_s in (0.0, 10.0)
    ]
    counts = json.dumps({r.recording_id: 2 for r in batch.recordings}).encode()
    return pa.Table.from_pylist(rows, schema=row_schema(WIDTH)).replace_schema_metadata({COUNTS_KEY: counts})


class TableMachine(RuleBasedStateMachine):
    """Recordings, withdrawals, jobs that end, die before their commit, or are overtaken."""

    late = Bundle("late")

    @initialize()
    def start(self) -> None:
        folder = tempfile.mkdtemp(prefix="xmae-embed-")
        self.table = f"file://{folder}/table"
        self.corpus = Corpus.create(f"file://{folder}/corpus")
        self.count = 0

    @rule(people=subjects, value=st.sampled_from([1, 2]))
    def record(self, people: list[str], value: int) -> None:
        """The same recordings may come again after a withdrawal, with the same content or another."""
        taken = {row.subject_id for row in self.corpus.snapshot().rows()}
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

    def opened(self) -> Request | None:
        """What a job asks for, staged."""
        snapshot = self.corpus.snapshot()
        if COHORT not in cohorts_to_look_at(snapshot, ENCODER, self.table):
            return None
        request = open_request(snapshot, COHORT, ENCODER, self.table)
        if request is not None:
            for batch in request.batches():
                staging.put_part(staging.staging_url(self.table, request), batch.key, rows_of(batch))
        return request

    @rule(target=late)
    def open_and_pause(self) -> Request | None:
        return self.opened()

    @rule(request=late)
    def publish_late(self, request: Request | None) -> None:
        if request is not None:
            publish(request, self.table)
            self.each_recording_is_there_at_most_once()

    @rule()
    def die_before_the_commit(self) -> None:
        request = self.opened()
        if request is not None:
            _, counts, _ = collect(request, self.table)
            write_manifest(self.table, request, counts)
            if Table(self.table).exists():
                _withdraw(Table(self.table), request)

    @rule()
    def embed(self) -> None:
        """A job to its end; afterwards the table is what the corpus is."""
        for _ in range(5):
            request = self.opened()
            if request is None:
                break
            publish(request, self.table)
        rows = self.each_recording_is_there_at_most_once()
        recorded = {row.recording_id: float(int(row.digest[:4], 16)) for row in self.corpus.snapshot().rows()}
        assert {(name, start_s): value for name, start_s, value in rows} == {
            (name, start_s): value for name, value in recorded.items() for start_s in (0.0, 10.0)
        }

    def each_recording_is_there_at_most_once(self) -> list[tuple[str, float, float]]:
        if not Table(self.table).exists():
            return []
        found = Table(self.table).read(columns=["recording_id", "start_s", "embedding"]).to_pylist()
        rows = [(row["recording_id"], row["start_s"], row["embedding"][0]) for row in found]
        assert len({row[:2] for row in rows}) == len(rows)
        return rows

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


def test_a_withdrawal_that_was_taken_back_after_its_job_died() -> None:
    people = TableMachine()
    people.start()
    people.record(people=["s0", "s1"], value=1)
    people.embed()
    people.withdraw(people=["s0"])
    people.die_before_the_commit()
    people.record(people=["s0"], value=1)
    people.embed()
