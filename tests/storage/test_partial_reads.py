"""Reading no more than is needed: columns of Parquet objects, chunks whose places are known, caches by bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from xmae_dist.core.errors import IntegrityError, StorageError
from xmae_dist.storage import parquet, shard_reader, uri
from xmae_dist.storage.shard_reader import Layout
from xmae_dist.storage.sized_cache import SizedCache
from xmae_dist.storage.zarr_store import WindowArrayReader, WindowArrayWriter


@pytest.fixture(scope="module")
def table() -> pa.Table:
    rng = np.random.default_rng(0)
    n = 40_000
    return pa.table(
        {
            "name": [f"s{row // 100}" for row in range(n)],
            "noise": rng.random(n),
            "labels": pa.array([[("age", float(row))] for row in range(n)], pa.map_(pa.string(), pa.float64())),
            "more_noise": rng.random(n),
        }
    ).replace_schema_metadata({"kept": "beside"})


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each ranged read."""
    sizes: list[int] = []
    read_ranges = uri.read_ranges

    def noted(url: str, starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
        found = read_ranges(url, starts, stops)
        sizes.extend(map(len, found))
        return found

    monkeypatch.setattr(uri, "read_ranges", noted)
    return sizes


@pytest.mark.parametrize("columns", [["name"], ["labels", "name"], ["noise"], [], None])
def test_columns_come_without_the_others(
    table: pa.Table, columns: list[str] | None, store_url: str, fetched: list[int]
) -> None:
    url, data = f"{store_url}/rows.parquet", parquet.encode(table)
    uri.write_bytes(url, data)
    found = parquet.read_columns(url, columns, size=len(data))
    in_order = [name for name in table.column_names if columns is None or name in columns]
    assert found.equals(table.select(in_order)) and found.schema.metadata == {b"kept": b"beside"}
    assert found.num_rows == table.num_rows and len(fetched) <= 2
    if columns == ["name"]:
        assert sum(fetched) < len(data) / 4
    assert parquet.read_columns(url, columns).equals(found), "of an object whose size is not known"


def test_an_object_that_is_cut_short_or_not_there_is_named(table: pa.Table, tmp_path: Path) -> None:
    data = parquet.encode(table)
    for kept in (100, len(data) // 2, len(data) - 1):
        uri.write_bytes(f"{tmp_path}/torn.parquet", data[:kept])
        for size in (None, len(data)):
            with pytest.raises(IntegrityError, match=r"torn\.parquet"):
                parquet.read_columns(f"{tmp_path}/torn.parquet", ["name"], size=size)
    with pytest.raises(StorageError, match="nothing"):
        parquet.read_columns(f"{tmp_path}/nothing", ["name"])


def test_chunks_are_read_by_a_layout_as_by_the_index(tmp_path: Path, fetched: list[int]) -> None:
    windows_BCL = np.random.default_rng(0).random((77, 1, 50)).astype(np.float16)
    writer = WindowArrayWriter(f"{tmp_path}/a", channels=1, length=50, chunk_windows=8, shard_windows=24)
    writer.append(windows_BCL)
    chunk_bytes = np.array(writer.close().chunk_bytes)
    plain = WindowArrayReader(f"{tmp_path}/a")
    assert plain.chunk_bytes().tolist() == chunk_bytes.tolist() and len(chunk_bytes) == 10
    layout = Layout(shape=(77, 1, 50), dtype=np.dtype(np.float16), chunk_rows=8, shard_rows=24, chunk_bytes=chunk_bytes)
    told = WindowArrayReader(f"{tmp_path}/a", kept_chunks=0, layout=layout)
    chosen = np.array([76, 0, 30, 31, 5, 50])
    fetched.clear()
    assert np.array_equal(told.gather(chosen), windows_BCL[chosen]) and len(fetched) == 4
    wrong = Layout(
        shape=(77, 1, 50), dtype=np.dtype(np.float16), chunk_rows=8, shard_rows=24, chunk_bytes=chunk_bytes + 1
    )
    with pytest.raises(IntegrityError, match="array a, chunk 0"):
        WindowArrayReader(f"{tmp_path}/a", layout=wrong).gather(chosen)


def test_small_gaps_are_read_over_where_a_request_costs_more(
    store_url: str, fetched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    windows_BCL = np.random.default_rng(0).integers(0, 2**14, (320, 1, 500)).astype(np.uint16).view(np.float16)
    writer = WindowArrayWriter(f"{store_url}/a", channels=1, length=500, chunk_windows=8, shard_windows=320)
    writer.append(windows_BCL)
    chunk_bytes = writer.close().chunk_bytes
    chosen = np.array([3, 17, 80, 310])  # chunks 0, 2, 10 and 38
    monkeypatch.setattr(shard_reader, "_GAP_BYTES", 10 * max(chunk_bytes))
    fetched.clear()
    assert np.array_equal(WindowArrayReader(f"{store_url}/a").gather(chosen), windows_BCL[chosen])
    far = store_url.startswith("s3://")
    assert fetched[1:] == (
        [sum(chunk_bytes[:11]), chunk_bytes[38]] if far else [chunk_bytes[at] for at in (0, 2, 10, 38)]
    )
    monkeypatch.setattr(shard_reader, "_GAPS_BYTES", 2 * max(chunk_bytes))  # of all gaps together
    fetched.clear()
    assert np.array_equal(WindowArrayReader(f"{store_url}/a").gather(chosen), windows_BCL[chosen])
    assert len(fetched) == (4 if far else 5)


def test_a_cache_keeps_what_was_used_last_up_to_its_bytes() -> None:
    made: list[str] = []
    cache: SizedCache[str] = SizedCache(10, len)

    def ask(text: str) -> None:
        assert cache.get(text, lambda: made.append(text) or text) == text  # type: ignore[func-returns-value]

    for text in ("aaaa", "bbbb", "aaaa", "cc"):
        ask(text)
    assert made == ["aaaa", "bbbb", "cc"]
    ask("dddd")  # 14 bytes: what was used longest ago goes
    assert made == ["aaaa", "bbbb", "cc", "dddd"]
    for text in ("aaaa", "cc", "dddd"):
        ask(text)
    assert len(made) == 4
    ask("bbbb")
    assert len(made) == 5
    ask("e" * 100)
    ask("e" * 100)
    assert len(made) == 6, "one thing that is larger than all is kept alone"
