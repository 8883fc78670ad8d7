"""From windows, part by part, to the units of tasks.

A window that no task wants leaves nothing behind. Of a window that is a unit by itself 40 bytes stay until the end; of
units that pool windows, 16 bytes for each run of consecutive windows and about 40 for each unit and part that holds
some of it. Names stay once a part (`names`). A cap on the windows of a person takes those with the smallest hashes of
recording and start time, so that it does not matter in which order and in how many parts they came. A limit on the
units of a task is kept when all were met, before they get names.

Legend: W windows of a part, K of them that are kept, U units that a part holds some of, N units of the task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.core.seeds import hash_u64
from xmae_dist.evaluate.examples import Examples
from xmae_dist.evaluate.labels import SOURCES, Labelled, label_values, no_such_label
from xmae_dist.evaluate.members import Ids, Members
from xmae_dist.evaluate.names import Codes, Names, Numbered, Settled
from xmae_dist.evaluate.tasks import Task

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
OF_EVERY_TASK = ("window_id", "subject_id", "recording_id", "cohort", "start_s")
# Windows of a task that are held before those which a cap leaves out are dropped again: people may be in many parts.
_HELD_WINDOWS = 2**22
_SUBJECT = 3  # place of the subject among the columns that are held


@dataclass(frozen=True, kw_only=True)
class Limit:
    """At most `windows` of a subject in a task of windows, and `units` of a task (0: all), drawn by `seed`."""

    windows: int = 0
    units: int = 0
    seed: int = 0


def examples(task: Task, tables: Iterable[pa.Table], *, limit: Limit | None = None) -> Examples:
    """The units of one task: see `gathered`. Raises what is found in place of them."""
    found = gathered([task], tables, limit=limit)[task.name]
    if isinstance(found, InputError):
        raise found
    return found


def gathered(
    tasks: Sequence[Task], tables: Iterable[pa.Table], *, limit: Limit | None = None
) -> dict[str, Examples | InputError]:
    """By name of task its units, or what is wrong with its label, in one pass over windows.

    `tables` are windows in the order of their ids with the columns `OF_EVERY_TASK` and those of labels; they may be
    gone through again to say which labels there are. Raises InputError for a table without a column that all need.
    """
    catalogue = _Catalogue()
    gatherings = [_Gathering(task, limit or Limit(), catalogue) for task in tasks]
    for table in tables:
        part = catalogue.part(table)
        for one in gatherings:
            one.add(part)
    names = catalogue.settled()
    return {one.task.name: one.found(names, tables) for one in gatherings}


def gathered_by(
    axis: str, tasks: Sequence[Task], tables: Iterable[pa.Table], *, limit: Limit | None = None
) -> dict[str, dict[str, Examples]]:
    """By name of task, and by value of `axis` (a column, or a label of recordings), its units among such windows.

    A value without a usable label is left out.
    """
    catalogue = _Catalogue()
    by_source: dict[str, dict[tuple[str, str], _Gathering]] = {}
    for table in tables:
        part = catalogue.part(table)
        for source in SOURCES:
            column = part.labelled.find(axis, source)
            if column is not None:
                here = by_source.setdefault(source, {})
                for value, some in _by_value(part, column):
                    for task in tasks:
                        one = here.setdefault((task.name, value), _Gathering(task, limit or Limit(), catalogue))
                        one.add(some)
            if source in by_source:
                break
    names = catalogue.settled()
    chosen = next((by_source[source] for source in SOURCES if source in by_source), {})
    found = {key: one.found(names, ()) for key, one in chosen.items()}
    return {
        task.name: {
            value: units
            for (name, value), units in sorted(found.items(), key=lambda item: item[0])
            if name == task.name and not isinstance(units, InputError)
        }
        for task in tasks
    }


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Some windows in the order of their ids, and what every task asks of them."""

    table: pa.Table
    id_W: Ids
    start_W: Floats
    subject: Numbered
    recording: Numbered

    @cached_property
    def labelled(self) -> Labelled:
        return Labelled(self.table)

    def rows(self, rows: Rows) -> _Part:
        """Some of them."""
        return _Part(
            table=self.table.take(pa.array(rows)),
            id_W=self.id_W[rows],
            start_W=self.start_W[rows],
            subject=self.subject.rows(rows),
            recording=self.recording.rows(rows),
        )

    def rank(self, seed: int, rows: Rows) -> NDArray[np.uint64]:
        """Hashes by which the windows of a person are drawn."""
        place, inverse_K = np.unique(self.recording.place_W[rows], return_inverse=True)
        names = self.recording.names.take(pa.array(place)).to_pylist()
        hashes = np.array([hash_u64(name) for name in names], np.uint64)
        return hash_u64("subsample", seed, hashes[inverse_K], np.round(self.start_W[rows] * 1000).astype(np.int64))


