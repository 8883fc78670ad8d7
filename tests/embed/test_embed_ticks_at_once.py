"""Fifty ticks at once, some of them killed: one request is one commit, and nobody sees half of it.

The processes are forked from one that has imported everything and used none of it, so that fifty cost little more than
their work, and begin at the same moment.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.embed.jobs import ENCODER, embed, told
from tests.embed.polling import polled
from tests.embed.test_embed_killed import record
from xmae_dist.embed.backlog import View
from xmae_dist.embed.sweep import sweep
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table

FORKS = """
import os, sys, time, traceback
from tests.embed import jobs
from xmae_dist.embed import difference, tick
difference._MOST_RECORDINGS = 2
corpus, table, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
begin_s = time.time() + 0.5

def ticked():
    time.sleep(max(0.0, begin_s - time.time()))
    jobs.embed(corpus, table, "watch")
    # The real tick, which finds nothing to do and so needs no cluster.
    return tick.tick(corpus, jobs.ENCODER, table).state == "ok"

for _ in range(number):
    pid = os.fork()
    if pid == 0:
        try:
            status = 0 if ticked() else 9
        except BaseException:
            traceback.print_exc()
            status = 7
        os._exit(status)
    print(pid, flush=True)
sys.stdin.readline()
for _ in range(number):
    pid, status = os.wait()
    print(pid, os.waitstatus_to_exitcode(status), flush=True)
"""


def at_once(corpus: str, table: str, number: int, kills: int) -> dict[int, int]:
    """`number` ticks, of which `kills` are killed at moments of their own; the exit statuses by process."""
    command = [sys.executable, "-c", FORKS, corpus, table, str(number)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    forks = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert forks.stdin is not None and forks.stdout is not None
    pids = [int(forks.stdout.readline()) for _ in range(number)]
    moments = random.Random(number)
    for pid in pids[:kills]:
        time.sleep(moments.uniform(0.0, 1.0))
        os.kill(pid, signal.SIGKILL)  # one that has ended keeps its number until it is waited for
    forks.stdin.write("wait\n")
    forks.stdin.flush()
    statuses = {int(pid): int(status) for pid, status in (line.split() for line in forks.stdout)}
    assert forks.wait() == 0
    return statuses


def new_people(corpus: Corpus, table: str) -> tuple[list[dict[tuple[str, str, float], float]], str]:
    """A table with one request in it, then people who come and go: the states before and after, of an undisturbed
    run too, whose table is returned.
    """
    record(corpus, "a", {f"s{n}": 1 for n in range(4)})
    undisturbed = f"{table}-undisturbed"
    embed(corpus.url, table, "watch")
    embed(corpus.url, undisturbed, "watch")
    before = told(table)
    corpus.withdraw(["s0"])
    record(corpus, "b", {f"t{n}": 2 for n in range(8)})
    embed(corpus.url, undisturbed, "watch")
    return [before, told(undisturbed)], undisturbed


def requests_of(table: str) -> int:
    """Commits that carry a request."""
    return sum("request" in commit for commit in Table(table).history())


def check(corpus: Corpus, table: str, states: list[dict[tuple[str, str, float], float]]) -> None:
    embed(corpus.url, table, "watch")
    assert told(table) == states[1]
    assert requests_of(table) == 2, "the request of before, and one for all who came at once"
    assert View.of(corpus.url, table).behind(ENCODER) == []
    sweep(table, grace_s=0.0)
    assert told(table) == states[1]


def test_four_ticks_at_once(tmp_path: Path) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    states, _ = new_people(corpus, table)
    with polled(table, states):
        statuses = at_once(corpus.url, table, 4, kills=0)
    assert set(statuses.values()) == {0}
    check(corpus, table, states)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [0, 15])
def test_fifty_ticks_at_once(store_url: str, kills: int) -> None:
    corpus, table = Corpus.create(f"{store_url}/corpus"), f"{store_url}/table"
    states, _ = new_people(corpus, table)
    with polled(table, states, every_s=0.3):
        statuses = at_once(corpus.url, table, 50, kills=kills)
    killed = [status for status in statuses.values() if status == -signal.SIGKILL]
    assert set(statuses.values()) <= {0, -signal.SIGKILL} and len(killed) <= kills
    check(corpus, table, states)


@pytest.mark.slow
def test_fifty_ticks_at_once_with_nothing_new(store_url: str) -> None:
    corpus, table = Corpus.create(f"{store_url}/corpus"), f"{store_url}/table"
    record(corpus, "a", {f"s{n}": 1 for n in range(4)})
    embed(corpus.url, table, "watch")
    version = Table(table).version()
    assert set(at_once(corpus.url, table, 50, kills=0).values()) == {0}
    assert Table(table).version() == version
