"""What of each recording was kept, by what is known of the people: whether cleaning prefers some hearts to others.

    <part>/sources.parquet    a row per recording of the part: windows kept, windows dropped by reason, its labels
    kept.json                 the groups of `RHYTHM_LABELS`, worked out when the store was made

Windows with an irregular pulse correlate less with the median beat of their minute, so a threshold on quality drops
them first. A label is text (a group for each value), yes or no, or a number: 0, and the rest up to and over its median.

Memory: some 50 bytes for each recording that has the label, one part at a time beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

RHYTHM_LABELS = ("rhythm", "af", "ectopy_per_min", "frequent_ectopy")
"""Labels that are told where recordings have them and none are asked for."""
SOURCES = "sources.parquet"
KEPT = "kept.json"
SOURCES_SCHEMA = pa.schema(
    [
        pa.field("cohort", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("kept", pa.int64(), nullable=False),
        pa.field("dropped", pa.map_(pa.string(), pa.int64())),
        pa.field("labels", pa.map_(pa.string(), pa.float64())),
        pa.field("label_text", pa.map_(pa.string(), pa.string())),
    ]
)
_MOST_TEXTS = 12  # a text with more values than this is no group (ids, notes)


@dataclass(frozen=True, kw_only=True)
class KeptGroup:
    """The windows of recordings that share a value of a label."""

    label: str
    group: str
    recordings: int = 0
    subjects: int = 0
    kept: int = 0
    low_quality: int = 0
    """Dropped for the correlation of their beats, in either signal."""
    other: int = 0
    """Dropped for another reason."""

    @property
    def kept_share(self) -> float:
        """Of all windows that there might be; NaN where there are none."""
        possible = self.kept + self.low_quality + self.other
        return self.kept / possible if possible else float("nan")


def kept_by_label(sources: Iterable[pa.Table], labels: Sequence[str] = ()) -> list[KeptGroup]:
    """A group for each value of each label that recordings have: those asked for, else `RHYTHM_LABELS`.

    `sources` are tables of `SOURCES_SCHEMA`.
    """
    names = labels or RHYTHM_LABELS
    found: dict[str, list[pa.Table]] = {label: [_COLUMNS.empty_table()] for label in names}
    for table in sources:
        table = table.combine_chunks()
        for label in names:
            found[label].append(_with_label(table, label))
    return [group for label in names for group in _groups(label, pa.concat_tables(found[label]))]


_COLUMNS = pa.schema(
    [
        ("subject", pa.string()),
        ("kept", pa.int64()),
        ("low", pa.int64()),
        ("other", pa.int64()),
        ("text", pa.string()),
        ("number", pa.float64()),
    ]
)


def _with_label(table: pa.Table, label: str) -> pa.Table:
    """What is told of the recordings that have the label."""
    text, number = (pc.map_lookup(table[name], label, "first") for name in ("label_text", "labels"))
    text = pc.if_else(pc.equal(text, ""), None, text)
    number = pc.if_else(pc.is_finite(number), number, None)
    low, dropped = _dropped(table["dropped"])
    columns = [table["subject_id"], table["kept"], low, dropped - low, text, number]
    has_label = pc.or_(pc.is_valid(text), pc.is_valid(number))
    return pa.Table.from_arrays(columns, schema=_COLUMNS).filter(has_label)


def _dropped(reasons: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(for the correlation of beats, in all) of each recording."""
    entries = pa.concat_arrays(reasons.chunks or [pa.array([], reasons.type)]).cast(
        pa.list_(pa.struct([("key", pa.string()), ("value", pa.int64())]))
    )
    flat, row = entries.flatten(), pc.list_parent_indices(entries).to_numpy()
    count = flat.field("value").to_numpy(zero_copy_only=False)
    low = pc.ends_with(flat.field("key"), "_low_quality").to_numpy(zero_copy_only=False).astype(bool)
    sums = (np.bincount(row[chosen], count[chosen], len(entries)) for chosen in (low, np.ones(len(row), bool)))
    low_R, all_R = (sum_R.astype(np.int64) for sum_R in sums)
    return low_R, all_R


def _groups(label: str, rows: pa.Table) -> list[KeptGroup]:
    texts = pc.unique(rows["text"].drop_null())
    if 0 < len(texts) <= _MOST_TEXTS:
        group = rows["text"]
    elif rows["number"].null_count < len(rows):
        group = _numeric_groups(rows["number"].to_numpy())
    else:
        return []
    rows = rows.append_column("group", group)
    rows = rows.filter(pc.is_valid(rows["group"]))
    sums = rows.group_by("group").aggregate(
        [("subject", "count"), ("subject", "count_distinct"), ("kept", "sum"), ("low", "sum"), ("other", "sum")]
    )
    told = [
        KeptGroup(
            label=label,
            group=row["group"],
            recordings=row["subject_count"],
            subjects=row["subject_count_distinct"],
            kept=row["kept_sum"],
            low_quality=row["low_sum"],
            other=row["other_sum"],
        )
        for row in sums.to_pylist()
    ]
    return sorted(told, key=lambda one: _rank(one.group))


def _numeric_groups(value_R: np.ndarray) -> pa.Array:
    """Yes or no; or 0, and the rest at its median. NaN is no value."""
    known_R = np.isfinite(value_R)
    values = np.unique(value_R[known_R])
    if set(values) <= {0.0, 1.0}:
        group_R = np.where(value_R > 0, "yes", "no")
    else:
        middle = float(np.median(value_R[known_R & (value_R != 0.0)]))
        above_R = np.where(value_R <= middle, f"up to {middle:.3g}", f"over {middle:.3g}")
        group_R = np.where(value_R == 0, "0", above_R)
    return pa.array(group_R, pa.string(), mask=~known_R)


def _rank(group: str) -> tuple[int, str]:
    order = ("no", "0", "up to", "over", "yes")
    return next((i for i, name in enumerate(order) if group.split(" ")[0] in name.split(" ")), len(order)), group