@dataclass(frozen=True)
class _Catalogue:
    """Who and what the windows are of that were met so far."""

    subjects: Names = field(default_factory=Names)
    recordings: Names = field(default_factory=Names)

    def part(self, table: pa.Table) -> _Part:
        for name in OF_EVERY_TASK:
            if name not in table.column_names:
                raise InputError(
                    "window table",
                    value=f"no column {name!r}",
                    expected=", ".join(OF_EVERY_TASK),
                    fix="materialise the windows again",
                )
        return _Part(
            table=table,
            id_W=np.asarray(table["window_id"].to_numpy(), np.int64),
            start_W=np.asarray(table["start_s"].to_numpy(), float),
            subject=self.subjects.add(table["subject_id"]),
            recording=self.recordings.add(recording_names(table)),
        )

    def settled(self) -> tuple[Settled, Settled]:
        return self.subjects.settled(), self.recordings.settled()


def recording_names(table: pa.Table) -> pa.ChunkedArray:
    """Of each window the cohort and the name in it: what tells recordings of several cohorts apart."""
    return pc.binary_join_element_wise(table["cohort"], table["recording_id"], "/")


class _Gathering:
    """One task's windows, by where its label was found: which of these counts is known when all were met."""

    def __init__(self, task: Task, limit: Limit, catalogue: _Catalogue) -> None:
        self.task = task
        self._limit, self._catalogue = limit, catalogue
        self._kept: dict[str, _Windows | _Pools] = {}
        self._wrong: dict[str, InputError] = {}
        self._has_column = False

    def add(self, part: _Part) -> None:
        self._has_column |= self.task.label in part.table.column_names
        for source in SOURCES:
            column = part.labelled.find(self.task.label, source)
            if column is not None:
                self._add(source, part, column)
            if source in self._kept:
                break  # what comes after it never counts

    def _add(self, source: str, part: _Part, column: pa.ChunkedArray) -> None:
        if source not in self._kept:
            by_window = self.task.unit == "window"
            limit = self._limit
            self._kept[source] = _Windows(limit, self._catalogue) if by_window else _Pools(self.task, limit)
        try:
            y_W = label_values(self.task, column, part.start_W)
        except InputError as error:
            self._wrong.setdefault(source, error)
            return
        rows = np.flatnonzero(np.isfinite(y_W) & _selected(self.task, part.table))
        if len(rows):
            self._kept[source].add(part, rows, y_W[rows])

    def found(self, names: tuple[Settled, Settled], tables: Iterable[pa.Table]) -> Examples | InputError:
        source = next((source for source in SOURCES if source in self._kept), None)
        if source is None and not self._has_column:
            return no_such_label(self.task, tables)
        if source in self._wrong:
            return self._wrong[source]
        units = None if source is None else self._kept[source].examples(*names)
        if units is None:
            return InputError(
                f"task {self.task.name}: windows",
                value="none with a label",
                expected="labelled windows",
                fix="check `cohorts`, `min_quality` and `classes` of the task against `xmae inspect`",
            )
        return units.centre() if self.task.centred else units


