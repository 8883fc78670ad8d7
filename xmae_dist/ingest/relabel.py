"""Labels of recordings that are in a corpus already: compared with a table, and taken over in one commit.

Signals stay where they are, and so do subjects: who is in which split must not change with a table of labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from xmae_dist.ingest.labels import LabelBook, check_unambiguous
from xmae_dist.storage import index
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow

_IDENTITY = ["recording_id", "subject_id", "labels", "label_text"]


@dataclass(frozen=True, kw_only=True)
class LabelChanges:
    """Recordings of a cohort that books of labels say something else of than the corpus."""

    labels: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()


def changes(corpus: Corpus, cohort: str, books: Sequence[LabelBook], subject_prefix: str = "") -> LabelChanges:
    """What `update` would change, and recordings whose subject the books name otherwise."""
    if not books:
        return LabelChanges()
    table = corpus.index.read(columns=_IDENTITY, filters=[("cohort", "=", cohort)])
    relabelled: set[str] = set()
    moved: set[str] = set()
    for row in table.to_pylist():
        before = (dict(row["labels"] or ()), dict(row["label_text"] or ()))
        if _relabelled(row["recording_id"], *before, books) != before:
            relabelled.add(row["recording_id"])
        named = [labels.subject_id for book in books if (labels := book.of(row["recording_id"])) is not None]
        if any(subject is not None and subject_prefix + subject != row["subject_id"] for subject in named):
            moved.add(row["recording_id"])
    return LabelChanges(labels=tuple(sorted(relabelled)), subjects=tuple(sorted(moved)))


def update(corpus: Corpus, cohort: str, books: Sequence[LabelBook]) -> int | None:
    """Takes the labels of the books over into the rows of the cohort, in one commit; returns the new snapshot.

    A label that a book has a column for becomes what its row says, or goes where its cell is empty; others stay, and so
    do recordings without a row. Returns None where nothing would change. Raises InputError for a row that means
    several recordings.
    """
    ids = corpus.index.read(columns=["recording_id"], filters=[("cohort", "=", cohort)])["recording_id"].to_pylist()
    for book in books:
        check_unambiguous(book, ids)
    if not changes(corpus, cohort, books).labels:
        return None

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
