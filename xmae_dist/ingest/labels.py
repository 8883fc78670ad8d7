"""Labels beside the recordings: a manifest with a row per recording, or label files that a mapping names."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.label_cells import all_numbers, split_kinds
from xmae_dist.ingest.formats.mapping import LabelFile
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is known of one recording. `subject_id` is None where no subject column was named."""

    subject_id: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    text: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LabelBook:
    """Labels by recording id. `names_subjects`: every recording must be in it, or its subject is unknown."""

    by_recording: Mapping[str, Labels] = field(default_factory=dict)
    names_subjects: bool = False

    def of(self, recording_id: str) -> Labels | None:
        """Labels of a recording, by its id or by the last part of it (`041s/041s` is found as `041s`)."""
        found = self.by_recording.get(recording_id)
        return found or self.by_recording.get(recording_id.rsplit("/", 1)[-1])


def read_manifest(url: str, record_column: str, subject_column: str | None) -> LabelBook:
    """A CSV manifest: `record_column` names the recording, `subject_column` its subject, the rest are labels.

    A column whose every filled cell is a number becomes numeric labels, any other text labels. Raises
    InputError for a column that is not there or a recording that stands twice.
    """
    rows = _read_rows(url, delimiter=",", quote='"', encoding="utf-8-sig")
    _require(rows, [record_column] + ([subject_column] if subject_column else []), url)
    others = [name for name in rows[0] if name not in (record_column, subject_column)] if rows else []
    numeric = {name for name in others if all_numbers(row[name] for row in rows)}
    book: dict[str, Labels] = {}
    for row in rows:
        record = row[record_column]
        if record in book:
            raise InputError(f"manifest {url}", value=f"record {record!r} twice", fix="keep one row of it")
        numbers, text = split_kinds({name: row[name] for name in others}, numeric)
        subject = row[subject_column].strip() if subject_column else None
        book[record] = Labels(subject_id=subject or None, numbers=numbers, text=text)
    return LabelBook(by_recording=book, names_subjects=subject_column is not None)


def read_label_files(folder_url: str, files: Iterable[LabelFile]) -> LabelBook:
    """The label files of a mapping, joined by recording id."""
    numbers: dict[str, dict[str, float]] = {}
    text: dict[str, dict[str, str]] = {}
    for file in files:
        url = file.path if "://" in file.path else uri.join(folder_url, file.path)
        rows = _read_rows(url, delimiter=file.delimiter, quote=file.quote, encoding=file.encoding)
        _require(rows, [file.key, *file.columns.values()], url)
        numeric = {name for name, column in file.columns.items() if all_numbers(row[column] for row in rows)}
        for row in rows:
            found_numbers, found_text = split_kinds({n: row[c] for n, c in file.columns.items()}, numeric)
            numbers.setdefault(row[file.key], {}).update(found_numbers)
            text.setdefault(row[file.key], {}).update(found_text)
    return LabelBook(by_recording={key: Labels(numbers=numbers[key], text=text[key]) for key in numbers})


def _read_rows(url: str, *, delimiter: str, quote: str, encoding: str) -> list[dict[str, str]]:
    try:
        text = uri.read_bytes(url).decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"label file {url}", value=f"not {encoding} ({error})", expected="a CSV file") from error
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter, quotechar=quote))


def _require(rows: list[dict[str, str]], columns: list[str], url: str) -> None:
    if not rows:
        raise InputError(f"label file {url}", value="no rows", expected="a header and a row per recording")
    for column in columns:
        if column not in rows[0]:
            raise InputError(
                f"label file {url}",
                value=f"no column {column!r}",
                expected="one of " + ", ".join(rows[0]),
                fix="correct the column's name",
            )
