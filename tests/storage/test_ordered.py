"""Rows in order from sorted runs, whatever the sizes of runs and batches."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmae_dist.storage import ordered
from xmae_dist.storage.ordered import Runs

names = st.text(alphabet="abµ𝄞", max_size=3)


@given(
    rows=st.lists(st.tuples(names, st.integers(-3, 3)), max_size=60),
    run_rows=st.integers(1, 20),
    batch_rows=st.integers(1, 7),
    given_rows=st.integers(1, 9),
    in_order=st.booleans(),
    turned=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_a_stream_comes_back_sorted(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, int]],
    run_rows: int,
    batch_rows: int,
    given_rows: int,
    in_order: bool,
    turned: bool,
) -> None:
    rows = sorted(rows) if in_order else rows  # then batches are sorted at most
    columns = {
        "name": pa.array([row[0] for row in rows], pa.string()),
        "at": pa.array([row[1] for row in rows], pa.int64()),
    }
    table = pa.table({**columns, "place": pa.array(range(len(rows)), pa.int64())})
    with pytest.MonkeyPatch.context() as small:
        small.setattr(ordered, "RUN_ROWS", run_rows)
        small.setattr(ordered, "BATCH_ROWS", batch_rows)
        folder = tmp_path_factory.mktemp("runs")
        given = table.to_batches(max_chunksize=given_rows)
        if turned:
            given.reverse()
        nothing = pa.RecordBatch.from_pylist([], table.schema)
        batches = list(Runs([nothing, *given, nothing], ["name", "at"], str(folder)))
    found = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
    assert [row[:2] for row in found] == sorted(rows)
    assert sorted(row[2] for row in found) == list(range(len(rows))), "each row once, with its other columns"
    assert all(batch.num_rows for batch in batches)


def test_one_run_stays_in_memory_and_more_go_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "RUN_ROWS", 100)
    batches = pa.table({"key": [f"{at * 37 % 250:04d}" for at in range(250)]}).to_batches(max_chunksize=50)
    Runs(batches[:2], ["key"], str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    runs = Runs(batches, ["key"], str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.arrow", "1.arrow"]
    assert [key for batch in runs for key in batch["key"].to_pylist()] == [f"{at:04d}" for at in range(250)]
