"""One part of a window store: which recordings it holds, and how it is written.

Parts are planned from the snapshot alone and each is written by one task from first to last window, so what
is stored does not depend on how many tasks there were, in which order they ran, or how often one was
retried. `meta.parquet` is written last: where it is, the part is complete and is not made again. What was kept of each
recording is in `sources.parquet`, written before it.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from xmae_dist.data.store.kept import SOURCES, SOURCES_SCHEMA
from xmae_dist.data.store.window_store import MEASURES, META_SCHEMA, part_path
from xmae_dist.data.windows.cut_reader import stored_signals, write_cuts
from xmae_dist.data.windows.source import Cut, WindowSource
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SPLITS, SplitConfig, check_disjoint
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.zarr_store import WindowArrayWriter

_MAX_PART_WINDOWS = 32_768  # 64 MiB of float16 for each signal
_MIN_PART_WINDOWS = 1024
_PARTS_WANTED = 32  # enough for a small corpus to keep a small cluster busy
_FACTS = b"xmae_part"


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """One part to be written."""

    store_url: str
    cohort: str
    split: str
    part: str
    sources: Sequence[WindowSource]
    spec: WindowSpec
    chunk_windows: int
    on_the_fly: bool
    """Count the windows and keep none: they are cut again when read."""

    @property
    def url(self) -> str:
        return uri.join(self.store_url, part_path(self.cohort, self.split, self.part))


def plan_parts(
    sources: Sequence[WindowSource],
    spec: WindowSpec,
    split: SplitConfig,
    store_url: str,
    chunk_windows: int,
    *,
    on_the_fly: bool = False,
) -> list[PartPlan]:
    """Divide sources into parts, ordered by (split, cohort, part); every one is in exactly one.

    A part holds whole sources of one cohort and split, about as many windows as keep its objects between
    a few and 64 MiB. Raises InputError for a subject in two splits.
    """
    split_of = check_disjoint((s.recording.subject_id, split.of(s.recording.subject_id)) for s in sources)

    def order(source: WindowSource) -> tuple[int, str, str, str]:
        r = source.recording
        return SPLITS.index(split_of[r.subject_id]), r.cohort, r.subject_id, r.recording_id

    ordered = sorted(sources, key=order)
    possible = {id(source): source.possible_windows(spec) for source in ordered}
    size = int(np.clip(sum(possible.values()) / _PARTS_WANTED, _MIN_PART_WINDOWS, _MAX_PART_WINDOWS))
    parts: list[PartPlan] = []
    for (split_number, cohort), group in groupby(ordered, key=lambda source: order(source)[:2]):
        for number, members in enumerate(_filled(list(group), possible, size)):
            parts.append(
                PartPlan(
                    store_url=store_url,
                    cohort=cohort,
                    split=SPLITS[split_number],
                    part=f"p{number:06d}",
                    sources=members,
                    spec=spec,
                    chunk_windows=chunk_windows,
                    on_the_fly=on_the_fly,
                )
            )
    return parts


def _filled(sources: list[WindowSource], possible: dict[int, int], size: int) -> list[list[WindowSource]]:
    """Consecutive sources with up to about `size` possible windows together."""
    groups: list[list[WindowSource]] = [[]]
    filled = 0
    for source in sources:
        if groups[-1] and filled + possible[id(source)] > size:
            groups.append([])
            filled = 0
        groups[-1].append(source)
        filled += possible[id(source)]
    return groups


def write_part(plan: PartPlan) -> dict[str, Any]:
    """Write a part, unless it is there already; return its row of the store's index, less `first_id`."""
    if (facts := finished_part(plan.url)) is not None:
        return facts
    tables: list[pa.Table] = [META_SCHEMA.empty_table()]
    dropped = [Counter[str]() for _ in plan.sources]
    kept = [0] * len(plan.sources)
    if plan.on_the_fly:
        counts: list[tuple[int, int, int]] = []
        for number, span, found in _cuts(plan, dropped):
            tables.append(_meta_table(found, plan.sources[number]))
            kept[number] += len(found.windows)
            counts.append((number, span, len(found.windows)))
        write_cuts(plan.url, plan.sources, counts)
    else:
        with signal_writers(plan.url, plan.spec, plan.chunk_windows) as writers:
            for number, _, found in _cuts(plan, dropped):
                tables.append(_meta_table(found, plan.sources[number]))
                kept[number] += len(found.windows)
                for name, signal_BL in stored_signals(found.windows).items():
                    writers[name].append(signal_BL[:, None, :])
    _write_sources(plan, kept, dropped)
    sizes = len(plan.sources), len({source.recording.subject_id for source in plan.sources})
    total = sum(dropped, Counter[str]())
    return finish_part(plan.url, (plan.cohort, plan.split, plan.part), pa.concat_tables(tables), total, sizes)


