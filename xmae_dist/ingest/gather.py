"""What some parts of a run hold, with subjects and labels joined, on its way into one commit and the report."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from xmae_dist.ingest.admission import left_out, subject_by
from xmae_dist.ingest.formats.items import TakenItem
from xmae_dist.ingest.labels import LabelBook, Meanings
from xmae_dist.ingest.register import Register, taken_items
from xmae_dist.ingest.written import Note, Outcome, WrittenPart
from xmae_dist.storage.index import IndexRow

_NO_SUBJECT = (
    "no subject: the manifest has no row for it, or an empty subject; expected one, since a person in two splits "
    "would be a leak; fix: add it to the manifest and run again"
)

There = Mapping[tuple[str, str], set[tuple[str, str, str]]]


class Gathered:
    """What the parts of one commit come to: collects outcomes while their rows pass by; a part is in memory at a
    time.
    """

    def __init__(
        self,
        books: Sequence[LabelBook],
        meanings: Meanings,
        subject_prefix: str,
        *,
        subject_pattern: str | None = None,
        withdrawn: frozenset[str] = frozenset(),
        there: There | None = None,
    ) -> None:
        """`meanings` tells which recordings, of the whole run and of before, rows of labels mean. `withdrawn`: subjects
        whose recordings are left out. `there`: what another run has just committed.
        """
        self._books, self._prefix, self._pattern = books, subject_prefix, subject_pattern
        self._meanings, self._withdrawn, self._there = meanings, withdrawn, there or {}
        self.outcomes: list[Outcome] = []
        self.signals: list[tuple[str, str]] = []
        """(digest, recording) of what is committed."""
        self.there = self.parts = self.alone = self.unlabelled = 0
        self.first_unlabelled = ""
        self._taken: dict[str, TakenItem] = {}

    def commit(self, register: Register, notes: Sequence[Note], txn_id: str) -> int | None:
        """Commits the rows of the parts in one go and says what they took in; None where there were none, or it was
        done.
        """
        rows: Iterator[IndexRow] = (row for note in notes for row in self._rows(register.read(note)))
        first = next(rows, None)
        if first is None:
            if self._taken:  # another run has committed all of it
                register.close(txn_id, register.version(), self._taken, notes)
            return None
        rows = itertools.chain([first], rows)
        version = register.commit(rows, txn_id)
        for _ in rows:  # where the transaction was committed before nobody has read them
            pass
        register.close(txn_id, register.version() if version is None else version, self._taken, notes)
        return version

    def _rows(self, written: WrittenPart) -> Iterator[IndexRow]:
        orphans: dict[str, str] = {}
        there: set[str] = set()
        withdrawn: set[str] = set()
        committed: set[str] = set()
        by_recording = itertools.groupby(written.rows, lambda row: (row.cohort, row.recording_id))
        labelled: list[IndexRow] = []
        for (_, recording_id), rows in by_recording:
            with_labels = self._labelled(recording_id, list(rows))
            if isinstance(with_labels, str):
                orphans[recording_id] = with_labels
                continue
            if with_labels[0].subject_id in self._withdrawn:
                withdrawn.add(recording_id)
                continue
            committed.add(recording_id)
            if self._is_there(with_labels):
                there.add(recording_id)
                continue
            self.signals += [(row.digest, row.recording_id) for row in with_labels]
            labelled += with_labels
        self.there += len(there)
        self._judge(written, orphans, withdrawn, there)
        self._taken.update(taken_items(written, committed))
        self.parts += bool(labelled)
        yield from labelled

    def _labelled(self, recording_id: str, rows: list[IndexRow]) -> list[IndexRow] | str:
        """Rows of a recording with their subject and labels; why not, where its subject is unknown."""
        if (meant := self._meanings.other(recording_id)) is not None:
            key, other = meant
            return (
                f"label row {key!r} is ambiguous: it means {other} too, and two people must not become one; fix: "
                "write as much of the path into the table as tells them apart"
            )
        self._meanings.add(recording_id)
        found = [(book, book.of(recording_id)) for book in self._books]
        if any(book.names_subjects and (labels is None or labels.subject_id is None) for book, labels in found):
            return _NO_SUBJECT
        numbers, text = dict(rows[0].labels), dict(rows[0].label_text)
        subject = rows[0].subject_id or subject_by(self._pattern, recording_id) or recording_id
        for _, labels in found:
            if labels is not None:
                numbers.update(labels.numbers)
                text.update(labels.text)
                subject = labels.subject_id or subject
        self.alone += subject == recording_id
        if found and not any(labels for _, labels in found):
            self.unlabelled += 1
            self.first_unlabelled = min(self.first_unlabelled or recording_id, recording_id)
        return [
            dataclasses.replace(row, subject_id=self._prefix + subject, labels=numbers, label_text=text) for row in rows
        ]

    def _is_there(self, rows: list[IndexRow]) -> bool:
        """Whether the corpus has got this very recording meanwhile: samples, names and person."""
        found = self._there.get((rows[0].cohort, rows[0].recording_id), set())
        return {(row.subject_id, row.channel, row.digest) for row in rows} == found

    def _judge(self, written: WrittenPart, orphans: Mapping[str, str], withdrawn: set[str], there: set[str]) -> None:
        for outcome in written.outcomes:
            if outcome.name in there:
                continue
            if outcome.withdrawn or (outcome.kept and outcome.name in withdrawn):
                outcome = left_out(outcome.name, outcome.item)
            elif outcome.kept and outcome.name in orphans:
                outcome = dataclasses.replace(outcome, kept=False, reason=orphans[outcome.name], channels=(), hours=0.0)
            self.outcomes.append(outcome)
