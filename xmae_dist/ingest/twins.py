"""Recordings that hold the same samples: one file twice, as a rule.

Digests are written down one after another and looked at once, at the end: two bit maps of fixed size (4 MiB each) tell
which may be there twice, and only those are compared. So a run costs about 80 bytes of disk and a few microseconds for
each signal, and no memory that grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xmae_dist.core.scratch import scratch

_BITS = 2**25
_HEX_DIGITS = 64
# Enough of a digest to tell the recordings of any corpus apart.
_KEY_DIGITS = 32
_AT_ONCE = 10_000
_SCHEMA = """
CREATE TABLE samples (key TEXT, recording TEXT);
CREATE TABLE likely (key TEXT, recording TEXT, PRIMARY KEY (key, recording)) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class Same:
    """Groups of recordings that share the samples of a channel: the first ones, and how many recordings there are in
    all of them.
    """

    groups: tuple[tuple[str, ...], ...] = ()
    recordings: int = 0


class Twins:
    """Collects the digests of a run's signals."""

    def __init__(self) -> None:
        self._rows = scratch(_SCHEMA)
        self._once, self._twice = np.zeros(_BITS // 8, np.uint8), np.zeros(_BITS // 8, np.uint8)

    def add(self, signals: Sequence[tuple[str, str]]) -> None:
        """Signals of this run as (digest, recording)."""
        keys = [digest[:_KEY_DIGITS] for digest, _ in signals]
        names = (name for _, name in signals)
        self._rows.executemany("INSERT INTO samples VALUES (?, ?)", zip(keys, names, strict=True))
        places, counts = np.unique(
            _places(pa.array([digest for digest, _ in signals], pa.string())), return_counts=True
        )
        _set(self._twice, places[(counts > 1) | _is_set(self._once, places)])
        _set(self._once, places)

    def compare(self, earlier: Iterable[pa.RecordBatch]) -> None:
        """Looks for this run's samples in rows that were in the corpus before: cohort, recording_id, digest."""
        for batch in earlier:
            places = _places(batch.column(2))
            likely = _is_set(self._once, places)
            _set(self._twice, places[likely])
            rows = batch.filter(pa.array(likely)).to_pylist()
            self._note((row["digest"][:_KEY_DIGITS], f"{row['cohort']}/{row['recording_id']}") for row in rows)

    def same(self, most: int) -> Same:
        """The groups that hold a recording of this run; about `most` recordings are named."""
        for keys, names in self._samples():
            # Keys are the beginnings of digests, and so are places.
            likely = _is_set(self._twice, _places(pa.array([key.ljust(_HEX_DIGITS, "0") for key in keys], pa.string())))
            self._note((keys[at], names[at]) for at in np.flatnonzero(likely))
        several = "SELECT key FROM likely GROUP BY key HAVING count(*) > 1"
        count = self._rows.execute(f"SELECT count(DISTINCT recording) FROM likely WHERE key IN ({several})").fetchone()
        return Same(groups=self._groups(several, most), recordings=count[0])

    def _groups(self, several: str, most: int) -> tuple[tuple[str, ...], ...]:
        together: dict[str, set[str]] = {}
        for (key,) in self._rows.execute(several):
            names = {name for (name,) in self._rows.execute("SELECT recording FROM likely WHERE key = ?", (key,))}
            group = names.union(*(together.get(name, ()) for name in names))
            together.update(dict.fromkeys(group, group))
            if len(together) > most:
                break
        return tuple(sorted({tuple(sorted(group)) for group in together.values()}))

    def _note(self, rows: Iterable[tuple[str, str]]) -> None:
        self._rows.executemany("INSERT OR IGNORE INTO likely VALUES (?, ?)", rows)

    def _samples(self) -> Iterator[tuple[list[str], list[str]]]:
        last = 0
        while some := self._rows.execute(
            "SELECT rowid, key, recording FROM samples WHERE rowid > ? ORDER BY rowid LIMIT ?", (last, _AT_ONCE)
        ).fetchall():
            last = some[-1][0]
            yield [key for _, key, _ in some], [name for _, _, name in some]


def _places(digests: pa.Array) -> NDArray[np.uint32]:
    """Places in a bit map, from the first eight hexadecimal digits of each digest."""
    text = np.frombuffer("".join(digests.to_pylist()).encode(), np.uint8).reshape(len(digests), _HEX_DIGITS)[:, :8]
    nibbles = np.where(text >= ord("a"), text - (ord("a") - 10), text - ord("0")).astype(np.uint32)
    number = (nibbles << np.arange(28, -1, -4, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
    return number % _BITS


def _is_set(bits: NDArray[np.uint8], places: NDArray[np.uint32]) -> NDArray[np.bool_]:
    return (bits[places >> 3] >> (places & 7).astype(np.uint8)) & 1 == 1


def _set(bits: NDArray[np.uint8], places: NDArray[np.uint32]) -> None:
    np.bitwise_or.at(bits, places >> 3, np.left_shift(np.uint8(1), (places & 7).astype(np.uint8)))
