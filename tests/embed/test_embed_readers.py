"""The table opens without us: with Arrow, and after delta-rs has compacted and checkpointed it."""

from __future__ import annotations

import json
from pathlib import Path

from deltalake import DeltaTable

from tests.embed.jobs import embed, told
from tests.embed.test_embed_killed import record
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table


def test_other_readers_and_writers(tmp_path: Path) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    record(corpus, "a", {"s0": 1, "s1": 1, "s2": 1})
    embed(corpus.url, table, "watch")
    corpus.withdraw(["s0"])
    record(corpus, "b", {"s3": 2})
    embed(corpus.url, table, "watch")
    rows = told(table)
    other = DeltaTable(f"{tmp_path}/table")
    found = other.to_pyarrow_table(columns=["recording_id", "start_s", "embedding", "cohort"]).to_pylist()
    assert {(r["cohort"], r["recording_id"], r["start_s"]): r["embedding"][0] for r in found} == rows
    assert other.to_pyarrow_table(filters=[("recording_id", "=", "s3")]).num_rows == 2
    assert (other.protocol().min_reader_version, other.protocol().min_writer_version) == (1, 2)

    other.create_checkpoint()
    DeltaTable(f"{tmp_path}/table").optimize.compact()
    assert told(table) == rows
    corpus.withdraw(["s3"])
    done = embed(corpus.url, table, "watch")
    assert done is not None and done.withdrawn == 1
    assert {key[1] for key in told(table)} == {"s1", "s2"}


def test_statistics_in_the_log_are_those_of_the_rows(tmp_path: Path) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    record(corpus, "a", {"s0": 1, "s1": 1})
    embed(corpus.url, table, "watch")
    entry = Path(f"{tmp_path}/table/_delta_log/{1:020d}.json").read_text().splitlines()
    (add,) = [one["add"] for one in map(json.loads, entry) if "add" in one]
    stats = json.loads(add["stats"])
    assert stats["numRecords"] == 4 and add["partitionValues"] == {"model_id": "model", "cohort": "watch"}
    assert (stats["minValues"]["recording_id"], stats["maxValues"]["recording_id"]) == ("s0", "s1")
    assert (stats["minValues"]["start_s"], stats["maxValues"]["start_s"]) == (0.0, 10.0)
    assert stats["nullCount"]["start_time_ns"] == 4 and "start_time_ns" not in stats["minValues"]
    newest = Table(table).newest()
    assert newest is not None and newest.files({"cohort": "watch"})["size_bytes"].to_pylist() == [add["size"]]
    assert newest.files({"cohort": "another"}).num_rows == 0
