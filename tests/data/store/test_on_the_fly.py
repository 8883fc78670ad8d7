"""Windows cut ahead of training instead of stored: the same plan, the same batches, bit for bit."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.corpora import corpus_of
from tests.data.store.test_window_store import CONFIG, plain_store
from tests.data.stream.test_stream import same
from xmae_dist.cli.main import main
from xmae_dist.core.errors import ConfigError, InputError, IntegrityError, StorageError
from xmae_dist.data.exchange.importing import import_shards
from xmae_dist.data.exchange.shards import export_shards
from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.data.store import part
from xmae_dist.data.store.materialise import materialise
from xmae_dist.data.store.window_store import WindowStore, _cut_reader
from xmae_dist.data.stream import direct
from xmae_dist.data.windows import cut_reader
from xmae_dist.data.windows.cut_reader import CUTS, Origin
from xmae_dist.evaluate.run import find_store
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.snapshot import array_reader
from xmae_dist.testing.local_cluster import local_cluster

LAZY = replace(CONFIG, on_the_fly=True)


@pytest.fixture
def lazy(tmp_path: Path) -> WindowStore:
    return plain_store(corpus_of(f"{tmp_path}/c", subjects=3), f"{tmp_path}/w", LAZY)


def test_batches_are_those_of_the_materialised_store(
    ray_local: None, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xmae_dist.data.stream import read_ahead

    monkeypatch.setattr(part, "_MIN_PART_WINDOWS", 30)
    corpus_of(f"{store_url}/c", subjects=4)
    corpus_of(f"{store_url}/c", subjects=3, cohort="watch")
    stored, lazy = (materialise(f"{store_url}/c", f"{store_url}/w", config) for config in (CONFIG, LAZY))
    order = OrderConfig(seed=3, global_batch=12)
    plan = plan_for(stored, order)
    assert plan_for(lazy, order).fingerprint() == plan.fingerprint()
    for split in ("train", "val", "test"):
        assert lazy.meta(split).equals(stored.meta(split))
    reference = list(direct.step_batches(stored, plan, start_step=5, stop_step=30, world=2, rank=1))
    for config in (read_ahead.StreamConfig(readers=1), read_ahead.StreamConfig(readers=3, read_cpus=1, leg_blocks=1)):
        ours = list(read_ahead.step_batches(lazy, plan, start_step=5, stop_step=30, world=2, rank=1, config=config))
        assert same(ours, reference)
    arrays = [one.url for one in uri.list_details(lazy.url) if "/ppg/" in one.url or "/ecg/" in one.url]
    assert arrays == []


def test_what_was_withdrawn_is_not_cut(lazy: WindowStore) -> None:
    corpus = Corpus.open(lazy.document["corpus"])
    corpus.withdraw(["bench-s00"])
    with pytest.raises(InputError, match="withdrawn since"):
        WindowStore.open(lazy.url)
    assert "bench-s00" not in corpus.snapshot().subjects().to_pylist()


def copied_elsewhere(lazy: WindowStore, tmp_path: Path) -> tuple[Corpus, bytes]:
    """The corpus at another place, and the bytes of all windows as they were."""
    before = windows_of(lazy)
    shutil.move(tmp_path / "c", tmp_path / "moved")
    for cached in (_cut_reader, cut_reader._cohort_table, array_reader):
        cached.cache_clear()
    return Corpus.open(f"{tmp_path}/moved"), before


def windows_of(store: WindowStore) -> bytes:
    return b"".join(
        signal_BL.tobytes() for signal_BL in store.read(np.arange(store.n_windows)) if signal_BL is not None
    )


def test_after_a_move_the_corpus_of_the_caller_counts(lazy: WindowStore, tmp_path: Path, ray_local: None) -> None:
    corpus, before = copied_elsewhere(lazy, tmp_path)
    with pytest.raises(StorageError, match="no corpus there"):
        WindowStore.open(lazy.url)
    corpus_of(f"{tmp_path}/c", subjects=3, duration_s=80.0)  # another one lies where it was
    with pytest.raises(InputError, match=r"cohort bench.*were counted in.*--corpus"):
        WindowStore.open(lazy.url)
    found = materialise(corpus.url, f"{tmp_path}/w", LAZY)
    assert found.url == lazy.url and windows_of(found) == before
    assert windows_of(pickle.loads(pickle.dumps(found))) == before, "as readers on other nodes get it"
    chosen = find_store(f"{tmp_path}/w", corpus_url=corpus.url, spec=LAZY.spec)
    assert chosen.url == lazy.url and windows_of(chosen) == before
    export = ["export-shards", "--windows", lazy.url, "--out", f"{tmp_path}/tar"]
    assert main(export) == 2 and main([*export, "--corpus", corpus.url]) == 0
    assert main(["plan", "show", "--windows", lazy.url, "--global-batch", "4", "--json"]) == 0, "reads no window"


def test_a_corpus_made_anew_gives_the_same_windows_from_wherever_it_keeps_them(
    lazy: WindowStore, tmp_path: Path, ray_local: None
) -> None:
    before = windows_of(lazy)
    old = Corpus.open(f"{tmp_path}/c")
    anew = Corpus.create(f"{tmp_path}/anew")
    with anew.begin_part("bench", "other-part") as part_writer:
        rows = []
        for row in reversed(old.snapshot().rows()):  # other offsets, other arrays
            channel = part_writer.channel(row.channel, dtype=np.float32, rate_hz=row.rate_hz, unit=row.unit)
            raw = old.snapshot().reader(row).read(row.offset, row.offset + row.length)
            named = {"subject_id": row.subject_id, "recording_id": row.recording_id, "clock_id": row.clock_id}
            rows.append(channel.add(raw, **named, labels=dict(row.labels), label_text=dict(row.label_text)))
    anew.commit_part(rows, "copy")
    assert anew.snapshot().fingerprint == old.snapshot().fingerprint
    shutil.rmtree(tmp_path / "c")
    found = materialise(anew.url, f"{tmp_path}/w", LAZY)
    assert found.url == lazy.url and windows_of(found) == before


def test_a_recording_that_is_another_now_is_not_cut(lazy: WindowStore, tmp_path: Path) -> None:
    other = corpus_of(f"{tmp_path}/other", subjects=3, duration_s=70.0)
    moved = WindowStore.open(lazy.url, origin=Origin(other.url, other.snapshot().version), check_origin=False)
    with pytest.raises(InputError, match=r"recording bench/bench-s00-r0, channel ecg: got another"):
        moved.read(np.arange(moved.n_windows))


def test_recordings_that_give_other_windows_stop_the_reader(lazy: WindowStore) -> None:
    """As another version of the cleaning would."""
    cuts = next(one.url for one in uri.list_details(lazy.url) if one.url.endswith(CUTS))
    document = json.loads(uri.read_bytes(cuts))
    document["spans"][0][2] += 1
    uri.write_bytes(cuts, json.dumps(document).encode())
    _cut_reader.cache_clear()
    with pytest.raises(IntegrityError, match="as counted for"):
        lazy.read(np.arange(lazy.n_windows))


def test_shards_are_the_same(lazy: WindowStore, tmp_path: Path) -> None:
    stored = plain_store(Corpus.open(f"{tmp_path}/c"), f"{tmp_path}/w")
    export_shards(lazy, f"{tmp_path}/tar", shard_windows=50)
    back = import_shards(f"{tmp_path}/tar", f"{tmp_path}/back")
    assert not back.on_the_fly
    ids = np.arange(stored.n_windows)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(back.read(ids), stored.read(ids), strict=True))


def test_a_label_is_a_key_and_a_value() -> None:
    from xmae_dist.data.stream.read_ahead import StreamConfig

    assert StreamConfig(read_label="role=reader").label_selector == {"role": "reader"}
    assert StreamConfig().label_selector is None
    for label in ("role", "=reader", "role="):
        with pytest.raises(ConfigError, match="read_label"):
            StreamConfig(read_label=label)


# Notes the nodes on which it reads, which are to be the one with the label.
DRIVER = """
import os, sys
from dataclasses import dataclass
import ray
from xmae_dist.data.stream import read_ahead
from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.data.store.window_store import WindowStore

