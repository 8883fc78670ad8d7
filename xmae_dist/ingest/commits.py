"""Finished parts made visible: in order, some at a time, each lot by one commit.

Parts are numbered in the order of their files and finish in any. A lot is committed when all before it are, and it is
large or old enough; so what a killed run leaves visible are whole parts without a hole among them, and memory holds the
rows of one lot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from xmae_dist.ingest.gather import Gathered
from xmae_dist.ingest.outcomes import OutcomeLog
from xmae_dist.ingest.register import Register
from xmae_dist.ingest.twins import Twins
from xmae_dist.ingest.written import Note
from xmae_dist.storage.corpus import AlreadyThereError

# A lot is committed when it holds so many recordings, or when the last commit is so long ago: the rows of a lot are in
# memory at once, and each commit looks through what the cohort has.
MOST_RECORDINGS = 20_000
MOST_S = 600.0

There = Mapping[tuple[str, str], set[tuple[str, str, str]]]


@dataclass
class Totals:
    """What the commits of a run come to."""

    versions: list[int] = field(default_factory=list)
    txns: list[str] = field(default_factory=list)
    parts: int = 0
    known: int = 0
    """Recordings that another run has committed meanwhile."""
    alone: int = 0
    unlabelled: int = 0
    first_unlabelled: str = ""


class Commits:
    """The commits of one run. `collect` makes an empty `Gathered`, given what is there."""

    def __init__(self, register: Register, collect: Callable[[There], Gathered], log: OutcomeLog, twins: Twins) -> None:
        self._register, self._collect, self._log, self._twins = register, collect, log, twins
        self.totals = Totals()
        self._finished: dict[int, list[Note]] = {}
        self._done: set[int] = set()
        self._next, self._lot, self._last_s = 0, list[Note](), time.monotonic()

    def add(self, note: Note) -> None:
        """Takes a finished part in, and commits where a lot is ready."""
        self._finished.setdefault(note.task, []).append(note)
        if note.last:
            self._done.add(note.task)
        while self._next in self._finished:
            self._lot += self._finished.pop(self._next)
            if self._next not in self._done:
                break  # more of this task is to come, in its order
            self._done.remove(self._next)
            self._next += 1
        count = sum(one.recordings for one in self._lot)
        if count >= MOST_RECORDINGS or (count and time.monotonic() - self._last_s >= MOST_S):
            self.finish()

    def finish(self) -> None:
        """Commits what is left."""
        if self._lot:
            self._commit(self._lot)
        self._lot, self._last_s = [], time.monotonic()

    def _commit(self, notes: list[Note]) -> None:
        txn = self._register.txn_id(notes)
        gathered = self._collect({})
        try:
            version = gathered.commit(self._register, notes, txn)
        except AlreadyThereError:  # another run has some of the same files, and was first
            names = {outcome.name for outcome in gathered.outcomes}
            gathered = self._collect(self._register.signals(names))
            version = gathered.commit(self._register, notes, txn)
        self._twins.add(gathered.signals)
        self._log.add(gathered.outcomes, txn if version is not None else f"{txn}-nothing-committed", version)
        self._count(gathered, version, txn)

    def _count(self, gathered: Gathered, version: int | None, txn: str) -> None:
        totals = self.totals
        if version is not None:
            totals.versions.append(version)
            totals.txns.append(txn)
        totals.parts += gathered.parts
        totals.known += gathered.there
        totals.alone += gathered.alone
        totals.unlabelled += gathered.unlabelled
        names = [name for name in (totals.first_unlabelled, gathered.first_unlabelled) if name]
        totals.first_unlabelled = min(names, default="")
