"""From a window table to the units of a task: which windows, their label, and whose they are.

Legend: W windows of the table, N units of the task, E features.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.core.seeds import hash_u64
from xmae_dist.evaluate.scores.metrics import sum_by
from xmae_dist.evaluate.tasks import Task

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MAPS = ("labels", "label_text")


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Units of a task: y_N, the subject and a readable name of each, and which windows (rows_M) feed unit_M.

    `centred`: features are deviations from the subject's mean, as y_N is.
    """

    y_N: Floats
    subject_N: NDArray[np.str_]
    name_N: NDArray[np.str_]
    rows_M: Ints
    unit_M: Ints
    centred: bool = False

    def features(self, embedding_WE: NDArray[np.floating]) -> Floats:
        """(N, E): the embedding of each window, or the mean embedding of the windows of each unit."""
        x_NE = self._pooled(embedding_WE[self.rows_M].astype(float))
        return x_NE - self._subject_mean(x_NE) if self.centred else x_NE

    def centre(self) -> "Examples":
        """These units with labels (and, when asked for, features) as deviations from each subject's mean."""
        return replace(self, y_N=self.y_N - self._subject_mean(self.y_N[:, None])[:, 0], centred=True)

    def _pooled(self, taken_ME: Floats) -> Floats:
        n_units = len(self.y_N)
        if len(self.rows_M) == n_units and np.array_equal(self.unit_M, np.arange(n_units)):
            return taken_ME
        return sum_by(self.unit_M, taken_ME, n_units) / np.bincount(self.unit_M, minlength=n_units)[:, None]

    def _subject_mean(self, x_NE: Floats) -> Floats:
        code_N = np.unique(self.subject_N, return_inverse=True)[1]
        count_S = np.bincount(code_N)
        return (sum_by(code_N, x_NE, len(count_S)) / count_S[:, None])[code_N]


def examples(task: Task, windows: pa.Table, *, max_windows_per_subject: int = 0, seed: int = 0) -> Examples:
    """Select and label the units of `task`. Raises InputError for a column that is missing or not usable.

    Window tasks keep at most `max_windows_per_subject` windows of a subject (0: all), chosen by a hash of recording
    and start time, so that long recordings do not drown short ones and fits stay small.
    """
    y_W = label_values(task, windows)
    keep_W = np.isfinite(y_W) & _selected(task, windows)
    subject_W = _strings(windows, "subject_id")
    recording_W = np.char.add(np.char.add(_strings(windows, "cohort"), "/"), _strings(windows, "recording_id"))
    start_W = np.asarray(windows["start_s"].to_numpy(zero_copy_only=False), float)
    if task.unit == "window" and max_windows_per_subject:
        keep_W &= _at_most(max_windows_per_subject, keep_W, subject_W, recording_W, start_W, seed)
    rows_M = np.flatnonzero(keep_W)
    if not len(rows_M):
        raise InputError(
            f"task {task.name}: windows",
            value="none with a label",
            expected="labelled windows",
            fix="check `cohorts`, `min_quality` and `classes` of the task against `xmae inspect`",
        )
    found = _units(task, y_W, subject_W, recording_W, start_W, rows_M)
    return found.centre() if task.centred else found


def _units(
    task: Task,
    y_W: Floats,
    subject_W: NDArray[np.str_],
    recording_W: NDArray[np.str_],
    start_W: Floats,
    rows_M: Ints,
) -> Examples:
    if task.unit == "window":
        name_M = np.char.add(np.char.add(recording_W[rows_M], "@"), np.round(start_W[rows_M], 3).astype(str))
        return Examples(
            y_N=y_W[rows_M], subject_N=subject_W[rows_M], name_N=name_M, rows_M=rows_M, unit_M=np.arange(len(rows_M))
        )
    key_M = (subject_W if task.unit == "subject" else recording_W)[rows_M]
    if task.unit == "epoch":
        epoch_M = np.floor(start_W[rows_M] / task.epoch_s).astype(int)
        key_M = np.char.add(key_M, np.char.mod("#%05d", epoch_M))
    name_N, first_N, unit_M = np.unique(key_M, return_index=True, return_inverse=True)
    mean_N = np.bincount(unit_M, weights=y_W[rows_M]) / np.bincount(unit_M)
    y_N = mean_N if task.kind == "regression" else _majority(y_W[rows_M], unit_M, len(name_N))
    return Examples(y_N=y_N, subject_N=subject_W[rows_M][first_N], name_N=name_N, rows_M=rows_M, unit_M=unit_M)


def label_values(task: Task, windows: pa.Table) -> Floats:
    """(W,) label of each window as a number; NaN where it has none. Raises InputError when no window has it."""
    column = label_column(task, windows)
    if task.epoch_s:
        column = _letters(task, column, np.asarray(windows["start_s"].to_numpy(zero_copy_only=False), float))
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


