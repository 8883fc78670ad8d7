"""Labels of recordings that are in a corpus already: compared with a table, and taken over in one commit.

Signals stay where they are, and so do subjects: who is in which split must not change with a table of labels.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from xmae_dist.core.scratch import scratch
from xmae_dist.ingest.labels import LabelBook, check_unambiguous
from xmae_dist.storage import index
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow

_LABELLED = ["recording_id", "subject_id", "labels", "label_text"]
MOST_NAMED = 1000


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """How many recordings there are of a kind, and the first of their names."""

    count: int = 0
    first: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabelChanges:
    """Recordings of a cohort, and those that books of labels say something else of than the corpus, or nothing."""

    recordings: int = 0
    labels: Recordings = field(default_factory=Recordings)
    subjects: Recordings = field(default_factory=Recordings)
    without_a_row: int = 0


def changes(corpus: Corpus, cohort: str, books: Sequence[LabelBook], subject_prefix: str = "") -> LabelChanges:
    """What `update` would change, and recordings whose subject the books name otherwise. Reads the labels of the cohort
    once; memory does not grow with it.
    """
    rows = scratch("CREATE TABLE said (recording TEXT PRIMARY KEY, labels, subject, rowless) WITHOUT ROWID;")
    for batch in corpus.snapshot().batches(_LABELLED, [("cohort", "=", cohort)]):
        for row in batch.to_pylist():
            before = (dict(row["labels"] or ()), dict(row["label_text"] or ()))
            changed = _relabelled(row["recording_id"], *before, books) != before
            found = [labels for book in books if (labels := book.of(row["recording_id"])) is not None]
            named = (one.subject_id for one in found if one.subject_id is not None)
            moved = any(subject_prefix + subject != row["subject_id"] for subject in named)
            said = (row["recording_id"], changed, moved, not found)
            rows.execute("INSERT OR REPLACE INTO said VALUES (?, ?, ?, ?)", said)
    (recordings, rowless) = rows.execute("SELECT count(*), total(rowless) FROM said").fetchone()
    return LabelChanges(
        recordings=recordings,
        labels=_recordings(rows, "labels"),
        subjects=_recordings(rows, "subject"),
        without_a_row=int(rowless),
    )


def _recordings(rows: sqlite3.Connection, kind: str) -> Recordings:
    count = rows.execute(f"SELECT count(*) FROM said WHERE {kind}").fetchone()[0]
    names = rows.execute(f"SELECT recording FROM said WHERE {kind} ORDER BY recording LIMIT {MOST_NAMED}")
    return Recordings(count=count, first=tuple(name for (name,) in names))


def update(corpus: Corpus, cohort: str, books: Sequence[LabelBook]) -> int | None:
    """Takes the labels of the books over into the rows of the cohort, in one commit; returns the new snapshot.

    A label that a book has a column for becomes what its row says, or goes where its cell is empty; others stay, and so
    do recordings without a row. Raises InputError for a row that means several recordings.
    """
    found = corpus.snapshot().batches(["recording_id"], [("cohort", "=", cohort)])
    check_unambiguous(books, (name for batch in found for name in batch.column(0).to_pylist()))

    def relabelled(table: pa.Table) -> pa.Table:
        return index.to_arrow([_row(row, books) for row in index.from_arrow(table)])

    return corpus.index.rewrite([("cohort", "=", cohort)], relabelled, metadata={"xmae_operation": "labels"})


def _row(row: IndexRow, books: Sequence[LabelBook]) -> IndexRow:
    numbers, text = _relabelled(row.recording_id, dict(row.labels), dict(row.label_text), books)
    return dataclasses.replace(row, labels=numbers, label_text=text)


def _relabelled(
    recording_id: str, numbers: dict[str, float], text: dict[str, str], books: Sequence[LabelBook]
) -> tuple[dict[str, float], dict[str, str]]:
    for book in books:
        found = book.of(recording_id)
        if found is None:
            continue
        numbers = {name: value for name, value in numbers.items() if name not in book.names} | dict(found.numbers)
        text = {name: value for name, value in text.items() if name not in book.names} | dict(found.text)
    return numbers, text
