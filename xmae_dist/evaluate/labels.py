"""The label of a task: where it is found among the columns of windows, and what number each window has of it.

A label may be measured in the windows themselves (a column), or carried by their recordings (a key of `labels` or of
`label_text`). What was measured comes first; a column without any value (`heart_rate_bpm` where no ECG was cut) leaves
the name to the recordings. Windows are met part by part, so what settles it may come late: `Labelled` tells for one
part, and who goes through all parts takes the first of `SOURCES` that had a value anywhere.

Legend: W windows of a table, K keys in their maps.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError, some_of
from xmae_dist.evaluate.tasks import Task

Floats = NDArray[np.float64]
MAPS = ("labels", "label_text")
MEASURED = "measured"
SOURCES = (MEASURED, *MAPS)


class Labelled:
    """Windows of one table, asked for labels; the keys of their maps are read once, for whatever number of labels."""

    def __init__(self, windows: pa.Table) -> None:
        self._windows = windows
        self._carried: dict[str, _Carried] = {}

    def find(self, label: str, source: str) -> pa.ChunkedArray | None:
        """The label of each window from one of `SOURCES`; None where no window has it from there."""
        if source == MEASURED:
            return self._measured(label)
        if source not in self._windows.column_names:
            return None
        if source not in self._carried:
            self._carried[source] = _Carried(self._windows[source])
        return self._carried[source].find(label)

    def _measured(self, label: str) -> pa.ChunkedArray | None:
        if label not in self._windows.column_names or not _has_values(self._windows[label]):
            return None
        column = self._windows[label]
        if label == "pulse_arrival_s" and "arrival_time_absolute" in self._windows.column_names:
            # Where two clocks were aligned the arrival time is a declared prior, which nothing can be tested on.
            unknown = pa.scalar(None, column.type)
            return pc.if_else(pc.fill_null(self._windows["arrival_time_absolute"], True), column, unknown)
        return column


class _Carried:
    """A column of maps by its keys."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        maps = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        self._items = maps.items
        self._starts_W = maps.offsets.to_numpy()
        self._known_W = maps.is_valid().to_numpy(zero_copy_only=False)
        keys = maps.keys.dictionary_encode()
        self._code_K = keys.indices.to_numpy(zero_copy_only=False)
        self._keys = {key: code for code, key in enumerate(keys.dictionary.to_pylist())}

    def find(self, key: str) -> pa.ChunkedArray | None:
        """The first value of each window under `key`."""
        if key not in self._keys:
            return None
        low, high = self._starts_W[[0, -1]]
        place_K = low + np.flatnonzero(self._code_K[low:high] == self._keys[key])
        window_K = np.searchsorted(self._starts_W, place_K, side="right") - 1
        place_W = np.full(len(self._known_W), -1)
        place_W[window_K[::-1]] = place_K[::-1]  # the last to be written is the first of its window
        found = self._items.take(pa.array(place_W, mask=(place_W < 0) | ~self._known_W))
        return pa.chunked_array([found]) if found.null_count < len(found) else None


def no_such_label(task: Task, tables: Iterable[pa.Table]) -> InputError:
    """The error for a label that no window has, with those that there are."""
    return InputError(
        f"task {task.name}: label column",
        value=f"no {task.label!r}",
        expected=f"one of {some_of(available_labels(tables))}",
        fix="correct `label` in the task file (`xmae inspect` lists all labels), or ingest recordings that carry it",
    )


def available_labels(tables: Iterable[pa.Table]) -> list[str]:
    """Columns, and keys of the maps, of all tables."""
    names: set[str] = set()
    for windows in tables:
        names.update(name for name in windows.column_names if name not in MAPS)
        for name in MAPS:
            if name in windows.column_names and len(windows):
                column = windows[name].combine_chunks()
                keys = column.keys if isinstance(column, pa.MapArray) else pa.array([], pa.string())
                names.update(str(key) for key in pc.unique(keys).to_pylist())
    return sorted(names)


def label_values(task: Task, column: pa.ChunkedArray, start_W: Floats) -> Floats:
    """(W,) the label as a number; NaN where there is none. `start_W` are the windows' starts in seconds.

    Raises InputError for texts that are no classes, and for numbers that are none of a binary task's two.
    """
    if task.epoch_s:
        column = _letters(task, column, start_W)
    if task.classes:
        return _class_index(task, column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        raise InputError(
            f"task {task.name}: label {task.label!r}",
            value="text",
            expected="numbers",
            fix="list the texts under `classes`",
        )
    y_W = np.asarray(pc.fill_null(pc.cast(column, pa.float64()), float("nan")).to_numpy(), float).copy()
    if task.valid_range:
        y_W[(y_W < task.valid_range[0]) | (y_W > task.valid_range[1])] = np.nan
    if task.below is not None:
        y_W = np.where(np.isfinite(y_W), y_W < task.below, np.nan)
    if task.threshold is not None:
        y_W = np.where(np.isfinite(y_W), y_W >= task.threshold, np.nan)
    if task.kind == "binary" and not set(np.unique(y_W[np.isfinite(y_W)])) <= {0.0, 1.0}:
        raise InputError(
            f"task {task.name}: label {task.label!r}",
            value=f"up to {np.nanmax(y_W):g}",
            expected="0 or 1 for a binary task",
            fix="give the task a `threshold`, `below` or `classes`",
        )
    return y_W


def _has_values(column: pa.ChunkedArray) -> bool:
    known = column.is_valid()
    if pa.types.is_floating(column.type):
        known = pc.and_(known, pc.invert(pc.fill_null(pc.is_nan(column), True)))
    return bool(pc.any(known).as_py())


def _letters(task: Task, column: pa.ChunkedArray, start_W: Floats) -> pa.ChunkedArray:
    """The letter of the epoch in which each window starts; null where the text is missing or too short."""
    texts = column.combine_chunks().dictionary_encode()
    words = [word if isinstance(word, str) else "" for word in texts.dictionary.to_pylist()]
    width = max(map(len, words), default=0) + 1
    letters = np.array([list(word.ljust(width)) for word in words]).reshape(len(words), width)
    code_W = np.asarray(pc.fill_null(texts.indices, -1).to_numpy(zero_copy_only=False))
    place_W = np.minimum(np.floor(start_W / task.epoch_s).astype(int), width - 1)
    found_W = letters[code_W, place_W] if len(words) else np.full(len(code_W), " ")
    return pa.chunked_array([pa.array(found_W, mask=(code_W < 0) | (found_W == " "))])


def _class_index(task: Task, column: pa.ChunkedArray) -> Floats:
    """Index of the class of each value; an entry of `classes` may be a list of values that count as one."""
    index: dict[object, float] = {}
    for i, entry in enumerate(task.classes):
        for value in entry if isinstance(entry, list | tuple) else (entry,):
            index[value] = float(i)
    return np.asarray(column.to_pandas().map(index), float)
