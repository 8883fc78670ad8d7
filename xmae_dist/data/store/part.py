"""One part of a window store, and how it is written.

Each part is written by one task from first to last window, so what is stored does not depend on how many tasks there
were, in which order they ran, or how often one was retried. `meta.parquet` is written last: where it is, the part is
complete and is not made again. What was kept of each recording is in `sources.parquet`, written before it.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.data.store.kept import SOURCES, SOURCES_SCHEMA
from xmae_dist.data.store.part_index import SIGNALS
from xmae_dist.data.store.part_index import VERSION as INDEX_VERSION
from xmae_dist.data.store.window_store import MEASURES, META_SCHEMA, part_path
from xmae_dist.data.windows.cut_reader import stored_signals, write_cuts
from xmae_dist.data.windows.source import Cut, WindowSource
from xmae_dist.data.windows.source_table import Sources
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.zarr_store import WindowArrayReader, WindowArrayWriter

MAX_PART_WINDOWS = 32_768  # 64 MiB of float16 for each signal
_FACTS = b"xmae_part"
_WINDOWS_A_TABLE = 256  # a table of one row takes kilobytes and half a millisecond; windows not in one hold signals


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """One part to be written."""

    store_url: str
    corpus_url: str
    cohort: str
    split: str
    part: str
    rows: pa.Table
    """Its sources, as `source_table.SCHEMA`."""
    spec: WindowSpec
    chunk_windows: int
    on_the_fly: bool
    """Count the windows and keep none: they are cut again when read."""

    @property
    def url(self) -> str:
        return uri.join(self.store_url, part_path(self.cohort, self.split, self.part))

    @property
    def sources(self) -> Sources:
        return Sources(self.rows, self.corpus_url, self.spec)


def write_part(plan: PartPlan) -> dict[str, Any]:
    """Write a part, unless it is there already; return its row of the store's index, less `first_id`.

    One source at a time is held as objects. Raises IntegrityError for damaged bytes.
    """
    if (facts := finished_part(plan.url)) is not None:
        return facts
    told = _Told(plan)
    chunk_bytes: dict[str, list[int]] = {}
    if plan.on_the_fly:
        write_cuts(plan.url, plan.rows, [(number, span, len(found.windows)) for number, span, found in told.cuts()])
    else:
        with signal_writers(plan.url, plan.spec, plan.chunk_windows) as writers:
            for _, _, found in told.cuts():
                for name, signal_BL in stored_signals(found.windows).items():
                    writers[name].append(signal_BL[:, None, :])
        chunk_bytes = stored_sizes(writers)
    uri.write_bytes(uri.join(plan.url, SOURCES), parquet.encode(told.sources_table()))
    sizes = len(told.sources), len({row["subject_id"] for row in told.sources})
    place = plan.cohort, plan.split, plan.part
    return finish_part(plan.url, place, told.meta_table(), told.dropped, sizes, chunk_bytes)


class _Told:
    """What there is to tell of a part beside its signals, noted as its windows are cut."""

    def __init__(self, plan: PartPlan) -> None:
        self._plan = plan
        self._tables: list[pa.Table] = [META_SCHEMA.empty_table()]
        self._cuts: list[tuple[Cut, WindowSource]] = []
        """Which are not in a table yet."""
        self._waiting = 0
        self.sources: list[dict[str, Any]] = []
        """Rows of SOURCES_SCHEMA."""
        self.dropped = Counter[str]()

    def cuts(self) -> Iterator[tuple[int, int, Cut]]:
        """(number of the source, number of its span, windows) of the part, in order."""
        for number, source in enumerate(self._plan.sources):
            spans, dropped = source.spans(self._plan.spec)
            kept = 0
            for place, span in enumerate(spans):
                found = source.cut(span, self._plan.spec)
                dropped.update(found.dropped)
                kept += len(found.windows)
                self._note(found, source)
                yield number, place, found
            self.sources.append(_source_row(source, kept, dropped))
            self.dropped.update(dropped)

    def _note(self, found: Cut, source: WindowSource) -> None:
        self._cuts.append((found, source))
        self._waiting += max(1, len(found.windows))
        if self._waiting >= _WINDOWS_A_TABLE:
            self._tables.append(_meta_table(self._cuts))
            self._cuts, self._waiting = [], 0

    def meta_table(self) -> pa.Table:
        return pa.concat_tables([*self._tables, _meta_table(self._cuts)]).combine_chunks()

    def sources_table(self) -> pa.Table:
        return pa.Table.from_pylist(self.sources, schema=SOURCES_SCHEMA)


def _source_row(source: WindowSource, kept: int, dropped: Counter[str]) -> dict[str, Any]:
    return {
        "cohort": source.recording.cohort,
        "recording_id": source.recording.recording_id,
        "subject_id": source.recording.subject_id,
        "kept": kept,
        "dropped": sorted(dropped.items()),
        "labels": sorted(_known(source, "labels").items()),
        "label_text": sorted(_known(source, "label_text").items()),
    }


def _known(source: WindowSource, kind: str) -> dict[str, Any]:
    """Labels of a recording, and of those it is aligned with where it has none of its own."""
    known: dict[str, Any] = {}
    for recording in (*(pair.target for pair, _ in source.partners), source.recording):
        known |= getattr(recording, kind)
    return known


def finished_part(url: str) -> dict[str, Any] | None:
    """The row of the store's index (less `first_id`) of a part that is complete, or None. Reads the end of its
    `meta.parquet`; of a part made before the index held sizes of chunks, the subjects and the layouts too.
    """
    meta_url = uri.join(url, "meta.parquet")
    if not uri.exists(meta_url):
        return None
    meta_bytes = uri.size(meta_url)
    carried = parquet.read_columns(meta_url, (), size=meta_bytes).schema.metadata
    facts = {**json.loads(carried[_FACTS]), "meta_bytes": meta_bytes}
    if "chunk_bytes" not in facts:
        subjects = parquet.read_columns(meta_url, ["subject_id"], size=meta_bytes)["subject_id"]
        facts |= {**_ends(subjects), "chunk_bytes": _asked_sizes(url)}
    return facts


def _asked_sizes(url: str) -> dict[str, list[int]]:
    """Stored sizes of the chunks of a part's arrays, from their indexes; none in a part that keeps no signals."""
    there = [name for name in SIGNALS if uri.exists(uri.join(url, name, "zarr.json"))]
    return {name: WindowArrayReader(uri.join(url, name)).chunk_bytes().tolist() for name in there}


