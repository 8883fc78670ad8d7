"""A pinned version of the corpus: what it holds, and how to read it."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.storage import index, uri
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.zarr_store import ChannelReader

# Where a signal lies does not change what it is: the same content elsewhere has the same fingerprint.
PLACE_COLUMNS = ("part", "array_path", "offset")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """All channels of one recording, in one snapshot."""

    subject_id: str
    recording_id: str
    cohort: str
    labels: Mapping[str, float]
    label_text: Mapping[str, str]
    channels: Mapping[str, IndexRow]
    corpus_url: str

    @property
    def duration_s(self) -> float:
        """Seconds of the longest channel."""
        return max(row.duration_s for row in self.channels.values())

    def read(self, channel: str, start_s: float = 0.0, stop_s: float | None = None) -> np.ndarray:
        """Physical values of [start_s, stop_s) of a channel, float32 (n,); missing samples and gaps are NaN.

        The span is clipped to the recording. Raises InputError for a channel it does not have,
        IntegrityError for damaged bytes.
        """
        if channel not in self.channels:
            raise InputError(
                f"recording {self.recording_id}",
                value=f"no channel {channel!r}",
                expected=f"one of {', '.join(sorted(self.channels))}",
                fix="check the channel's name",
            )
        row = self.channels[channel]
        start = max(0, round(start_s * row.rate_hz))
        stop = row.length if stop_s is None else min(row.length, round(stop_s * row.rate_hz))
        return read_row(self.corpus_url, row, start, max(start, stop))


@functools.lru_cache(maxsize=32)
def array_reader(url: str) -> ChannelReader:
    """The reader of an array, kept with its shard indexes; arrays are immutable, so it never goes stale."""
    return ChannelReader(url)


def read_row(corpus_url: str, row: IndexRow, start: int, stop: int) -> np.ndarray:
    """Samples [start, stop) of a row in physical units, float32; missing samples and declared gaps are
    NaN.
    """
    reader = array_reader(uri.join(corpus_url, row.array_path))
    signal = reader.read(row.offset + start, row.offset + stop)
    for gap_start, gap_stop in row.gaps:
        signal[max(0, gap_start - start) : max(0, gap_stop - start)] = np.nan
    return signal


class Snapshot:
    """The rows of one version of the index. Immutable; readers pin it and runs record its fingerprint."""

    def __init__(self, url: str, version: int, table: pa.Table) -> None:
        self.url, self.version = url, version
        self._table = table

    def table(self) -> pa.Table:
        """The index rows, in the columns of `IndexRow`."""
        return self._table

    def cohorts(self) -> list[str]:
        return sorted(pc.unique(self._table["cohort"]).to_pylist())

    def subjects(self) -> list[str]:
        return sorted(pc.unique(self._table["subject_id"]).to_pylist())

    def cohort(self, name: str) -> Snapshot:
        """The same version, reduced to one cohort."""
        if name not in self.cohorts():
            raise InputError(
                "cohort",
                value=repr(name),
                expected=f"one of {', '.join(self.cohorts()) or 'none (empty corpus)'}",
                fix="`xmae inspect` lists them",
            )
        return Snapshot(self.url, self.version, self._table.filter(pc.equal(self._table["cohort"], name)))

    def rows(self) -> list[IndexRow]:
        """All rows, ordered by cohort, subject, recording and channel."""
        return list(self._rows)

    @functools.cached_property
    def _rows(self) -> list[IndexRow]:
        rows = index.from_arrow(self._table)
        return sorted(rows, key=lambda row: (row.cohort, row.subject_id, row.recording_id, row.channel))

    def recordings(self) -> list[Recording]:
        """Recordings in the order of cohort, subject and recording id."""
        grouped: dict[tuple[str, str, str], dict[str, IndexRow]] = {}
        for row in self._rows:
            channels = grouped.setdefault((row.cohort, row.subject_id, row.recording_id), {})
            if row.channel in channels:
                raise IntegrityError(
                    f"recording {row.cohort}/{row.recording_id}",
                    value=f"channel {row.channel} twice",
                    expected="one row per channel",
                    fix="`xmae repair` names the copies and can drop one",
                )
            channels[row.channel] = row
        return [self._recording(key, channels) for key, channels in grouped.items()]

    def _recording(self, key: tuple[str, str, str], channels: dict[str, IndexRow]) -> Recording:
        labels: dict[str, float] = {}
        label_text: dict[str, str] = {}
        for row in channels.values():
            labels.update(row.labels)
            label_text.update(row.label_text)
        return Recording(
            subject_id=key[1],
            recording_id=key[2],
            cohort=key[0],
            labels=labels,
            label_text=label_text,
            channels=channels,
            corpus_url=self.url,
        )

    def reader(self, row: IndexRow) -> ChannelReader:
        """The reader of the array that holds `row`, kept between calls."""
        return array_reader(uri.join(self.url, row.array_path))

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the content: what was recorded and its labels, not where it lies or in
        which order.
        """
        kept = [name for name in index.columns() if name not in PLACE_COLUMNS]
        lines = sorted(_canonical(values) for values in self._table.select(kept).to_pylist())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _canonical(values: dict[str, object]) -> str:
    plain = {
        name: repr(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))
