"""Tables on disk that one process keeps for itself: for what grows with a corpus and is looked up by name.

A private SQLite database without a name: SQLite holds a few megabytes of it in memory and spills the rest into a file
in the temporary folder (TMPDIR), which nobody else can open and which is gone with the process, however that ends.
Reading by name takes a few microseconds, whatever the number of rows.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator

from xmae_dist.core.errors import RunError

_CACHE_KIB = 2 * 1024


def scratch(schema: str) -> sqlite3.Connection:
    """An empty private database with the tables of `schema`; it belongs to the thread that made it."""
    # SQLite asks its own variable before TMPDIR, and knows nothing of what Python was told.
    os.environ.setdefault("SQLITE_TMPDIR", tempfile.gettempdir())
    database = sqlite3.connect("", isolation_level=None)
    database.executescript(
        f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE; PRAGMA cache_size=-{_CACHE_KIB};"
        + schema
    )
    # One transaction that never ends: without it every row would be one of its own.
    database.execute("BEGIN")
    return database


@contextlib.contextmanager
def scratch_errors() -> Iterator[None]:
    """What SQLite raises inside, where the temporary folder is full or cannot be written, becomes a RunError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise RunError(
            f"temporary folder {tempfile.gettempdir()}",
            value=str(error),
            expected="space for the run's record of its files, about 1 kB per file",
            fix="make room there, or set TMPDIR to a folder on a larger disk",
        ) from error
