"""Delimited files in other encodings, read without a thread that would need Python when the process ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats import table_cells
from xmae_dist.ingest.formats.mapping import parse_mapping
from xmae_dist.ingest.formats.utf8 import as_utf8

ROOT = Path(__file__).resolve().parents[3]
_MAPPING = """
layout = "columns"
rate_hz = 100
encoding = "{encoding}"
[[channels]]
column = "prés"
name = "ppg"
unit = "V"
"""
# The file is looked at, as for an error in its header, and the process ends while most of it has not been read.
_LOOK = """
import sys
from pathlib import Path
from xmae_dist.ingest.formats import table_cells
from xmae_dist.ingest.formats.mapping import parse_mapping
table_cells._BATCH_BYTES = 1 << 20
print(table_cells.schema(Path(sys.argv[1]), parse_mapping(sys.argv[2], "m.toml")).names[0])
"""


def _mapping(encoding: str) -> str:
    return _MAPPING.format(encoding=encoding)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8", "utf-8-sig"])
def test_every_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text("prés\n1\n2\n3\n", encoding=encoding)
    mapping = parse_mapping(_mapping(encoding), "m.toml")
    assert table_cells.schema(file, mapping).names == ["prés"]
    (rows,) = table_cells.read_batches(file, mapping, ["prés"])
    assert rows.to_pydict() == {"prés": [1.0, 2.0, 3.0]}


def test_bytes_that_are_not_of_the_encoding_are_told(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"pr\x81s\n1\n")
    with pytest.raises(InputError, match=r"file a\.csv: got unreadable"):
        table_cells.schema(file, parse_mapping(_mapping("cp1252"), "m.toml"))


def test_utf8_is_not_copied(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a\n1\n")
    with as_utf8(file, "UTF8") as readable:
        assert readable == file


def test_a_process_that_ends_after_the_header_ends(tmp_path: Path) -> None:
    file = tmp_path / "large.csv"
    file.write_text("prés\n" + "1.25\n" * 4_000_000, encoding="latin-1")
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", _LOOK, str(file), _mapping("latin-1")],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=120,
        )
        assert (done.returncode, done.stdout.strip()) == (0, "prés"), done.stderr
