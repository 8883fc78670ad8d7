"""Text of any encoding as a file of UTF-8, which is what Arrow reads without Python.

Another encoding it decodes with Python's codecs, in a thread that reads ahead: a process that ends meanwhile hangs, or
dies of SIGABRT (see xmae_dist/storage/parquet.py).
"""

from __future__ import annotations

import codecs
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PIECE_CHARACTERS = 1 << 20


@contextlib.contextmanager
def as_utf8(path: Path, encoding: str) -> Iterator[Path]:
    """`path` itself where it is UTF-8 already, else a copy in the temporary folder while the block runs.

    Raises UnicodeDecodeError for bytes that are not of the encoding, LookupError for an encoding that is none.
    """
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):  # Arrow passes over the mark itself
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="xmae-utf8-") as folder:
        copy = Path(folder) / path.name
        with open(path, encoding=encoding, newline="") as source, open(copy, "w", encoding="utf-8", newline="") as out:
            shutil.copyfileobj(source, out, _PIECE_CHARACTERS)
        yield copy
