"""The fingerprint that corpora of format v1 had: SHA-256 of their rows as lines of JSON, sorted.

It is computed for what was made by that format: window stores and runs name it. About 60 µs of CPU a row; memory is
that of `Runs`, and the lines lie on local disk while they are sorted.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from xmae_dist.storage.ordered import Runs
from xmae_dist.storage.row_bytes import CONTENT_COLUMNS


def fingerprints_v1(batches: Iterable[pa.RecordBatch]) -> tuple[str, dict[str, str]]:
    """16 hexadecimal digits of all rows (CONTENT_COLUMNS, in any order), and of those of each cohort by its name."""
    whole, cohorts = _Lines(), dict[str, _Lines]()
    with tempfile.TemporaryDirectory(prefix="xmae-lines-") as folder:
        for lines in Runs(_lines(batches), ["line"], folder):
            for line, cohort in zip(lines["line"].to_pylist(), lines["cohort"].to_pylist(), strict=True):
                whole.add(line)
                cohorts.setdefault(cohort, _Lines()).add(line)
    return whole.fingerprint(), {name: one.fingerprint() for name, one in sorted(cohorts.items())}


class _Lines:
    """SHA-256 of lines, one after another."""

    def __init__(self) -> None:
        self._hash, self._separator = hashlib.sha256(), ""

    def add(self, line: str) -> None:
        self._hash.update((self._separator + line).encode())
        self._separator = "\n"

    def fingerprint(self) -> str:
        return self._hash.hexdigest()[:16]


def _lines(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = batch.select(CONTENT_COLUMNS).to_pylist()
        lines = pa.array([_canonical(values) for values in rows], pa.string())
        yield pa.record_batch({"line": lines, "cohort": batch["cohort"]})


def _canonical(values: dict[str, Any]) -> str:
    plain = {
        name: repr(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))
