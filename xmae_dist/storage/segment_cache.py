"""A node's own copy of far objects, segment by segment: fetched once in large requests, read again from local files.

A request to an object store costs milliseconds whatever its size, so chunks of 128 KiB in random order move at a
tenth of what the link gives. Whoever asks for one byte of a segment of 8 MiB fetches all of it; all processes of the
node share the copies, and of two that want the same segment one fetches. The choice costs room (the whole array, in
time) and a slow beginning (the first random reads fetch a segment each), and is repaid when most of an array is read,
at once or in later epochs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from xmae_dist.core.errors import ConfigError
from xmae_dist.storage import uri

SEGMENT_BYTES = 8 << 20
_CONNECTIONS = 4
_SWEEP_EVERY = 32  # segments written by this process between looks at the size of the folder


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Where copies are kept on each node that reads, and how many."""

    max_gib: float
    """Room that copies may take; those that were fetched first go first."""
    folder: str = ""
    """Local folder. None named: one for this user below the system's temporary folder."""

    def __post_init__(self) -> None:
        if not self.max_gib > 0:
            raise ConfigError("cache max_gib", value=self.max_gib, expected="above 0", fix="leave the cache out")

    @property
    def path(self) -> Path:
        return Path(self.folder) if self.folder else Path(tempfile.gettempdir()) / f"xmae-segments-{os.getuid()}"

    @property
    def max_bytes(self) -> int:
        return int(self.max_gib * 2**30)


class SegmentCache:
    """Ranges of immutable objects through local copies of their segments. Safe between threads and processes."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._written = 0

    def read_ranges(self, url: str, starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
        """Bytes [start, stop) of one object for each pair, like `uri.read_ranges`; shorter where the object ends."""
        wanted = {k for span in zip(starts, stops, strict=True) for k in _segments(*span)}
        missing = sorted(k for k in wanted if not self._place(url, k).exists())
        if len(missing) == 1:
            self._fetch(url, missing[0])
        elif missing:
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                list(pool.map(lambda k: self._fetch(url, k), missing))
        # What another process removed in this moment is fetched again: a copy that is open stays readable.
        with contextlib.ExitStack() as opened:
            files = {k: opened.enter_context(self._opened(url, k)) for k in sorted(wanted)}
            return [_joined(files, start, stop) for start, stop in zip(starts, stops, strict=True)]

    def forget(self, url: str, start: int, stop: int) -> None:
        """Drops the copies of a range that turned out to be damaged, so that the store is asked again."""
        for k in _segments(start, stop):
            self._place(url, k).unlink(missing_ok=True)

    def _place(self, url: str, segment: int) -> Path:
        return self._config.path / hashlib.sha256(url.encode()).hexdigest()[:24] / str(segment)

    @contextlib.contextmanager
    def _opened(self, url: str, segment: int) -> Iterator[int]:
        try:
            file = self._place(url, segment).open("rb")
        except FileNotFoundError:
            self._fetch(url, segment)
            file = self._place(url, segment).open("rb")
        with file:
            yield file.fileno()

    def _fetch(self, url: str, segment: int) -> None:
        place = self._place(url, segment)
        place.parent.mkdir(parents=True, exist_ok=True)
        with _held(place.with_name(f".{segment}.lock")):
            if place.exists():
                return  # another process was first
            first = segment * SEGMENT_BYTES
            data = uri.read_ranges(url, [first], [first + SEGMENT_BYTES])[0]
            partial = place.with_name(f".{segment}.{uuid.uuid4().hex[:8]}")
            partial.write_bytes(data)
            os.replace(partial, place)
        self._written += 1
        if self._written % _SWEEP_EVERY == 0:
            self._sweep()

    def _sweep(self) -> None:
        """Removes the oldest copies beyond the limit."""
        found = []
        for folder in os.scandir(self._config.path):
            for file in os.scandir(folder.path):
                if file.name.startswith("."):
                    continue  # a lock, or a copy that is being made
                with contextlib.suppress(FileNotFoundError):
                    found.append((file.stat().st_mtime, file.stat().st_size, file.path))
        excess = sum(size for _, size, _ in found) - self._config.max_bytes
        for _, size, path in sorted(found):
            if excess <= 0:
                return
            Path(path).unlink(missing_ok=True)
            excess -= size


def _segments(start: int, stop: int) -> range:
    return range(start // SEGMENT_BYTES, -(-stop // SEGMENT_BYTES))


def _joined(files: dict[int, int], start: int, stop: int) -> bytes:
    pieces = []
    for k in _segments(start, stop):
        first = k * SEGMENT_BYTES
        low, high = max(start, first), min(stop, first + SEGMENT_BYTES)
        pieces.append(os.pread(files[k], high - low, low - first))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """One process (and thread) at a time; a lock ends with its holder."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