def _cuts(plan: PartPlan, dropped: Sequence[Counter[str]]) -> Iterator[tuple[int, int, Cut]]:
    """(number of the source, number of its span, windows) of a part in order; adds to `dropped` of each source."""
    for number, source in enumerate(plan.sources):
        spans, unusable = source.spans(plan.spec)
        dropped[number].update(unusable)
        for place, span in enumerate(spans):
            found = source.cut(span, plan.spec)
            dropped[number].update(found.dropped)
            yield number, place, found


def _write_sources(plan: PartPlan, kept: Sequence[int], dropped: Sequence[Counter[str]]) -> None:
    rows = [
        {
            "cohort": source.recording.cohort,
            "recording_id": source.recording.recording_id,
            "subject_id": source.recording.subject_id,
            "kept": windows,
            "dropped": sorted(reasons.items()),
            "labels": sorted(_known(source, "labels").items()),
            "label_text": sorted(_known(source, "label_text").items()),
        }
        for source, windows, reasons in zip(plan.sources, kept, dropped, strict=True)
    ]
    uri.write_bytes(uri.join(plan.url, SOURCES), parquet.encode(pa.Table.from_pylist(rows, schema=SOURCES_SCHEMA)))


def _known(source: WindowSource, kind: str) -> dict[str, Any]:
    """Labels of a recording, and of those it is aligned with where it has none of its own."""
    known: dict[str, Any] = {}
    for recording in (*(pair.target for pair, _ in source.partners), source.recording):
        known |= getattr(recording, kind)
    return known


def finished_part(url: str) -> dict[str, Any] | None:
    """The row of the store's index (less `first_id`) of a part that is complete, or None."""
    meta_url = uri.join(url, "meta.parquet")
    if not uri.exists(meta_url):
        return None
    facts = parquet.metadata(uri.read_bytes(meta_url))[_FACTS]
    return dict(json.loads(facts))


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


def _writer(url: str, name: str, spec: WindowSpec, chunk_windows: int) -> WindowArrayWriter:
    return WindowArrayWriter(
        uri.join(url, name),
        channels=1,
        length=spec.length,
        chunk_windows=chunk_windows,
        shard_windows=-(-_MAX_PART_WINDOWS // chunk_windows) * chunk_windows,
        attrs={"rate_hz": spec.rate_hz, "signal": name},
    )


def _meta_table(found: Cut, source: WindowSource) -> pa.Table:
    batch, recording, target = found.windows, source.recording, found.target
    n = len(batch)
    labels, texts = dict(recording.labels), dict(recording.label_text)
    if target is not None:  # what is known of the source goes before what is known of its partner
        labels, texts = {**target.labels, **labels}, {**target.label_text, **texts}
    columns: dict[str, Any] = {
        "subject_id": [recording.subject_id] * n,
        "recording_id": [recording.recording_id] * n,
        "cohort": [recording.cohort] * n,
        "start_s": batch.start_s_B,
        **{name: getattr(batch, f"{name}_B").astype(np.float32) for name in MEASURES},
        "labels": [sorted(labels.items())] * n,
        "label_text": [sorted(texts.items())] * n,
        "arrival_time_absolute": [target is None] * n,
        "target_recording_id": [recording.recording_id if target is None else target.recording_id] * n,
        "target_start_s": found.target_start_s_B,
    }
    return pa.Table.from_pydict(columns, schema=META_SCHEMA)


def finish_part(
    url: str, place: tuple[str, str, str], meta: pa.Table, dropped: Mapping[str, int], sources: tuple[int, int]
) -> dict[str, Any]:
    """Write the `meta.parquet` that makes a part complete; return its row of the store's index, less `first_id`.

    `place` is (cohort, split, part), `sources` how many recordings and subjects it was made from.
    """
    facts = {
        **dict(zip(("cohort", "split", "part"), place, strict=True)),
        "n_windows": meta.num_rows,
        "n_recordings": sources[0],
        "n_subjects": sources[1],
        "dropped": dict(sorted(dropped.items())),
    }
    meta = meta.replace_schema_metadata({_FACTS: json.dumps(facts).encode()})
    uri.write_bytes(uri.join(url, "meta.parquet"), parquet.encode(meta))
    return facts
