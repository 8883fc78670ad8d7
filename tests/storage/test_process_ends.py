"""A command's process ends as the command does: nothing of Arrow's is still letting go of Python memory by then.

`bench/exits.py` counts how processes end; here the cause is looked for, which shows on any machine and at once.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from xmae_dist.core.errors import IntegrityError, StorageError
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.table import Table

ROOT = Path(__file__).resolve().parents[2]
ROWS = pa.table({"name": ["a", "b"] * 500, "value": list(range(1000))})

# Threads of delta-rs's runtime and of the allocator never ask for the interpreter, and have names of their own; any
# other thread that reading leaves behind is Arrow's.
_COUNTED = """
import os, sys
import pyarrow as pa, pyarrow.parquet
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.table import Table

def threads():
    names = []
    for task in os.listdir("/proc/self/task"):
        try:
            names.append(open(f"/proc/self/task/{task}/comm").read().strip())
        except OSError:
            pass  # it has ended
    return [name for name in names if not name.startswith(("tokio", "jemalloc"))]

before = threads()
{read}
print(len(rows), sorted(threads()) == sorted(before), flush=True)
"""
_READS = {
    "table": "rows = Table(sys.argv[1]).read()",
    "filtered": "rows = Table(sys.argv[1]).read(columns=['value'], filters=[('name', 'in', ['a', 'b'])])",
    "arrow": "from deltalake import DeltaTable; rows = DeltaTable(sys.argv[1]).to_pyarrow_table()",
}


def _counted(read: str, url: str) -> str:
    script = _COUNTED.replace("{read}", _READS[read])
    done = subprocess.run([sys.executable, "-c", script, url], check=False, capture_output=True, text=True, cwd=ROOT)
    # The control may die of what it shows, after it has printed what it counted.
    assert done.returncode == 0 or (read == "arrow" and done.returncode < 0), done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("read", ["table", "filtered"])
def test_reading_a_table_leaves_no_thread_of_arrows(tmp_path: Path, read: str) -> None:
    url = f"file://{tmp_path}/t"
    for _ in range(3):
        Table(url).append(ROWS)
    assert _counted(read, url) == "3000 True"
    assert _counted("arrow", url) == "3000 False", "the count sees nothing: the control must leave threads behind"


def test_an_object_is_decoded_from_memory_that_python_does_not_own(monkeypatch: pytest.MonkeyPatch) -> None:
    data = parquet.encode(ROWS.replace_schema_metadata({"about": "this"}))
    owners: list[bool] = []

    class Watched(pa.parquet.ParquetFile):  # the real reader, which says what it was given
        def __init__(self, source: pa.BufferReader) -> None:
            buffer = source.read_buffer(source.size())
            source.seek(0)
            owners.append(buffer.parent.is_mutable)  # bytes of Python are not
            super().__init__(source)

    monkeypatch.setattr(parquet.pq, "ParquetFile", Watched)
    assert parquet.decode(data).equals(ROWS)
    assert parquet.decode(data, ["value"]).column_names == ["value"]
    assert parquet.metadata(data)[b"about"] == b"this"
    assert owners == [True] * 3


def test_parquet_is_read_in_one_place() -> None:
    elsewhere = re.compile(r"to_pyarrow_(table|dataset)|pyarrow\.dataset|\bpq\.|read_parquet")
    allowed = {"xmae_dist/storage/parquet.py"}
    found = [
        f"{file.relative_to(ROOT)}: {hit.group()}"
        for file in sorted((ROOT / "xmae_dist").rglob("*.py"))
        if str(file.relative_to(ROOT)) not in allowed
        for hit in elsewhere.finditer(file.read_text())
    ]
    assert not found, f"read through xmae_dist.storage.parquet, which says why: {found}"


def test_a_filter_that_names_nothing_finds_nothing(tmp_path: Path) -> None:
    table = Table(f"file://{tmp_path}/t")
    table.append(ROWS)
    assert table.read(filters=[("name", "in", [])]).num_rows == 0


def test_a_table_is_read_in_the_types_it_was_written_in(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "text": pa.array(["a", None]),
            "texts": pa.array([["x", "y"], []]),
            "pair": pa.array([{"a": "q", "b": 1}, None], pa.struct([("a", pa.string()), ("b", pa.int64())])),
            "bytes": pa.array([b"1", b"2"]),
            "floats": pa.array([[1.0], [2.0]], pa.list_(pa.float32())),
            "labels": pa.array([[("a", "b")], []], pa.map_(pa.string(), pa.string())),
        }
    )
    table = Table(f"file://{tmp_path}/t")
    table.append(rows)
    assert table.read().to_pylist() == rows.to_pylist()
    assert [str(field.type) for field in table.read().schema if "view" in str(field.type)] == []
    assert table.read(columns=["labels", "text"]).schema.names == ["labels", "text"]


def test_a_damaged_and_a_missing_file_of_a_table_are_told_apart(store_url: str) -> None:
    table = Table(uri.join(store_url, "t"))
    table.append(ROWS)
    (file,) = [url for url in uri.list_urls(table.url) if url.endswith(".parquet")]
    data = uri.read_bytes(file)
    uri.write_bytes(file, data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(IntegrityError, match="cannot be decoded"):
        table.read()
    uri.delete(file)
    with pytest.raises(StorageError, match="nothing there"):
        table.read()