class _Windows:
    """Windows that are units themselves."""

    def __init__(self, limit: Limit, catalogue: _Catalogue) -> None:
        self._limit, self._catalogue = limit, catalogue
        self._chunks: list[tuple[NDArray, ...]] = []
        self._held, self._most = 0, _HELD_WINDOWS

    def add(self, part: _Part, rows: Rows, y_K: Floats) -> None:
        rank_K = part.rank(self._limit.seed, rows) if self._limit.windows else np.zeros(len(rows), np.uint64)
        columns = (part.id_W[rows], y_K, part.start_W[rows], part.subject[rows], part.recording[rows], rank_K)
        self._keep(columns, part.subject.place_W[rows])
        if self._held > self._most:
            self._merge(self._catalogue.subjects.settled())
            self._most = max(_HELD_WINDOWS, 2 * self._held)

    def _keep(self, columns: tuple[NDArray, ...], person_K: Codes) -> None:
        if self._limit.windows:
            keep_K = _at_most(self._limit.windows, person_K, columns[-1])
            columns = tuple(column[keep_K] for column in columns)
        self._chunks.append(columns)
        self._held += len(columns[0])

    def _merge(self, subjects: Settled) -> None:
        """One chunk of all, without what the cap leaves out."""
        columns = tuple(np.concatenate(chunks) for chunks in zip(*self._chunks, strict=True))
        self._chunks, self._held = [], 0
        self._keep(columns, subjects.place_K[columns[_SUBJECT]])

    def examples(self, subjects: Settled, recordings: Settled) -> Examples | None:
        if not self._chunks:
            return None
        self._merge(subjects)
        columns = self._chunks[0]
        rows = _drawn(self._limit, subjects.place_K[columns[_SUBJECT]])
        id_N, y_N, start_N, subject_N, recording_N, _ = (column[rows] for column in columns)
        name_N = np.char.add(np.char.add(recordings.text(recording_N), "@"), np.round(start_N, 3).astype(str))
        return Examples(
            y_N=y_N,
            subject_N=subjects.text(subject_N),
            name_N=name_N,
            windows=Members.one_each(id_N),
            left_out=len(columns[0]) - len(rows),
        )


class _Pools:
    """Units that pool windows: what of each a part holds."""

    def __init__(self, task: Task, limit: Limit) -> None:
        self._task, self._limit = task, limit
        self._n_classes = 0 if task.kind == "regression" else max(2, len(task.classes))
        self._units: list[tuple[NDArray, ...]] = []
        self._runs: list[Members] = []
        self._n_units = 0

    def add(self, part: _Part, rows: Rows, y_K: Floats) -> None:
        owner = part.subject if self._task.unit == "subject" else part.recording
        code_K, epoch_K = owner[rows], np.zeros(len(rows), np.int64)
        if self._task.unit == "epoch":
            epoch_K = np.floor(part.start_W[rows] / self._task.epoch_s).astype(np.int64)
        key_K = (code_K.astype(np.int64) << 32) + epoch_K
        _, first_U, unit_K = np.unique(key_K, return_index=True, return_inverse=True)
        self._units.append(
            (
                code_K[first_U],
                epoch_K[first_U],
                part.subject[rows[first_U]],
                np.bincount(unit_K),
                self._told(y_K, unit_K),
            )
        )
        self._runs.append(Members.of(part.id_W[rows], unit_K + self._n_units))
        self._n_units += len(first_U)

    def _told(self, y_K: Floats, unit_K: NDArray[np.integer]) -> NDArray:
        """(U,) sums of labels, or (U, C) how often each class."""
        if not self._n_classes:
            return np.bincount(unit_K, weights=y_K)
        n_units = int(unit_K.max()) + 1
        counts = np.bincount(unit_K * self._n_classes + y_K.astype(int), minlength=n_units * self._n_classes)
        return counts.reshape(n_units, self._n_classes)

    def examples(self, subjects: Settled, recordings: Settled) -> Examples | None:
        if not self._units:
            return None
        code_U, epoch_U, subject_U, count_U, told_U = (
            np.concatenate(columns) for columns in zip(*self._units, strict=True)
        )
        names = subjects if self._task.unit == "subject" else recordings
        key_U: NDArray = names.place_K[code_U]  # in the order of names
        if self._task.unit == "epoch":
            key_U = np.char.add(names.text(code_U), np.char.mod("#%05d", epoch_U))
        key_M, first_M, unit_U = np.unique(key_U, return_index=True, return_inverse=True)
        rows = _drawn(self._limit, subjects.place_K[subject_U[first_M]])
        told_M = np.zeros((len(key_M), *told_U.shape[1:]))
        np.add.at(told_M, unit_U, told_U)
        y_M = told_M.argmax(axis=1).astype(float) if self._n_classes else told_M / np.bincount(unit_U, weights=count_U)
        windows = Members(
            first_R=np.concatenate([runs.first_R for runs in self._runs]),
            length_R=np.concatenate([runs.length_R for runs in self._runs]),
            unit_R=unit_U[np.concatenate([runs.unit_R for runs in self._runs])].astype(np.int32),
        )
        first_N = first_M[rows]
        return Examples(
            y_N=y_M[rows],
            subject_N=subjects.text(subject_U[first_N]),
            name_N=key_M[rows] if self._task.unit == "epoch" else names.text(code_U[first_N]),
            windows=windows if len(rows) == len(key_M) else windows.of_units(rows),
            left_out=len(key_M) - len(rows),
        )


