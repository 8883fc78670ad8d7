"""Who was withdrawn from a corpus, so that nobody comes back with the next file.

    <corpus>/withdrawn/    Delta table: a row per recording of a withdrawn subject; one without a recording for a
                           subject of whom nothing was here; one without a subject for each who cannot be named any more

Readmission deletes a subject's rows; the table's log keeps the history. A corpus of before there was this table gets
it, with whoever its index still tells of, when it is first asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa

from xmae_dist.core.errors import StorageError
from xmae_dist.storage.diagnose import NOTHING_THERE
from xmae_dist.storage.table import Table, sql_of

SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("cohort", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("withdrawn_s", pa.float64(), nullable=False),
    ]
)
_BEGUN = "withdrawn:list"
_FROM_ITS_HISTORY = "found in the history of the index"

Entry = tuple[str, str, str]
"""(subject, cohort, recording); cohort and recording are "" where nothing was here."""


@dataclass(frozen=True, kw_only=True)
class Withdrawn:
    """The list at one moment."""

    subjects: frozenset[str]
    recordings: frozenset[tuple[str, str]]
    """(cohort, recording) of what they had here."""
    unnamed: int
    """Withdrawn before there was a list, by rows that are vacuumed, less those who were put on it by name since."""


class WithdrawnList:
    """The list of a corpus, given its table and its index."""

    def __init__(self, table: Table, index: Table) -> None:
        self.table, self._index = table, index
        self._begun = False

    def read(self, until_s: float = math.inf) -> Withdrawn:
        """Who is withdrawn now; of these, who was by a time (seconds since 1970)."""
        self._begin()
        there = self.table.read(columns=["subject_id", "cohort", "recording_id", "withdrawn_s"]).to_pylist()
        rows = [row for row in there if row["withdrawn_s"] <= until_s]
        return Withdrawn(
            subjects=frozenset(row["subject_id"] for row in rows if row["subject_id"]),
            recordings=frozenset((row["cohort"], row["recording_id"]) for row in rows if row["recording_id"]),
            unnamed=max(0, sum(not row["subject_id"] for row in rows) - sum(map(_is_absent, rows))),
        )

    def add(self, entries: Iterable[Entry], *, reason: str) -> None:
        """Puts subjects on the list, in one commit; entries that are there already change nothing."""
        self._begin()
        there = self.table.read(columns=["subject_id", "cohort", "recording_id"]).to_pylist()
        known = {(row["subject_id"], row["cohort"], row["recording_id"]) for row in there}
        new = sorted(set(entries) - known)
        if new:
            self.table.append(_rows(new, reason), metadata={"xmae_operation": "withdraw"})

    def remove(self, subjects: Collection[str]) -> None:
        """Takes subjects off the list, in one commit."""
        self._begin()
        self.table.delete(sql_of([("subject_id", "in", sorted(subjects))]), {"xmae_operation": "readmit"})

    def _begin(self) -> None:
        """Makes the list where there is none. The transaction lets one of several callers fill it."""
        if self._begun:
            return
        if self.table.transaction_version(_BEGUN) is None:
            entries = [entry for withdrawal in self._withdrawals() for entry in self._taken_by(withdrawal)]
            self.table.append(_rows(entries, _FROM_ITS_HISTORY), txn=(_BEGUN, 1))
        self._begun = True

    def _withdrawals(self) -> list[tuple[int, int]]:
        """(version, number of subjects) of commits that withdrew."""
        commits = [one for one in self._index.history() if one.get("xmae_operation") == "withdraw"]
        return [(int(one["version"]), int(one.get("xmae_subjects", 1))) for one in commits]

    def _taken_by(self, withdrawal: tuple[int, int]) -> list[Entry]:
        version, subjects = withdrawal
        try:
            before, after = self._entries(version - 1), self._entries(version)
        except StorageError as error:
            if error.value != NOTHING_THERE:
                raise
            return [("", "", "")] * subjects  # vacuumed: how many is known, who is not
        return sorted(before - after)

    def _entries(self, version: int) -> set[Entry]:
        rows = self._index.read(version, columns=["subject_id", "cohort", "recording_id"]).to_pylist()
        return {(row["subject_id"], row["cohort"], row["recording_id"]) for row in rows}


def _is_absent(row: dict[str, str]) -> bool:
    return bool(row["subject_id"]) and not row["recording_id"]


def _rows(entries: Iterable[Entry], reason: str) -> pa.Table:
    now = time.time()
    rows = [
        {"subject_id": subject, "cohort": cohort, "recording_id": recording, "reason": reason, "withdrawn_s": now}
        for subject, cohort, recording in entries
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
