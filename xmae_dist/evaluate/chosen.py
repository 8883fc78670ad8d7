"""The windows of a store that take part in an evaluation, met part by part: by split, cohort and number a recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.evaluate.gathering import recording_names
from xmae_dist.evaluate.members import evenly
from xmae_dist.evaluate.names import Names

Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class ChosenWindows:
    """Iterated, gives a table a part, in the order of the windows' ids, each read when its turn comes."""

    store: WindowStore
    splits: tuple[str, ...]
    cohorts: tuple[str, ...] = ()
    """Only these; none named: all."""
    max_windows_per_recording: int = 0
    """Evenly spaced; 0: all."""

    def __post_init__(self) -> None:
        """Raises InputError for a cohort that is not there."""
        present = {cohort for cohort, split in self.store.counts() if split in self.splits}
        for name in self.cohorts:
            if name not in present:
                raise InputError("--cohorts", value=name, expected=f"some of {', '.join(sorted(present))}")

    def __iter__(self) -> Iterator[pa.Table]:
        tables = self._parts()
        if not self.max_windows_per_recording:
            return tables
        names = self._parts("cohort", "recording_id")
        return _Spread(self.max_windows_per_recording, names).picked(tables)

    def _parts(self, *columns: str) -> Iterator[pa.Table]:
        return self.store.meta_parts(self.splits, columns or None, self.cohorts)

    def subjects(self) -> NDArray[np.str_]:
        """Whose windows take part."""
        names = Names()
        for table in self._parts("subject_id"):
            names.add(table["subject_id"])
        return np.asarray(names.settled().names.to_pylist(), dtype=np.str_)


class _Spread:
    """Evenly spaced windows of each recording, over all parts that hold some of it.

    4 bytes and the name for each recording and part, from one pass over the names.
    """

    def __init__(self, limit: int, parts: Iterable[pa.Table]) -> None:
        names, counts = Names(), []
        for table in parts:
            found = names.add(recording_names(table))
            counts.append(np.bincount(found.place_W, minlength=len(found.names)))
        self._limit = limit
        place_K = names.settled().place_K
        count_K = np.concatenate(counts) if counts else np.empty(0, np.int64)
        order = np.argsort(place_K, kind="stable")
        first = np.flatnonzero(np.r_[True, np.diff(place_K[order]) != 0][: len(order)])
        before = np.cumsum(count_K[order]) - count_K[order]
        self._before_K = np.empty(len(order), np.int64)
        """Windows of the recording in earlier parts."""
        self._before_K[order] = before - np.repeat(before[first], np.diff(np.r_[first, len(order)]))
        self._total_K = np.bincount(place_K, weights=count_K).astype(np.int64)[place_K]

    def picked(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Of the same parts in the same order the windows that take part."""
        first = 0
        for table in tables:
            found = Names().add(recording_names(table))
            members = np.split(np.argsort(found.place_W, kind="stable"), np.cumsum(np.bincount(found.place_W))[:-1])
            rows = [self._rows(first + number, windows) for number, windows in enumerate(members)]
            first += len(found.names)
            yield table.take(pa.array(np.sort(np.concatenate(rows))))

    def _rows(self, number: int, windows: Rows) -> Rows:
        place = evenly(int(self._total_K[number]), self._limit) - self._before_K[number]
        return windows[place[(place >= 0) & (place < len(windows))]]
