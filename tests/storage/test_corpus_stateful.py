"""A corpus on real stores behaves as a plain dictionary with a history, whatever is done to it in whatever order."""

from __future__ import annotations

import dataclasses
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from xmae_dist.core.errors import InputError
from xmae_dist.storage import index, sweep
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.ledger import Ledger
from xmae_dist.storage.snapshot import array_reader
from xmae_dist.storage.table import Table
from xmae_dist.storage.verify import verify
from xmae_dist.testing.conformance_storage import NO_GRACE_S, content, write_part
from xmae_dist.testing.s3_server import S3Server

Content = dict[tuple[str, str, str], str]
subjects = st.lists(st.sampled_from([f"s{i}" for i in range(5)]), min_size=1, max_size=3, unique=True)


class CorpusMachine(RuleBasedStateMachine):
    """Ingests, retries, aborts, races, withdrawals, vacuums and re-openings against a model of the content."""

    transactions = Bundle("transactions")

    def new_url(self) -> str:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.corpus = Corpus.create(self.new_url())
        self.model: Content = {}
        self.history: dict[int, Content] = {0: {}}
        self.withdrawn: set[str] = set()
        self.vacuumed_to = -1
        self.count = 0

    def next_name(self) -> str:
        self.count += 1
        return f"p{self.count}"

    def admitted(self, people: list[str]) -> list[str]:
        """Whom of `people` an ingest may bring; with the others it must fail. Somebody else comes for nobody."""
        left_out = sorted(self.withdrawn & set(people))
        if left_out:
            name = self.next_name()
            with pytest.raises(InputError, match=f"{left_out[0]}.*withdrawn"):
                self.corpus.commit_part(write_part(self.corpus, name, people, seconds=1), name)
        return sorted(set(people) - self.withdrawn) or ["somebody"]

    def committed(self, version: int, rows: list) -> None:  # type: ignore[type-arg]
        assert version == max(self.history) + 1
        self.model = {**self.model, **{(r.subject_id, r.recording_id, r.channel): r.digest for r in rows}}
        self.history[version] = self.model

    @rule(target=transactions, people=subjects)
    def ingest(self, people: list[str]) -> str:
        name = self.next_name()
        people = self.admitted(people)
        rows = write_part(self.corpus, name, people, seconds=1)
        version = self.corpus.commit_part(rows, name)
        assert version is not None
        self.committed(version, rows)
        return name

    @rule(target=transactions, people=subjects)
    def race(self, people: list[str]) -> str:
        name = self.next_name()
        people = self.admitted(people)

        def attempt(_: int) -> tuple[int | None, list]:  # type: ignore[type-arg]
            rows = write_part(Corpus.open(self.corpus.url), name, people, seconds=1)
            return self.corpus.commit_part(rows, name), rows

        with ThreadPoolExecutor(3) as pool:
            won = [(version, rows) for version, rows in pool.map(attempt, range(3)) if version is not None]
        assert len(won) == 1
        self.committed(*won[0])
        return name

    @rule(name=transactions, people=subjects)
    def retry(self, name: str, people: list[str]) -> None:
        assert self.corpus.committed(name)
        rows = write_part(self.corpus, name, people, seconds=1)
        assert self.corpus.commit_part(rows, name) is None

    @rule(people=subjects)
    def abort(self, people: list[str]) -> None:
        with pytest.raises(RuntimeError), self.corpus.begin_part("patch", self.next_name()) as part:
            part.channel("ecg", dtype="int16", rate_hz=250, unit="mV")
            raise RuntimeError("the writer died")

    @rule(people=subjects)
    def withdraw(self, people: list[str]) -> None:
        left = {key: digest for key, digest in self.model.items() if key[0] not in people}
        version = self.corpus.withdraw(people)
        assert (version is None) == (left == self.model)
        if version is not None:
            assert version == max(self.history) + 1
            self.model = self.history[version] = left
        self.withdrawn |= set(people)

    @rule()
    def relabel(self) -> None:
        self.count += 1

        def relabelled(rows: pa.Table) -> pa.Table:
            labels = {"age": float(self.count)}
            return index.to_arrow([dataclasses.replace(row, labels=labels) for row in index.from_arrow(rows)])

        self.history[self.corpus.index.rewrite([("cohort", "=", "patch")], relabelled) or 0] = self.model

    @rule(people=subjects)
    def write_as_format_v1_did(self, people: list[str]) -> None:
        """A program of before commits stated their contents, and that still runs."""
        people = sorted(set(people) - self.withdrawn)
        if people:
            rows = write_part(self.corpus, self.next_name(), people, seconds=1)
            table = Table(self.corpus.index.url)
            self.committed(table.append(index.to_arrow(rows)) or 0, rows)

    @rule(people=subjects)
    def readmit(self, people: list[str]) -> None:
        self.corpus.readmit(people)
        self.withdrawn -= set(people)

    @rule()
    def vacuum(self) -> None:
        sweep.vacuum(self.corpus, grace_s=NO_GRACE_S)
        newest = self.corpus.index.version()
        for version in range(max(self.history) + 1, newest + 1):  # compactions change no content
            self.history[version] = self.model
        if newest > self.vacuumed_to:
            self.vacuumed_to = newest
        assert sweep.orphans(self.corpus, grace_s=NO_GRACE_S) == []

    @rule()
    def reopen(self) -> None:
        array_reader.cache_clear()
        self.corpus = Corpus.open(self.corpus.url)

    @rule(back=st.integers(1, 4))
    def look_back(self, back: int) -> None:
        version = max(self.history) - back
        if version <= self.vacuumed_to or version < 0:
            return
        past = self.history[version]
        if past.items() <= self.model.items():
            assert content(self.corpus.snapshot(version)) == past
        else:
            with pytest.raises(InputError, match="withdrawn"):
                self.corpus.snapshot(version)
            assert content(self.corpus.snapshot(version, allow_withdrawn=True)) == past

    @invariant()
    def the_newest_snapshot_is_the_model(self) -> None:
        if hasattr(self, "corpus"):
            snapshot = self.corpus.snapshot()
            assert snapshot.version == max(self.history)
            assert {(r.subject_id, r.recording_id, r.channel): r.digest for r in snapshot.rows()} == self.model
            assert self.corpus.withdrawn.read().subjects == self.withdrawn
            pinned = self.corpus.index.at(snapshot.version)
            counted = Ledger.counted(pinned).cohorts
            assert {name: (one.digest, one.rows, one.channels) for name, one in snapshot.contents.items()} == {
                name: (one.digest, one.rows, one.channels) for name, one in counted.items()
            }

    def teardown(self) -> None:
        if hasattr(self, "corpus"):
            assert content(self.corpus.snapshot()) == self.model
            assert list(verify(self.corpus.snapshot())) == []


def explore(machine: type[CorpusMachine], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_on_local_files() -> None:
    class OnFiles(CorpusMachine):
        def new_url(self) -> str:
            return tempfile.mkdtemp(prefix="xmae-corpus-")

    explore(OnFiles, examples=6, steps=10)


@pytest.mark.slow
def test_on_s3(s3: S3Server) -> None:
    class OnS3(CorpusMachine):
        def new_url(self) -> str:
            return s3.bucket_url()

    explore(OnS3, examples=3, steps=10)
