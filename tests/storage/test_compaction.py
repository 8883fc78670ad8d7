"""Many commits stay few files and few requests; merging files races with nobody."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from xmae_dist.core.errors import InputError
from xmae_dist.storage import compaction, sweep, uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.ledger import KEY, Ledger
from xmae_dist.storage.table import CHECKPOINT_EVERY, Table
from xmae_dist.testing.conformance_storage import NO_GRACE_S, content, write_part
from xmae_dist.testing.s3_server import S3Server, serve_s3


def ingest(corpus: Corpus, name: str, cohort: str = "patch") -> int:
    version = corpus.commit_part(write_part(corpus, name, [f"s-{name}"], cohort=cohort, seconds=1), name)
    assert version is not None
    return version


def files(corpus: Corpus) -> dict[str, int]:
    named = [cohort for cohort, _ in corpus.index.at().files("cohort")]
    return {cohort: named.count(cohort) for cohort in named}


def test_merged_files_hold_the_same_rows_and_old_versions_stay(store_url: str) -> None:
    corpus = Corpus.create(store_url)
    for name in ("p0", "p1", "p2"):
        ingest(corpus, name)
    ingest(corpus, "q0", "watch")
    before = corpus.snapshot()
    held = content(before)
    assert compaction.merge_files(corpus.index, most_files=3) == [], "as many as are left alone"
    assert compaction.merge_files(corpus.index, most_files=2) == ["patch"]
    after = corpus.snapshot()
    assert files(corpus) == {"patch": 1, "watch": 1}
    assert (content(after), after.fingerprint, after.version) == (held, before.fingerprint, before.version + 1)
    assert after.contents["patch"] == before.contents["patch"] and KEY not in corpus.index.commit(after.version).info
    ingest(corpus, "p3")
    sweep.vacuum(corpus, grace_s=NO_GRACE_S)
    assert len(content(corpus.snapshot(2))) == 4, "a version from before the merge, pinned by a run"
    assert Ledger.counted(corpus.index.at()).cohorts["patch"].digest == corpus.snapshot().contents["patch"].digest

    corpus.withdraw(["s-p0"])
    sweep.vacuum(corpus, grace_s=NO_GRACE_S)
    sweep.vacuum(corpus, grace_s=NO_GRACE_S)
    with pytest.raises(InputError, match="vacuumed"):
        list(corpus.snapshot(2, allow_withdrawn=True).rows())
    left = [uri.read_bytes(one) for one in parquet_files(corpus)]
    assert left and not any(b"s-p0" in data for data in left), "nobody withdrawn stays in a file that was merged"


def parquet_files(corpus: Corpus) -> list[str]:
    return [one.url for one in uri.list_details(corpus.index.url) if one.url.endswith("c000.snappy.parquet")]


def test_files_of_writers_that_were_refused_go_with_the_vacuum(store_url: str) -> None:
    corpus = Corpus.create(store_url)
    ingest(corpus, "p0")
    left = uri.join(corpus.index.url, "cohort=patch", "part-of-a-writer-that-died.parquet")
    uri.write_bytes(left, b"rows of somebody")
    sweep.vacuum(corpus)
    assert uri.exists(left), "its writer may be at work"
    sweep.vacuum(corpus, grace_s=NO_GRACE_S)
    assert not uri.exists(left)
    version = corpus.index.version()
    sweep.vacuum(corpus, grace_s=NO_GRACE_S)
    assert corpus.index.version() == version, "a vacuum with nothing to do makes no commit"


def test_an_ingest_merges_after_so_many_commits(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "EVERY_COMMITS", 4)
    monkeypatch.setattr(compaction.merge_files, "__defaults__", (2,))
    corpus = Corpus.create(store_url)
    for at in range(5):
        ingest(corpus, f"p{at}")
    assert files(corpus) == {"patch": 2}
    assert corpus.snapshot().contents["patch"].rows == 10


def test_writers_and_readers_beside_merges(store_url: str) -> None:
    """Two writers, a withdrawal and a reader that pinned a version, while files are merged all the time."""
    corpus = Corpus.create(store_url)
    for at in range(3):
        ingest(corpus, f"p{at}")
    pinned = corpus.snapshot()
    held, ended = content(pinned), threading.Event()
    merged: list[str] = []

    def merge() -> None:
        while not ended.is_set():
            merged.extend(compaction.merge_files(Table(corpus.index.url), most_files=1))

    def write(name: str) -> None:
        for at in range(3):
            ingest(Corpus.open(store_url), f"{name}{at}")

    merger = threading.Thread(target=merge)
    writers = [threading.Thread(target=write, args=[name]) for name in ("a", "b")]
    for thread in (merger, *writers):
        thread.start()
    corpus.withdraw(["s-p1"])
    for thread in writers:
        thread.join()
    ended.set()
    merger.join()
    snapshot = corpus.snapshot()
    assert merged and snapshot.contents["patch"].rows == 2 * (3 + 6 - 1)
    assert {name: one.digest for name, one in snapshot.counted().items()} == {
        name: one.digest for name, one in snapshot.contents.items()
    }
    assert content(pinned) == held


MERGER = """
import sys
from xmae_dist.storage import compaction
from xmae_dist.storage.corpus import Corpus
corpus = Corpus.open(sys.argv[1])
print("up", flush=True)
compaction.merge_files(corpus.index, most_files=1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.06, 0.1])
def test_a_merge_killed_at_any_moment_loses_nothing(store_url: str, after_s: float) -> None:
    corpus = Corpus.create(store_url)
    for at in range(4):
        ingest(corpus, f"p{at}")
    before = corpus.snapshot()
    held = content(before)
    process = subprocess.Popen(
        [sys.executable, "-c", MERGER, store_url], stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2]
    )
    assert process.stdout is not None
    process.stdout.readline()
    threading.Event().wait(after_s)
    process.kill()
    process.wait()
    assert corpus.snapshot().fingerprint == before.fingerprint and content(corpus.snapshot()) == held
    ingest(corpus, "p4")
    sweep.vacuum(corpus, grace_s=NO_GRACE_S)
    assert len(content(corpus.snapshot())) == len(held) + 2 and content(corpus.snapshot(before.version)) == held


@pytest.fixture
def counting_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with serve_s3(log=tmp_path / "requests.log") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.mark.slow
def test_requests_do_not_follow_the_number_of_commits(counting_s3: S3Server) -> None:
    corpus = Corpus.create(counting_s3.bucket_url() + "/corpus")
    spent = []
    for at in range(4 * CHECKPOINT_EVERY):
        rows = write_part(corpus, f"p{at}", [f"s{at}"], seconds=1)
        before = counting_s3.requests()
        corpus.commit_part(rows, f"run {at}")
        spent.append(counting_s3.requests() - before)
    decades = [
        sum(spent[at : at + CHECKPOINT_EVERY]) / CHECKPOINT_EVERY for at in range(0, len(spent), CHECKPOINT_EVERY)
    ]
    assert max(decades[2:]) < 1.1 * decades[1], decades
    assert decades[-1] < MOST_A_COMMIT, decades
    before = counting_s3.requests()
    snapshot = Corpus.open(corpus.url).snapshot()
    assert snapshot.cohorts() and snapshot.fingerprint
    assert counting_s3.requests() - before < MOST_AN_OPEN


MOST_A_COMMIT = 120
MOST_AN_OPEN = 40