def label_column(task: Task, windows: pa.Table) -> pa.ChunkedArray:
    """The label's column: of the table, of its `labels` map, or of its `label_text` map.

    What was measured in the windows themselves comes first; a column without any value (`heart_rate_bpm` where no ECG
    was cut) leaves the name to the label that the recordings carry.
    """
    measured = task.label in windows.column_names
    labelled = _from_maps(task.label, windows)
    if measured and (labelled is None or _has_values(windows[task.label])):
        column = windows[task.label]
        if task.label == "pulse_arrival_s" and "arrival_time_absolute" in windows.column_names:
            # Where two clocks were aligned the arrival time is a declared prior, which nothing can be tested on.
            unknown = pa.scalar(None, column.type)
            return pc.if_else(pc.fill_null(windows["arrival_time_absolute"], True), column, unknown)
        return column
    if labelled is not None:
        return labelled
    raise InputError(
        f"task {task.name}: label column",
        value=f"no {task.label!r}",
        expected="one of " + ", ".join(available_labels(windows)),
        fix="correct `label` in the task file, or ingest recordings that carry it",
    )


def _from_maps(label: str, windows: pa.Table) -> pa.ChunkedArray | None:
    """The label as the recordings carry it; None where no recording does."""
    for name in MAPS:
        if name in windows.column_names:
            found = pc.map_lookup(windows[name], label, "first")
            if found.null_count < len(found):
                return found
    return None


def _has_values(column: pa.ChunkedArray) -> bool:
    known = column.is_valid()
    if pa.types.is_floating(column.type):
        known = pc.and_(known, pc.invert(pc.fill_null(pc.is_nan(column), True)))
    return bool(pc.any(known).as_py())


def available_labels(windows: pa.Table) -> list[str]:
    names = [n for n in windows.column_names if n not in MAPS]
    for name in MAPS:
        if name in windows.column_names and len(windows):
            column = windows[name].combine_chunks()
            keys = column.keys if isinstance(column, pa.MapArray) else pa.array([], pa.string())
            names += [str(key) for key in pc.unique(keys).to_pylist()]
    return sorted(set(names))


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


def spread(group_N: NDArray[np.integer], limit: int) -> Ints:
    """Sorted places of at most `limit` evenly spaced members of each group."""
    order_N = np.argsort(group_N, kind="stable")
    members = np.split(order_N, np.flatnonzero(np.diff(group_N[order_N])) + 1)
    return np.sort(np.concatenate([m[np.linspace(0, len(m) - 1, min(limit, len(m))).astype(int)] for m in members]))


def _class_index(task: Task, column: pa.ChunkedArray) -> Floats:
    """Index of the class of each value; an entry of `classes` may be a list of values that count as one."""
    index: dict[object, float] = {}
    for i, entry in enumerate(task.classes):
        for value in entry if isinstance(entry, list | tuple) else (entry,):
            index[value] = float(i)
    unique = column.to_pandas().map(index)
    return np.asarray(unique, float)


def _selected(task: Task, windows: pa.Table) -> NDArray[np.bool_]:
    keep_W = np.ones(len(windows), bool)
    if task.cohorts:
        keep_W &= np.isin(_strings(windows, "cohort"), task.cohorts)
    if task.min_quality > 0:
        column = "quality" if "quality" in windows.column_names else "quality_ppg"
        keep_W &= np.asarray(windows[column].to_numpy(), float) >= task.min_quality
    return keep_W


def _at_most(
    limit: int,
    keep_W: NDArray[np.bool_],
    subject_W: NDArray[np.str_],
    recording_W: NDArray[np.str_],
    start_W: Floats,
    seed: int,
) -> NDArray[np.bool_]:
    names, code_W = np.unique(recording_W, return_inverse=True)
    name_hash = np.array([hash_u64(str(name)) for name in names], np.uint64)
    rank_W = hash_u64("subsample", seed, name_hash[code_W], np.round(start_W * 1000).astype(np.int64))
    person_W = np.unique(subject_W, return_inverse=True)[1]
    order_W = np.lexsort((rank_W, person_W, ~keep_W))
    place_W = np.empty(len(keep_W), np.int64)
    ordered = person_W[order_W]
    first = np.flatnonzero(np.r_[True, (np.diff(ordered) != 0) | (np.diff(keep_W[order_W]) != 0)])
    place_W[order_W] = np.arange(len(ordered)) - np.repeat(first, np.diff(np.r_[first, len(ordered)]))
    return keep_W & (place_W < limit)


def _majority(y_M: Floats, unit_M: Ints, n_units: int) -> Floats:
    """The most frequent class of each unit; the lower class wins a tie."""
    n_classes = int(y_M.max()) + 1
    counts = np.bincount(unit_M * n_classes + y_M.astype(int), minlength=n_units * n_classes)
    return counts.reshape(n_units, n_classes).argmax(axis=1).astype(float)


def _strings(windows: pa.Table, name: str) -> NDArray[np.str_]:
    if name not in windows.column_names:
        raise InputError(
            "window table",
            value=f"no column {name!r}",
            expected="subject_id, recording_id, cohort, start_s",
            fix="materialise the windows again",
        )
    return np.asarray(windows[name].to_pylist(), dtype=np.str_)
