"""What the log of a table says of values in files that are gone, and that nothing else of it changes."""

from __future__ import annotations

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from xmae_dist.storage import parquet, uri
from xmae_dist.storage.log_erasure import forget_files
from xmae_dist.storage.sweep import vacuum_table
from xmae_dist.storage.table import Table, sql_of

SCHEMA = pa.schema([("who", pa.string()), ("cohort", pa.string()), ("n", pa.int64())])
GONE = "person-03"


@pytest.fixture
def table(store_url: str) -> Table:
    """Twenty people in a file each, in cohorts whose names the log quotes; one of them deleted, three checkpoints."""
    table = Table(f"{store_url}/table")
    table.create(SCHEMA, partition_by=["cohort"])
    for n in range(20):
        rows = {"who": [f"person-{n:02d}"], "cohort": [f"ring ü {n % 2}"], "n": [n]}
        table.append(pa.table(rows, SCHEMA), metadata={"note": f"of {n}"})
        if n == 12:
            table.delete(sql_of([("who", "in", [GONE])]))
    return table


def log_objects_with(table: Table, name: str) -> list[str]:
    found = []
    for url in uri.list_urls(uri.join(table.url, "_delta_log")):
        data = uri.read_bytes(url)
        told = str(parquet.decode(data).to_pylist()).encode() if url.endswith(".parquet") else data
        found += [url.rsplit("/", 1)[-1]] if name.encode() in told else []
    return found


def versions(table: Table) -> list[tuple[list[str], object]]:
    """The files and the note of each version."""
    notes = {one.version: one.info.get("note") for one in table.commits()}
    return [(sorted(table.at(v).files()["path"].to_pylist()), notes[v]) for v in range(table.version() + 1)]


def test_a_vacuum_takes_names_out_of_entries_predicates_and_checkpoints(table: Table) -> None:
    assert log_objects_with(table, GONE) == [
        "00000000000000000004.json",
        "00000000000000000010.checkpoint.parquet",
        "00000000000000000014.json",
    ]
    before, others = versions(table), {n: log_objects_with(table, f"person-{n:02d}") for n in (2, 15)}
    rows = table.read().sort_by("n")
    assert vacuum_table(table, grace_s=0.0, dry_run=True) == 1
    assert len(log_objects_with(table, GONE)) == 3, "a dry run changes nothing"
    assert vacuum_table(table, grace_s=0.0) == 1
    assert log_objects_with(table, GONE) == []
    assert versions(table)[: len(before)] == before
    assert table.read().sort_by("n") == rows
    for n, there in others.items():
        assert set(there) <= set(log_objects_with(table, f"person-{n:02d}")), "statistics of files that are there stay"
    assert table.at(5).files()["num_records"].to_pylist() == [1] * 5


def test_an_interrupted_call_is_made_again(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def dies(url: str, data: bytes) -> None:
        written.append(url)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(url, data)

    write = uri.write_bytes
    monkeypatch.setattr(uri, "write_bytes", dies)
    with pytest.raises(KeyboardInterrupt):
        vacuum_table(table, grace_s=0.0)
    monkeypatch.setattr(uri, "write_bytes", write)
    assert log_objects_with(table, GONE) and vacuum_table(table, grace_s=0.0) == 1
    assert log_objects_with(table, GONE) == []


def test_files_that_went_before_are_forgotten_when_all_is_looked_at(table: Table) -> None:
    DeltaTable(table.url, storage_options=uri.delta_options(table.url)).vacuum(
        retention_hours=0, enforce_retention_duration=False, dry_run=False
    )
    assert forget_files(table, ()) == 0 and len(log_objects_with(table, GONE)) == 3
    assert forget_files(table, (), everywhere=True) == 3
    assert log_objects_with(table, GONE) == []
    assert forget_files(table, (), everywhere=True) == 0
    assert table.append(pa.table({"who": ["a"], "cohort": ["b"], "n": [1]}, SCHEMA)) is not None
    assert len(table.read()) == 20
