"""A vacuum beside writers, readers, merges and a pinned version; and one that is killed at any moment."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xmae_dist.storage import compaction, sweep, uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table
from xmae_dist.storage.verify import verify
from xmae_dist.testing.conformance_storage import NO_GRACE_S, content, write_part


def ingest(corpus: Corpus, name: str, subjects: list[str]) -> None:
    """A part of these subjects."""
    assert corpus.commit_part(write_part(corpus, name, subjects, seconds=1), name) is not None


def people(corpus: Corpus) -> set[str]:
    return set(corpus.snapshot().subjects().to_pylist())


def until(ended: threading.Event, work: Callable[[], object]) -> int:
    """How often `work` was done before the end, at least once."""
    times = 0
    while not ended.is_set() or not times:
        work()
        times += 1
    return times


@pytest.mark.slow
def test_vacuums_and_merges_beside_writers_readers_and_a_pinned_version(store_url: str) -> None:
    corpus = Corpus.create(store_url)
    for at in range(3):
        ingest(corpus, f"p{at}", [f"s{at}", f"t{at}"])
    pinned, ended = corpus.snapshot(), threading.Event()
    held = content(pinned)

    def read() -> None:
        assert content(pinned) == held, "the pinned version, samples and all"
        newest = Corpus.open(store_url).snapshot()
        assert len(content(newest)) == newest.contents["patch"].rows

    def write(name: str) -> None:
        for at in range(3):
            ingest(Corpus.open(store_url), f"{name}{at}", [f"{name}{at}"])

    with ThreadPoolExecutor() as pool:
        beside = [
            pool.submit(until, ended, lambda: sweep.vacuum(Corpus.open(store_url))),
            pool.submit(until, ended, lambda: compaction.merge_files(Table(corpus.index.url), most_files=1)),
            pool.submit(until, ended, read),
        ]
        writers = [pool.submit(write, name) for name in ("a", "b")]
        corpus.withdraw(["s1"])
        for one in writers:
            one.result()
        ended.set()
        assert all(one.result() for one in beside)
    sweep.vacuum(corpus)
    expected = {f"{name}{at}" for name in "stab" for at in range(3)} - {"s1"}
    assert people(corpus) == expected and list(verify(corpus.snapshot())) == []
    assert content(pinned) == held
    sweep.vacuum(corpus, grace_s=NO_GRACE_S)
    assert people(corpus) == expected and list(verify(corpus.snapshot())) == []
    assert not any("/p1/" in one.url for one in uri.list_details(uri.join(store_url, "signals"))), (
        "copied, then removed"
    )


VACUUM = f"""
import sys
from xmae_dist.storage import sweep
from xmae_dist.storage.corpus import Corpus
corpus = Corpus.open(sys.argv[1])
print("up", flush=True)
sweep.vacuum(corpus, grace_s={NO_GRACE_S})
"""


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4])
def test_a_vacuum_killed_at_any_moment_is_finished_by_the_next(store_url: str, after_s: float) -> None:
    corpus = Corpus.create(store_url)
    for at in range(4):
        ingest(corpus, f"p{at}", [f"s{at}", f"t{at}"])
    corpus.withdraw(["s1", "s2", "t2"])
    before = corpus.snapshot()
    held = content(before)
    process = subprocess.Popen(
        [sys.executable, "-c", VACUUM, store_url], stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2]
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after_s)
    process.kill()
    process.wait()
    assert content(corpus.snapshot()) == held and list(verify(corpus.snapshot())) == []
    assert corpus.snapshot().fingerprint == before.fingerprint
    sweep.vacuum(corpus, grace_s=NO_GRACE_S)
    assert content(corpus.snapshot()) == held and list(verify(corpus.snapshot())) == []
    assert sweep.orphans(corpus, grace_s=NO_GRACE_S) == []
    assert not any("/p1/" in one.url or "/p2/" in one.url for one in uri.list_details(uri.join(store_url, "signals")))