def _selected(task: Task, windows: pa.Table) -> NDArray[np.bool_]:
    keep_W = np.ones(len(windows), bool)
    if task.cohorts:
        keep_W &= pc.is_in(windows["cohort"], pa.array(task.cohorts)).to_numpy()
    if task.min_quality > 0:
        column = "quality" if "quality" in windows.column_names else "quality_ppg"
        keep_W &= np.asarray(windows[column].to_numpy(), float) >= task.min_quality
    return keep_W


def _at_most(limit: int, person_K: Codes, rank_K: NDArray[np.uint64]) -> Rows:
    """The rows, ascending, of at most `limit` windows of each person: those of the lowest ranks."""
    order_K = np.lexsort((rank_K, person_K))
    first = np.flatnonzero(np.r_[True, np.diff(person_K[order_K]) != 0])
    place_K = np.arange(len(order_K)) - np.repeat(first, np.diff(np.r_[first, len(order_K)]))
    return np.sort(order_K[place_K < limit])


def _drawn(limit: Limit, person_N: Codes) -> Rows:
    """The rows, ascending, of at most `limit.units` units: everybody gives as many, or all, drawn by a hash.

    With more people than that, some give one and the others none.
    """
    n = len(person_N)
    if not limit.units or n <= limit.units:
        return np.arange(n)
    count_S = np.unique(person_N, return_counts=True)[1]
    fewest, most = 0, int(count_S.max())
    while most - fewest > 1:
        each = (fewest + most) // 2
        fewest, most = (each, most) if np.minimum(count_S, each).sum() <= limit.units else (fewest, each)
    rank_N = hash_u64("units", limit.seed, np.arange(n))
    rows = _at_most(max(1, fewest), person_N, rank_N)
    return rows if fewest else np.sort(rows[np.argsort(rank_N[rows])[: limit.units]])


def _by_value(part: _Part, column: pa.ChunkedArray) -> Iterable[tuple[str, _Part]]:
    values = pc.cast(column, pa.string()).combine_chunks().dictionary_encode()
    code_W = np.asarray(pc.fill_null(values.indices, -1).to_numpy(zero_copy_only=False))
    for code, value in enumerate(values.dictionary.to_pylist()):
        yield value, part.rows(np.flatnonzero(code_W == code))
