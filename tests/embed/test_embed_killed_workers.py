"""Encoding processes, and whole machines of the cluster, are killed in the middle of a request: the table is as if
nothing had happened.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.signals.synthetic import beat_times, ppg_at
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed.backlog import View
from xmae_dist.embed.request import read_encoder
from xmae_dist.model import bundle, presets
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table
from xmae_dist.testing.local_cluster import LocalCluster, local_cluster

RECORDINGS = 36
DURATION_S = 400.0

# A recording a batch, so that a request has as many pieces.
DRIVER = """
import sys
from xmae_dist.embed import difference
from xmae_dist.embed.pipeline import Resources, embed_cohort
from xmae_dist.embed.request import read_encoder
difference._MOST_RECORDINGS = 1
corpus, bundle, table = sys.argv[1:]
print(embed_cohort(corpus, read_encoder(bundle), table, "ring", Resources(max_actors=2)))
"""


@pytest.fixture
def stores(tmp_path: Path) -> tuple[str, str]:
    """A corpus whose recordings lie in parts of their own, and a bundle."""
    corpus = Corpus.create(f"file://{tmp_path}/corpus")
    rows = []
    t_T = np.arange(0, DURATION_S, 1 / 64)
    for number in range(RECORDINGS):
        with corpus.begin_part("ring", f"p{number}") as part:
            ppg = part.channel("ppg", dtype=np.float32, rate_hz=64.0, unit="nu")
            wave = ppg_at(t_T, beat_times(DURATION_S, bpm=55 + number, seed=number)).astype(np.float32)
            name = f"r{number:02d}"
            rows.append(ppg.add(wave, subject_id=f"s{number:02d}", recording_id=name, clock_id=name))
    corpus.commit_part(rows, "all")
    bundle_url = f"file://{tmp_path}/bundle"
    bundle.save(bundle_url, presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={"origin": "test"})
    return corpus.url, bundle_url


def rows_of(table: str) -> list[tuple[object, ...]]:
    """The multiset of rows, every number to its last bit."""
    found = Table(table).read().to_pylist()
    return sorted(
        (*(row[name] for name in ("subject_id", "recording_id", "start_s", "quality", "model_id", "spec_id")),
         np.float32(row["embedding"]).tobytes())
        for row in found
    )  # fmt: skip


def finished(table: str) -> int:
    """How many batches of the request that is under way have left their facts."""
    return sum("/done/" in url for url in uri.list_urls(f"{table}/_staging", recursive=True))


def embedded(
    cluster: LocalCluster, words: tuple[str, str, str], log: Path, disturb: Callable[[], Iterator[int]]
) -> str:
    """A request on the cluster; whenever as many batches are finished as `disturb` says next, it does something."""
    environment = {**cluster.base_environment, **cluster.environment(), "RAY_ADDRESS": cluster.gcs_address}
    table = words[2]
    with open(log, "wb") as out:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *words], stdout=out, stderr=subprocess.STDOUT, env=environment
        )
    disturbing, rows_seen = disturb(), set()
    wanted = next(disturbing, None)
    try:
        while driver.poll() is None:
            if wanted is not None and finished(table) >= wanted:
                wanted = next(disturbing, None)
            if Table(table).exists():
                rows_seen.add(len(Table(table).read(columns=["start_s"])))
            time.sleep(0.1)
    finally:
        driver.kill()
    assert driver.returncode == 0, log.read_text()[-3000:]
    assert wanted is None, f"the request ended before {wanted} of its batches were seen"
    assert len(rows_seen - {0}) <= 1, "part of a request was seen"
    return table


def encoders(cluster: LocalCluster) -> list[int]:
    """Process ids of the actors that encode."""
    return [
        one["pid"] for one in cluster.state("actors") if one["state"] == "ALIVE" and "MapWorker" in one["class_name"]
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_lost_actors_and_lost_machines_change_nothing(tmp_path: Path, stores: tuple[str, str]) -> None:
    killed: list[object] = []

    def nothing() -> Iterator[int]:
        return iter(())

    def actors() -> Iterator[int]:
        for at in (2, 8, 14, 20):
            yield at
            for pid in encoders(cluster):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    def machines() -> Iterator[int]:
        yield 4
        os.killpg(nodes[0].pid, signal.SIGKILL)
        killed.append(nodes[0])

    with local_cluster(raylets=1, num_cpus=0, object_store_mib=150) as cluster:
        nodes = [cluster.add_node(num_cpus=1, object_store_mib=150) for _ in range(2)]
        tables = {
            name: embedded(cluster, (*stores, f"file://{tmp_path}/{name}"), tmp_path / f"{name}.log", disturb)
            for name, disturb in {"undisturbed": nothing, "actors": actors, "machines": machines}.items()
        }
    whole = rows_of(tables["undisturbed"])
    assert len({row[1] for row in whole}) == RECORDINGS and len(killed) >= 5
    for name in ("actors", "machines"):
        assert rows_of(tables[name]) == whole, name
        assert View.of(stores[0], tables[name]).behind(read_encoder(stores[1])) == []
