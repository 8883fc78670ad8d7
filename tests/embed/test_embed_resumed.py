"""A job that was killed when nine tenths were done reads little of its input again, with as many actors or others."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.signals.synthetic import beat_times, ppg_at
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.model import bundle, presets
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table
from xmae_dist.testing.s3_server import S3Server, serve_s3

RECORDINGS = 20
DONE = 18

# A recording a batch. With a number, the driver is killed when so many batches have come back.
DRIVER = """
import os, signal, sys
from xmae_dist.embed import difference, pipeline
from xmae_dist.embed.request import read_encoder
difference._MOST_RECORDINGS = 1
corpus, bundle, table = sys.argv[1:4]
actors, dies_at = int(sys.argv[4]), int(sys.argv[5])
encoded = pipeline._encoded
def dying(*args):
    for number, facts in enumerate(encoded(*args), 1):
        if number == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        yield facts
pipeline._encoded = dying
print(pipeline.embed_cohort(corpus, read_encoder(bundle), table, "ring", pipeline.Resources(max_actors=actors)))
"""


def stores(url: str) -> tuple[str, str]:
    """A corpus with each recording in arrays of its own, so that requests tell what is read; and a bundle."""
    corpus = Corpus.create(f"{url}/corpus")
    t_T = np.arange(0, 60, 1 / 64)
    rows = []
    for number in range(RECORDINGS):
        with corpus.begin_part("ring", f"p{number}") as part:
            ppg = part.channel("ppg", dtype=np.float32, rate_hz=64.0, unit="nu")
            wave = ppg_at(t_T, beat_times(60, bpm=55 + number, seed=number)).astype(np.float32)
            name = f"r{number:02d}"
            rows.append(ppg.add(wave, subject_id=f"s{number:02d}", recording_id=name, clock_id=name))
    corpus.commit_part(rows, "all")
    bundle.save(f"{url}/bundle", presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={"origin": "test"})
    return corpus.url, f"{url}/bundle"


def job(words: tuple[str, str, str], *, actors: int, dies_at: int = 0) -> int:
    command = [sys.executable, "-c", DRIVER, *words, str(actors), str(dies_at)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(command, env={**environment, "OMP_NUM_THREADS": "1"}).returncode


def input_requests(server: S3Server) -> int:
    """Requests for signals that the server has answered."""
    assert server.log is not None
    return len(re.findall(rb"GET \S*/corpus/signals/\S* HTTP", server.log.read_bytes()))


def finished(table: str) -> list[str]:
    """Facts of finished batches, once nobody adds to them any more."""
    before: list[str] | None = None
    while True:
        facts = [url for url in uri.list_urls(f"{table}/_staging", recursive=True) if "/done/" in url]
        if facts == before:
            return facts
        before = facts
        time.sleep(3)


def undo_all_but(table: str, done: int) -> None:
    """Leaves `done` batches finished: how many others the actors finished before they noticed is up to chance."""
    facts = finished(table)
    assert len(facts) >= done
    for url in facts[done:]:
        uri.delete(url)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_little_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_s3(log=tmp_path / "requests.log") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        corpus, bundle_url = stores(server.bucket_url())
        whole = f"{server.bucket_url()}/table"
        before = input_requests(server)
        assert job((corpus, bundle_url, whole), actors=2) == 0
        all_of_it = input_requests(server) - before
        assert all_of_it >= RECORDINGS

        dead, another = f"{server.bucket_url()}/table", f"{server.bucket_url()}/table"
        assert job((corpus, bundle_url, dead), actors=2, dies_at=DONE) == -signal.SIGKILL
        undo_all_but(dead, DONE)
        for url in uri.list_urls(dead, recursive=True):
            uri.write_bytes(another + url.removeprefix(dead), uri.read_bytes(url))
        for table, actors in ((dead, 2), (another, 1)):
            before = input_requests(server)
            assert job((corpus, bundle_url, table), actors=actors) == 0
            again = input_requests(server) - before
            assert 0 < again <= 0.15 * all_of_it, (again, all_of_it)
            assert rows_of(table) == rows_of(whole)


def rows_of(table: str) -> list[tuple[object, ...]]:
    found = Table(table).read(columns=["recording_id", "start_s", "embedding"]).to_pylist()
    return sorted((row["recording_id"], row["start_s"], np.float32(row["embedding"]).tobytes()) for row in found)