def _ends(subjects: pa.ChunkedArray) -> dict[str, str | None]:
    """The first and last of some subjects, in the order of their names."""
    ends = pc.min_max(subjects).as_py()
    return {"first_subject": ends["min"], "last_subject": ends["max"]}


@contextlib.contextmanager
def signal_writers(url: str, spec: WindowSpec, chunk_windows: int) -> Iterator[dict[str, WindowArrayWriter]]:
    """Writers of a part's arrays by name, for windows (k, 1, L); closed at the end, given up on an error."""
    writers = {name: _writer(url, name, spec, chunk_windows) for name in (("ecg", "ppg") if spec.paired else ("ppg",))}
    try:
        yield writers
        for writer in writers.values():
            writer.close()
    finally:
        for writer in writers.values():
            writer.abandon()  # no effect on a closed one


def stored_sizes(writers: Mapping[str, WindowArrayWriter]) -> dict[str, list[int]]:
    """Stored sizes of the chunks of arrays that are closed, by name."""
    return {name: list(writer.close().chunk_bytes) for name, writer in writers.items()}


def kept_as(chunk_windows: int) -> dict[str, int]:
    """What `store.json` says of how parts are written by this version."""
    return {"index": INDEX_VERSION, "shard_windows": _shard_windows(chunk_windows)}


def _shard_windows(chunk_windows: int) -> int:
    """Windows in a shard: those of a part, in whole chunks."""
    return -(-MAX_PART_WINDOWS // chunk_windows) * chunk_windows


def _writer(url: str, name: str, spec: WindowSpec, chunk_windows: int) -> WindowArrayWriter:
    return WindowArrayWriter(
        uri.join(url, name),
        channels=1,
        length=spec.length,
        chunk_windows=chunk_windows,
        shard_windows=_shard_windows(chunk_windows),
        attrs={"rate_hz": spec.rate_hz, "signal": name},
    )


def _meta_table(cuts: Sequence[tuple[Cut, WindowSource]]) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in META_SCHEMA.names}
    for found, source in cuts:
        n, target, recording = len(found.windows), found.target, source.recording
        labels, texts = dict(recording.labels), dict(recording.label_text)
        if target is not None:  # what is known of the source goes before what is known of its partner
            labels, texts = {**target.labels, **labels}, {**target.label_text, **texts}
        told = {
            "subject_id": recording.subject_id,
            "recording_id": recording.recording_id,
            "cohort": recording.cohort,
            "labels": sorted(labels.items()),
            "label_text": sorted(texts.items()),
            "arrival_time_absolute": target is None,
            "target_recording_id": recording.recording_id if target is None else target.recording_id,
        }
        for name, value in told.items():
            columns[name] += [value] * n
    arrays: dict[str, Any] = dict(columns)
    batches = [found.windows for found, _ in cuts]
    arrays["start_s"] = _joined([batch.start_s_B for batch in batches])
    arrays["target_start_s"] = _joined([found.target_start_s_B for found, _ in cuts])
    for name in MEASURES:
        arrays[name] = _joined([getattr(batch, f"{name}_B") for batch in batches]).astype(np.float32)
    return pa.Table.from_pydict(arrays, schema=META_SCHEMA)


def _joined(values: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *values])


def finish_part(
    url: str,
    place: tuple[str, str, str],
    meta: pa.Table,
    dropped: Mapping[str, int],
    sources: tuple[int, int],
    chunk_bytes: Mapping[str, Sequence[int]],
) -> dict[str, Any]:
    """Write the `meta.parquet` that makes a part complete; return its row of the store's index, less `first_id`.

    `place` is (cohort, split, part), `sources` how many recordings and subjects it was made from, `chunk_bytes` the
    stored sizes of chunks by signal (`stored_sizes`).
    """
    facts = {
        **dict(zip(("cohort", "split", "part"), place, strict=True)),
        "n_windows": meta.num_rows,
        "n_recordings": sources[0],
        "n_subjects": sources[1],
        "dropped": dict(sorted(dropped.items())),
        **_ends(meta["subject_id"]),
        "chunk_bytes": dict(chunk_bytes),
    }
    encoded = parquet.encode(meta.replace_schema_metadata({_FACTS: json.dumps(facts).encode()}))
    uri.write_bytes(uri.join(url, "meta.parquet"), encoded)
    return {**facts, "meta_bytes": len(encoded)}
