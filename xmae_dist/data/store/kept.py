"""What of each recording was kept, by what is known of the people: whether cleaning prefers some hearts to others.

    <part>/sources.parquet    a row per recording of the part: windows kept, windows dropped by reason, its labels

Windows with an irregular pulse correlate less with the median beat of their minute, so a threshold on quality drops
them first. A label is text (a group for each value), yes or no, or a number: 0, and the rest up to and over its median.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

RHYTHM_LABELS = ("rhythm", "af", "ectopy_per_min", "frequent_ectopy")
"""Labels that are told where recordings have them and none are asked for."""
SOURCES = "sources.parquet"
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


def kept_by_label(sources: pa.Table, labels: Sequence[str] = ()) -> list[KeptGroup]:
    """A group for each value of each label that recordings have: those asked for, else `RHYTHM_LABELS`."""
    rows = sources.to_pylist()
    return [group for label in labels or RHYTHM_LABELS for group in _groups(label, rows)]


def _groups(label: str, rows: Sequence[Mapping[str, Any]]) -> list[KeptGroup]:
    texts = {i: dict(row["label_text"] or ()).get(label) for i, row in enumerate(rows)}
    numbers = {i: dict(row["labels"] or ()).get(label) for i, row in enumerate(rows)}
    known_text = {i: text for i, text in texts.items() if text}
    known = {i: float(value) for i, value in numbers.items() if value is not None and np.isfinite(value)}
    if known_text and len(set(known_text.values())) <= _MOST_TEXTS:
        group_of = known_text
    elif known:
        group_of = _numeric_groups(known)
    else:
        return []
    found: dict[str, list[Mapping[str, Any]]] = {}
    for i, group in group_of.items():
        found.setdefault(group, []).append(rows[i])
    return [_summed(label, group, found[group]) for group in sorted(found, key=_rank)]


def _numeric_groups(known: Mapping[int, float]) -> dict[int, str]:
    """Yes or no; or 0, and the rest at its median."""
    values = np.array(list(known.values()))
    if set(values) <= {0.0, 1.0}:
        return {i: "yes" if value else "no" for i, value in known.items()}
    middle = float(np.median(values[values != 0.0]))
    return {
        i: "0" if value == 0 else f"up to {middle:.3g}" if value <= middle else f"over {middle:.3g}"
        for i, value in known.items()
    }


def _rank(group: str) -> tuple[int, str]:
    order = ("no", "0", "up to", "over", "yes")
    return next((i for i, name in enumerate(order) if group.split(" ")[0] in name.split(" ")), len(order)), group


def _summed(label: str, group: str, rows: Iterable[Mapping[str, Any]]) -> KeptGroup:
    total, subjects = KeptGroup(label=label, group=group), set()
    for row in rows:
        dropped = dict(row["dropped"] or ())
        low = sum(n for reason, n in dropped.items() if reason.endswith("_low_quality"))
        subjects.add(row["subject_id"])
        total = replace(
            total,
            recordings=total.recordings + 1,
            kept=total.kept + row["kept"],
            low_quality=total.low_quality + low,
            other=total.other + sum(dropped.values()) - low,
        )
    return replace(total, subjects=len(subjects))
