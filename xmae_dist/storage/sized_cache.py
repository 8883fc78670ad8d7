"""What was read last, up to so many bytes: for things whose sizes differ, where a number of them bounds nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Kept = TypeVar("Kept")


class SizedCache(Generic[Kept]):
    """Keeps what was used last. Safe between threads; one thing larger than `max_bytes` is kept alone."""

    def __init__(self, max_bytes: int, bytes_of: Callable[[Kept], int]) -> None:
        self.max_bytes = max_bytes
        self._bytes_of = bytes_of
        self._kept: OrderedDict[Hashable, tuple[Kept, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """What is kept under `key`, else what `make` makes. Two threads that miss at once may both make it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        made = make()
        size = self._bytes_of(made)
        with self._lock:
            self._drop(key)
            self._kept[key] = (made, size)
            self._bytes += size
            while self._bytes > self.max_bytes and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))
        return made

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _drop(self, key: Hashable) -> None:
        if key in self._kept:
            self._bytes -= self._kept.pop(key)[1]
