"""Labels beside the recordings: a manifest with a row per recording, or label files that a mapping names."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from xmae_dist.core.errors import InputError, some_of
from xmae_dist.core.scratch import scratch
from xmae_dist.ingest.formats.label_cells import all_numbers, is_empty, split_kinds, stray_words
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
    """Labels by recording id. `names_subjects`: every recording must be in it, or its subject is unknown. `names`:
    the labels that it decides; `notes`: what is odd about its columns.
    """

    by_recording: Mapping[str, Labels] = field(default_factory=dict)
    names_subjects: bool = False
    names: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def key_of(self, recording_id: str) -> str | None:
        """The row that means a recording: its id, or the longest end of its path that has one (`041s/041s` is found
        as `041s`).
        """
        parts = recording_id.split("/")
        ends = ("/".join(parts[at:]) for at in range(len(parts)))
        return next((end for end in ends if end in self.by_recording), None)

    def of(self, recording_id: str) -> Labels | None:
        """Labels of a recording."""
        key = self.key_of(recording_id)
        return None if key is None else self.by_recording[key]


class Meanings:
    """Which recordings each row of some books means, on disk: one person must not become two, nor two one."""

    def __init__(self, books: Sequence[LabelBook]) -> None:
        self._books = books
        self._rows = scratch(
            "CREATE TABLE meant (book INTEGER, key TEXT, recording TEXT, PRIMARY KEY (book, key, recording)) "
            "WITHOUT ROWID;"
        )

    def add(self, recording_id: str) -> None:
        """Takes down the rows that mean a recording."""
        for at, book in enumerate(self._books):
            if (key := book.key_of(recording_id)) is not None:
                self._rows.execute("INSERT OR IGNORE INTO meant VALUES (?, ?, ?)", (at, key, recording_id))

    def other(self, recording_id: str) -> tuple[str, str] | None:
        """The row that means this recording, and another one that it means; None where each row means one alone."""
        for at, book in enumerate(self._books):
            if (key := book.key_of(recording_id)) is not None:
                query = "SELECT recording FROM meant WHERE book = ? AND key = ? AND recording != ? ORDER BY recording"
                if found := self._rows.execute(query, (at, key, recording_id)).fetchone():
                    return key, str(found[0])
        return None

    def check(self) -> None:
        """Raises InputError where one row of labels means several recordings."""
        query = "SELECT book, key, count(*) FROM meant GROUP BY book, key HAVING count(*) > 1 LIMIT 1"
        for book, key, count in self._rows.execute(query).fetchall():
            query = "SELECT recording FROM meant WHERE book = ? AND key = ? ORDER BY recording LIMIT 100"
            ids = [recording for (recording,) in self._rows.execute(query, (book, key))]
            raise InputError(
                f"label row {key!r}",
                value=f"ambiguous: it means {count} recordings, {some_of(ids)}",
                expected="a row for each recording",
                fix=f"write as much of the path as tells them apart, such as {ids[0]!r}",
            )


def check_unambiguous(books: Sequence[LabelBook], recording_ids: Iterable[str]) -> None:
    """Raises InputError where one row of labels means several of these recordings."""
    meanings = Meanings(books)
    for recording_id in recording_ids:
        meanings.add(recording_id)
    meanings.check()


def read_manifest(url: str, record_column: str, subject_column: str | None) -> LabelBook:
    """A CSV manifest: `record_column` names the recording, `subject_column` its subject, the rest are labels.

    A column whose every filled cell is a number becomes numeric labels, any other text labels. Raises
    InputError for a column that is not there or there twice, a row of another length, or a recording that stands
    twice.
    """
    rows = _read_rows(url, delimiter=",", quote='"', encoding="utf-8-sig")
    _require(rows, [record_column] + ([subject_column] if subject_column else []), url)
    others = [name for name in rows[0] if name not in (record_column, subject_column)] if rows else []
    numeric = {name for name in others if all_numbers(row[name] for row in rows)}
    book: dict[str, Labels] = {}
    for row in rows:
        record = _plain_key(row[record_column])
        if record in book:
            raise InputError(f"manifest {url}", value=f"record {record!r} twice", fix="keep one row of it")
        numbers, text = split_kinds({name: row[name] for name in others}, numeric)
        subject = row[subject_column] if subject_column else None
        known = None if subject is None or is_empty(subject) else subject.strip()
        book[record] = Labels(subject_id=known, numbers=numbers, text=text)
    return LabelBook(
        by_recording=book,
        names_subjects=subject_column is not None,
        names=frozenset(others),
        notes=tuple(_stray(rows, {name: name for name in others}, record_column, url)),
    )


def read_label_files(folder_url: str, files: Iterable[LabelFile]) -> LabelBook:
    """The label files of a mapping, joined by recording id."""
    numbers: dict[str, dict[str, float]] = {}
    text: dict[str, dict[str, str]] = {}
    names: set[str] = set()
    notes: list[str] = []
    for file in files:
        url = file.path if "://" in file.path else uri.join(folder_url, file.path)
        rows = _read_rows(url, delimiter=file.delimiter, quote=file.quote, encoding=file.encoding)
        _require(rows, [file.key, *file.columns.values()], url)
        numeric = {name for name, column in file.columns.items() if all_numbers(row[column] for row in rows)}
        names |= set(file.columns)
        notes += _stray(rows, file.columns, file.key, url)
        for row in rows:
            found_numbers, found_text = split_kinds({n: row[c] for n, c in file.columns.items()}, numeric)
            numbers.setdefault(row[file.key], {}).update(found_numbers)
            text.setdefault(row[file.key], {}).update(found_text)
    return LabelBook(
        by_recording={key: Labels(numbers=numbers[key], text=text[key]) for key in numbers},
        names=frozenset(names),
        notes=tuple(notes),
    )


def _plain_key(cell: str) -> str:
    """A recording as people write it in a table: a path with or without a file's suffix."""
    key = cell.strip().replace("\\", "/").removeprefix("./").strip("/")
    stem, suffix = posixpath.splitext(key)
    return stem if suffix.lower() in _SUFFIXES else key