url, folder, address = sys.argv[1:]
ray.init(address=address, log_to_driver=False)


@dataclass
class Noting:
    store: WindowStore

    @property
    def spec(self):
        return self.store.spec

    def read(self, ids_B):
        open(f"{folder}/{ray.get_runtime_context().get_node_id()}", "w").close()
        return self.store.read(ids_B)


store = WindowStore.open(url)
node = sorted(one["NodeID"] for one in ray.nodes())[0]
config = read_ahead.StreamConfig(readers=2, read_cpus=1, read_label=f"ray.io/node-id={node}")
plan = plan_for(store, OrderConfig(global_batch=6))
steps = list(read_ahead.step_batches(Noting(store), plan, stop_step=12, config=config))
print(len(steps), node)
"""


@pytest.mark.slow
def test_cutting_runs_on_the_nodes_it_is_sent_to(tmp_path: Path) -> None:
    store = plain_store(corpus_of(f"{tmp_path}/c", subjects=2), f"{tmp_path}/w", LAZY)
    here = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])}
    (tmp_path / "nodes").mkdir()
    with local_cluster(raylets=3, num_cpus=2, environment=here) as cluster:
        driver = subprocess.run(
            [sys.executable, "-c", DRIVER, store.url, str(tmp_path / "nodes"), cluster.gcs_address],
            env={**os.environ, **here, **cluster.environment(), "RAY_ADDRESS": cluster.gcs_address},
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert driver.returncode == 0, driver.stderr
    steps, node = driver.stdout.split()
    assert steps == "12"
    assert os.listdir(tmp_path / "nodes") == [node]
