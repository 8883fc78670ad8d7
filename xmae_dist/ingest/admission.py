"""Whose recordings a run takes in: those of nobody who was withdrawn, and none that is in already."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from xmae_dist.ingest.formats.source import Origin
from xmae_dist.ingest.labels import LabelBook
from xmae_dist.ingest.written import Outcome


@dataclass(frozen=True, kw_only=True)
class Admission:
    """What a worker must know to leave recordings out before it writes a sample of them; empty in most runs."""

    withdrawn: frozenset[str] = frozenset()
    """Subjects."""
    there: frozenset[str] = frozenset()
    """Recordings of files that are read again for others which they hold."""
    books: tuple[LabelBook, ...] = ()
    """Where the subjects stand that files do not name; needed only where somebody is withdrawn."""
    subject_prefix: str = ""
    subject_pattern: str | None = None

    def refusal(self, origin: Origin, item: str) -> Outcome | None:
        """The outcome of a recording of a withdrawn subject, None of any other."""
        if not self.withdrawn or self._subject(origin) not in self.withdrawn:
            return None
        return left_out(origin.recording_id, item)

    def _subject(self, origin: Origin) -> str:
        name = origin.recording_id
        subject = origin.subject_id or subject_by(self.subject_pattern, name) or name
        for book in self.books:
            labels = book.of(name)
            subject = (labels.subject_id if labels is not None else None) or subject
        return self.subject_prefix + subject


NOBODY = Admission()


def admission(
    withdrawn: frozenset[str],
    there: frozenset[str],
    books: Sequence[LabelBook],
    subject_prefix: str,
    subject_pattern: str | None = None,
) -> Admission:
    """What the workers of a run are told, and no more: labels of a large cohort are many megabytes."""
    return Admission(
        withdrawn=withdrawn,
        there=there,
        books=tuple(books) if withdrawn else (),
        subject_prefix=subject_prefix,
        subject_pattern=subject_pattern,
    )


def subject_by(pattern: str | None, recording_id: str) -> str | None:
    """The first group of `pattern` in the name of a recording; None where there is no pattern or it is not found."""
    found = re.search(pattern, recording_id) if pattern is not None else None
    return found.group(1) if found else None


def left_out(recording_id: str, item: str) -> Outcome:
    """The outcome of a recording whose subject was withdrawn."""
    return Outcome(name=recording_id, item=item, kept=False, reason="its subject was withdrawn", withdrawn=True)