_SUFFIXES = {".hea", ".dat", ".mat", ".csv", ".txt", ".tsv", ".parquet", ".edf", ".bdf", ".h5", ".hdf5", ".vital"}


def _stray(rows: Sequence[Mapping[str, str]], columns: Mapping[str, str], key: str, url: str) -> Iterable[str]:
    """Columns of numbers that a few words turn into text, in words."""
    for name, column in columns.items():
        stray = stray_words([row[column] for row in rows])
        if stray:
            at = stray[0]
            yield (
                f"label {name!r} is kept as text: {len(stray)} of its cells are no numbers, such as "
                f"{rows[at][column].strip()!r} of {rows[at][key]!r} in {url.rsplit('/', 1)[-1]}"
            )


def _read_rows(url: str, *, delimiter: str, quote: str, encoding: str) -> list[dict[str, str]]:
    thing = f"label file {url}"
    try:
        text = uri.read_bytes(url).decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(thing, value=f"not {encoding} ({error})", expected="a CSV file") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quotechar=quote)
    header: list[str] | None = None
    rows: list[dict[str, str]] = []
    try:
        for cells in reader:
            if not cells:
                continue
            if header is None:
                header = cells
                twice = sorted({name for name in cells if cells.count(name) > 1})
                if twice:
                    raise InputError(thing, value=f"column {twice[0]!r} twice", fix="rename or remove one of them")
            elif len(cells) != len(header):
                raise InputError(
                    thing,
                    value=f"{len(cells)} cells in line {reader.line_num}",
                    expected=f"{len(header)}, as many as columns",
                    fix=f"fill the line up, or put a cell that holds {delimiter!r} in quotes",
                )
            else:
                rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise InputError(thing, value=f"unreadable at line {reader.line_num} ({error})", expected="CSV") from error
    return rows


def _require(rows: list[dict[str, str]], columns: list[str], url: str) -> None:
    if not rows:
        raise InputError(f"label file {url}", value="no rows", expected="a header and a row per recording")
    for column in columns:
        if column not in rows[0]:
            raise InputError(
                f"label file {url}",
                value=f"no column {column!r}",
                expected="one of " + some_of(rows[0]),
                fix="correct the column's name",
            )
