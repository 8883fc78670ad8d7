"""A store that misbehaves while a request is made and a vacuum runs beside: it costs time, never a row.

Job and vacuum are processes that reach the store through a proxy which loses, refuses and cuts answers; the reader that
polls has the store itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.embed.jobs import ENCODER, embed, told
from tests.embed.polling import State, polled
from tests.embed.test_embed_killed import record
from xmae_dist.embed.backlog import View
from xmae_dist.storage.corpus import Corpus
from xmae_dist.testing.flaky_s3 import FlakyS3, Rule, flaky_s3
from xmae_dist.testing.s3_server import S3Server

JOBS = """
import sys
from tests.embed import jobs
from xmae_dist.core.errors import XmaeError
from xmae_dist.embed import difference
difference._MOST_RECORDINGS = 2
print("ready", flush=True)
for _ in sys.stdin:
    try:
        jobs.embed(sys.argv[1], sys.argv[2], "watch")
        print("done", flush=True)
    except XmaeError as error:
        print("failed:", repr(str(error)), flush=True)  # what delta-rs says has several lines
"""
VACUUM = """
import sys, threading
from xmae_dist.core.errors import XmaeError
from xmae_dist.embed.sweep import sweep
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
rounds = failed = 0
while not ended.wait(0.2):
    try:
        sweep(sys.argv[1], grace_s=float(sys.argv[2]))
        rounds += 1
    except XmaeError:
        failed += 1
print(rounds, failed)
"""
KINDS = [("busy", 6), ("reset", 8), ("lost", 8), ("cut", 8)]
TICKS = 12
LONG_S = 600.0
"""No try goes so long without finishing a batch."""


@contextmanager
def process(program: str, *words: str, endpoint: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", program, *words]
    environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def is_up_to_date(job: subprocess.Popen[str], corpus: str, table: str) -> bool:
    """Asks for tick after tick, as a scheduler would; whether some were enough."""
    assert job.stdin is not None and job.stdout is not None
    for _ in range(TICKS):
        job.stdin.write("tick\n")
        job.stdin.flush()
        said = job.stdout.readline()
        assert said.split(":")[0].strip() in ("done", "failed"), (said, job.poll())
        if not View.of(corpus, table).behind(ENCODER):
            return True
    return False


def arrivals(corpus: Corpus, undisturbed: str, number: int) -> State:
    """More people come and one goes; what the table is to be after that, by a run of its own."""
    corpus.withdraw([f"p{number}-s0"])
    record(corpus, f"b{number}", {f"p{number + 1}-s{n}": number + 2 for n in range(6)})
    embed(corpus.url, undisturbed, "watch")
    return told(undisturbed)


def made_under_faults(s3: S3Server, proxy: FlakyS3, kinds: list[tuple[str, int]], grace_s: float) -> None:
    corpus, table = Corpus.create(f"{s3.bucket_url()}/corpus"), f"{s3.bucket_url()}/table"
    undisturbed = f"{s3.bucket_url()}/undisturbed"
    record(corpus, "a", {f"p0-s{n}": 1 for n in range(4)})
    embed(corpus.url, table, "watch")
    embed(corpus.url, undisturbed, "watch")
    with (
        process(JOBS, corpus.url, table, endpoint=proxy.endpoint_url) as job,
        process(VACUUM, table, str(grace_s), endpoint=proxy.endpoint_url) as vacuum,
        polled(table, [told(table)], every_s=0.2, patient=True) as reader,
    ):
        assert job.stdout is not None and job.stdout.readline() == "ready\n"
        for number, (kind, every) in enumerate(kinds):
            proxy.follow(Rule(kind="right", methods=()))
            reader.states.append(arrivals(corpus, undisturbed, number))
            proxy.follow(Rule(kind=kind, every=every))
            done = is_up_to_date(job, corpus.url, table)
            assert proxy.did()[kind] >= 3
            if not done:  # each try was swept before it came to its end: then once nothing holds it up
                assert grace_s < LONG_S, f"behind after {TICKS} ticks"
                proxy.follow(Rule(kind="right", methods=()))
                assert is_up_to_date(job, corpus.url, table), "behind though the store answers"
            assert told(table) == reader.states[-1]
        proxy.follow(Rule(kind="right", methods=()))
        rounds, _ = map(int, vacuum.communicate()[0].split())
        assert rounds >= 1, "no vacuum came to its end"


@pytest.mark.slow
def test_refused_requests_beside_a_vacuum(s3: S3Server) -> None:
    with flaky_s3(s3.endpoint_url) as proxy:
        made_under_faults(s3, proxy, KINDS[:1], grace_s=LONG_S)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("grace_s", [LONG_S, 3.0])
def test_every_fault_beside_a_vacuum(s3: S3Server, grace_s: float) -> None:
    """With a grace period so short that the vacuum also takes what a slow job had finished: it begins again."""
    with flaky_s3(s3.endpoint_url) as proxy:
        made_under_faults(s3, proxy, KINDS, grace_s=grace_s)
