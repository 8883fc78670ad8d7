"""What the parts of a run hold, with subjects and labels joined, on its way into one commit and one report."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.ingest.admission import left_out, subject_by
from xmae_dist.ingest.labels import LabelBook
from xmae_dist.ingest.register import Register, TakenItem, taken_items
from xmae_dist.ingest.written import Note, Outcome, WrittenPart
from xmae_dist.storage.index import IndexRow

_NO_SUBJECT = (
    "no subject: the manifest has no row for it, or an empty subject; expected one, since a person in two splits "
    "would be a leak; fix: add it to the manifest and run again"
)

There = Mapping[tuple[str, str], set[tuple[str, str, str]]]
# Enough of a digest to tell the recordings of any corpus apart.
_KEY_BYTES = 16


class Gathered:
    """Collects outcomes while the rows of written parts pass by; a part is in memory at a time."""

    def __init__(
        self,
        books: Sequence[LabelBook],
        subject_prefix: str,
        *,
        subject_pattern: str | None = None,
        known: Iterable[str] = (),
        withdrawn: frozenset[str] = frozenset(),
        there: There | None = None,
    ) -> None:
        """`known`: recordings of the cohort that were in before; a row of labels means one recording only.
        `withdrawn`: subjects whose recordings are left out. `there`: what another run has just committed.
        """
        self._books, self._prefix, self._pattern = books, subject_prefix, subject_pattern
        self._withdrawn, self._there = withdrawn, there or {}
        self.there = 0
        self.left_out: list[Outcome] = []
        self._meant = {
            (at, key): recording
            for at, book in enumerate(books)
            for recording in sorted(known)
            if (key := book.key_of(recording)) is not None
        }
        self.kept: list[Outcome] = []
        self.rejected: list[Outcome] = []
        self.parts = 0
        self._taken: dict[str, TakenItem] = {}
        self._alone = self._unlabelled = 0
        self._first_unlabelled = ""
        self._by_digest: dict[bytes, str] = {}
        self._twins: dict[str, set[str]] = {}

    def commit(self, register: Register, notes: Sequence[Note], txn_id: str) -> int | None:
        """Commits the rows of the parts in one go and closes the run; None where there were none, or it was done."""
        rows: Iterator[IndexRow] = (row for note in notes for row in self._rows(register.read(note)))
        first = next(rows, None)
        if first is None:
            if self._taken:  # another run has committed all of it
                register.close(txn_id, self._taken, notes)
            return None
        rows = itertools.chain([first], rows)
        version = register.commit(rows, txn_id)
        for _ in rows:  # where the transaction was committed before nobody has read them
            pass
        register.close(txn_id, self._taken, notes)
        return version

    def notes(self) -> tuple[str, ...]:
        """What a reader of the report should know of subjects and labels."""
        notes = [note for book in self._books for note in book.notes]
        if self._alone and not any(book.names_subjects for book in self._books):
            notes.append(
                f"{self._alone} recordings count as a subject of their own: name subjects (--labels and "
                "--subject-column, --subject-pattern, or subject_pattern in the mapping) if one person made several"
            )
        if self._unlabelled:
            notes.append(
                f"{self._unlabelled} recordings have no row in the label files, such as {self._first_unlabelled}"
            )
        return tuple(notes)

    def same(self) -> tuple[tuple[str, ...], ...]:
        """Recordings of which a channel holds exactly the same samples, in groups: one file twice, as a rule."""
        groups = {id(together): together for together in self._twins.values()}
        return tuple(sorted(tuple(sorted(together)) for together in groups.values()))

    def compare(self, earlier: pa.Table) -> None:
        """Looks for this run's samples in rows that were in the corpus before (cohort, recording_id, digest)."""
        keys = pa.array([key.hex() for key in self._by_digest], pa.string())
        prefixes = pc.utf8_slice_codeunits(earlier["digest"], 0, 2 * _KEY_BYTES)
        for row in earlier.filter(pc.is_in(prefixes, value_set=keys)).to_pylist():
            self._join(self._by_digest[_key(row["digest"])], f"{row['cohort']}/{row['recording_id']}")

    def _rows(self, written: WrittenPart) -> Iterator[IndexRow]:
        orphans: dict[str, str] = {}
        there: set[str] = set()
        withdrawn: set[str] = set()
        committed: set[str] = set()
        by_recording = itertools.groupby(written.rows, lambda row: row.recording_id)
        labelled: list[IndexRow] = []
        for recording_id, rows in by_recording:
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
            for row in with_labels:
                self._remember(row)
            labelled += with_labels
        self.there += len(there)
        self._judge(written, orphans, withdrawn, there)
        self._taken.update(taken_items(written, committed))
        self.parts += bool(labelled)
        yield from sorted(labelled, key=lambda row: (row.array_path, row.offset))

    def _labelled(self, recording_id: str, rows: list[IndexRow]) -> list[IndexRow] | str:
        """Rows of a recording with their subject and labels; why not, where its subject is unknown."""
        for at, book in enumerate(self._books):
            key = book.key_of(recording_id)
            if key is not None and (other := self._meant.setdefault((at, key), recording_id)) != recording_id:
                return (
                    f"label row {key!r} is ambiguous: it means {other} too, and two people must not become one; fix: "
                    "write as much of the path into the table as tells them apart"
                )
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
        self._alone += subject == recording_id
        if found and not any(labels for _, labels in found):
            self._unlabelled += 1
            self._first_unlabelled = min(self._first_unlabelled or recording_id, recording_id)
        return [
            dataclasses.replace(row, subject_id=self._prefix + subject, labels=numbers, label_text=text) for row in rows
        ]

    def _is_there(self, rows: list[IndexRow]) -> bool:
        """Whether the corpus has got this very recording meanwhile: samples, names and person."""
        found = self._there.get((rows[0].cohort, rows[0].recording_id), set())
        return {(row.subject_id, row.channel, row.digest) for row in rows} == found

    def _remember(self, row: IndexRow) -> None:
        before = self._by_digest.setdefault(_key(row.digest), row.recording_id)
        if before != row.recording_id:
            self._join(before, row.recording_id)

    def _join(self, one: str, other: str) -> None:
        together = self._twins.setdefault(one, {one})
        together.add(other)
        self._twins[other] = together

    def _judge(self, written: WrittenPart, orphans: Mapping[str, str], withdrawn: set[str], there: set[str]) -> None:
        for outcome in written.outcomes:
            if outcome.name in there:
                continue
            if outcome.withdrawn or (outcome.kept and outcome.name in withdrawn):
                self.left_out.append(left_out(outcome.name, outcome.item))
            elif outcome.kept and outcome.name in orphans:
                self.rejected.append(
                    dataclasses.replace(outcome, kept=False, reason=orphans[outcome.name], channels=(), hours=0.0)
                )
            else:
                (self.kept if outcome.kept else self.rejected).append(outcome)


def _key(digest: str) -> bytes:
    return bytes.fromhex(digest[: 2 * _KEY_BYTES])
