"""Signals that an old version of the index has and a newer one lacks: they were withdrawn in between.

The newer version states when each cohort last lost rows, so most questions are answered by its commit alone. Cohorts
that did lose some are read at both versions and compared in order: time as their rows, memory as that of `Runs`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from xmae_dist.storage.ledger import Ledger
from xmae_dist.storage.ordered import Runs
from xmae_dist.storage.table import PinnedTable, Table

_IDENTITY = ("subject_id", "recording_id", "channel", "digest")
Identity = tuple[str, ...]


def lost(index: Table, old: int, new: int) -> Iterator[Identity]:
    """(subject, recording, channel, digest) of each signal of version `old` that `new` lacks, cohort by cohort.

    Raises StorageError where files of `old` were vacuumed that it would have to read.
    """
    stated = Ledger(index.url).stated(new)
    if stated is not None and all(one.lost <= old for one in stated.cohorts.values()):
        return
    before, after = index.at(old), index.at(new)
    for cohort in before.partition_values("cohort"):
        if stated is None or cohort not in stated.cohorts or stated.cohorts[cohort].lost > old:
            yield from _missing(_identities(before, cohort), _identities(after, cohort))


def _identities(version: PinnedTable, cohort: str) -> Iterator[Identity]:
    with tempfile.TemporaryDirectory(prefix="xmae-identities-") as folder:
        filters = [("cohort", "=", cohort)]
        for batch in version.collected(lambda rows: Runs(rows, _IDENTITY, folder), _IDENTITY, filters):
            yield from zip(*(batch[name].to_pylist() for name in _IDENTITY), strict=True)


def _missing(before: Iterator[Identity], after: Iterator[Identity]) -> Iterator[Identity]:
    """What the first of two ordered streams has and the second has not."""
    other = next(after, None)
    for one in before:
        while other is not None and other < one:
            other = next(after, None)
        if other != one:
            yield one
