"""Windows of a part cut when they are asked for: what a store that keeps no signals reads instead of arrays.

    <part>/spans.parquet        (source, span, windows): how many each span gave when its windows were counted, in order
    <part>/recordings.parquet   the index rows of the part's sources (`source_table.SCHEMA`), without labels

A span is cut whole, since its windows are judged against each other, so neighbouring windows are cheap and lone ones
dear: the spans cut last are kept.

Where samples lie is in the part's own rows as long as the corpus is the one in which they were counted and nobody was
withdrawn from it since. Else the corpus that the reader is given is asked, which may have been made anew: only what a
recording is must be as it was. Parts of earlier versions have `cuts.json` in place of both files, and always ask.

Memory of a process: the rows and the spans used last, each up to so many bytes, however many parts there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.core.fingerprint import canonical_json
from xmae_dist.data.windows import source_table
from xmae_dist.data.windows.cutting import WindowBatch
from xmae_dist.data.windows.source_table import Sources
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage import index, parquet, uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.row_bytes import encoded
from xmae_dist.storage.sized_cache import SizedCache
from xmae_dist.storage.snapshot import Snapshot


class Origin(NamedTuple):
    """The corpus, and its version, that windows are cut from."""

    url: str
    version: int


SPANS = "spans.parquet"
RECORDINGS = "recordings.parquet"
_CUTS_V1 = "cuts.json"
_SPANS_SCHEMA = pa.schema([("source", pa.int32()), ("span", pa.int32()), ("windows", pa.int32())])
_PARTS_BYTES = 256 << 20
_SPANS_BYTES = 256 << 20
_PLACE = ("part", "array_path", "offset")
_LABELS = ("labels", "label_text")


def stored_signals(batch: WindowBatch) -> dict[str, np.ndarray]:
    """The signals of a batch as a window store holds them: float16 (B, L) by name."""
    signals = {"ppg": batch.ppg_BL} if batch.ecg_BL is None else {"ecg": batch.ecg_BL, "ppg": batch.ppg_BL}
    return {name: signal_BL.astype(np.float16) for name, signal_BL in signals.items()}


def write_cuts(part_url: str, rows: pa.Table, counts: Sequence[tuple[int, int, int]]) -> None:
    """`rows`: `source_table.SCHEMA`. `counts`: (source, span, windows) of every span, in the order of its windows."""
    columns = np.array(counts, np.int32).reshape(-1, 3).T
    spans = pa.Table.from_arrays([pa.array(column) for column in columns], schema=_SPANS_SCHEMA)
    uri.write_bytes(uri.join(part_url, RECORDINGS), parquet.encode(_unlabelled(rows)))
    uri.write_bytes(uri.join(part_url, SPANS), parquet.encode(spans))


@dataclass(frozen=True, kw_only=True)
class Places:
    """What must be as it was for the places in a store's parts to hold: parts of a corpus are immutable, but what was
    withdrawn from it may be taken in again elsewhere.
    """

    corpus_id: str
    withdrawn_version: int
    """Of the table of the withdrawn; -1 where there was none."""

    @classmethod
    def of(cls, corpus: Corpus) -> Places:
        table = corpus.withdrawn.table
        return cls(corpus_id=corpus.id, withdrawn_version=table.version() if table.exists() else -1)


class Found(Enum):
    """Where a part's recordings, and the places of their samples, are found."""

    IN_PART = "in its rows: the places hold for the origin"
    BY_INDEX = "in its rows; the places in the index of the origin"
    BY_INDEX_V1 = "in cuts.json; the places in the index of the origin"


class CutReader:
    """Reads windows of one part by their number in it. Safe between threads."""

    def __init__(self, part_url: str, spec: WindowSpec, origin: Origin, found: Found) -> None:
        """Raises InputError where a recording is not in `origin`, or is another there."""
        self._url, self._spec = part_url, spec
        self._key = (part_url, spec, origin)
        self._part = _parts.get(self._key, lambda: _Part.read(part_url, spec, origin, found))

    def gather(self, indices_B: np.ndarray) -> dict[str, np.ndarray]:
        """Windows at `indices_B`, in the order asked for: float16 (B, L) by name.

        Raises IntegrityError where a recording no longer gives the windows that were counted.
        """
        stop_K = self._part.stop_K
        span_B = np.searchsorted(stop_K, indices_B, side="right")
        names = ("ecg", "ppg") if self._spec.paired else ("ppg",)
        out = {name: np.empty((len(indices_B), self._spec.length), np.float16) for name in names}
        for span in np.unique(span_B).tolist():
            here = np.flatnonzero(span_B == span)
            signals = _spans.get((*self._key, span), lambda span=span: self._cut(span))  # type: ignore[misc]
            first = stop_K[span] - self._part.windows_K[span]
            for name in names:
                out[name][here] = signals[name][indices_B[here] - first]
        return out

    def _cut(self, span: int) -> dict[str, np.ndarray]:
        source = self._part.sources[int(self._part.source_K[span])]
        place, counted = int(self._part.span_K[span]), int(self._part.windows_K[span])
        found = source.cut(source.spans(self._spec)[0][place], self._spec).windows
        if len(found) != counted:
            raise IntegrityError(
                f"recording {source.recording.cohort}/{source.recording.recording_id}, span {place}",
                value=f"{len(found)} windows",
                expected=f"{counted}, as counted for {self._url}",
                fix="cut on machines of one kind with one version of xmae_dist, or materialise the windows",
            )
        return stored_signals(found)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """K spans of a part, and its sources."""

    sources: Sources
    source_K: np.ndarray
    span_K: np.ndarray
    windows_K: np.ndarray
    stop_K: np.ndarray
    """Number of the first window behind each span."""
    bytes: int

    @classmethod
    def read(cls, part_url: str, spec: WindowSpec, origin: Origin, found: Found) -> _Part:
        if found is Found.BY_INDEX_V1:
            document = json.loads(uri.read_bytes(uri.join(part_url, _CUTS_V1)))
            spans = np.array(document["spans"], np.int64).reshape(-1, 3)
            rows = _placed_anew(_rows_v1(document["sources"]), origin)
        else:
            counts = parquet.read_columns(uri.join(part_url, SPANS))
            spans = np.stack([counts[name].to_numpy() for name in _SPANS_SCHEMA.names], axis=1).astype(np.int64)
            recordings = uri.join(part_url, RECORDINGS)
            kept = found is Found.IN_PART
            rows = _placed(recordings) if kept else _placed_anew(parquet.read_columns(recordings), origin)
        return cls(
            sources=Sources(rows, origin.url, spec),
            source_K=spans[:, 0],
            span_K=spans[:, 1],
            windows_K=spans[:, 2],
            stop_K=np.cumsum(spans[:, 2]),
            bytes=rows.nbytes + 4 * spans.nbytes,
        )


_parts: SizedCache[_Part] = SizedCache(_PARTS_BYTES, lambda part: part.bytes)
_spans: SizedCache[dict[str, np.ndarray]] = SizedCache(
    _SPANS_BYTES, lambda signals: sum(signal_BL.nbytes for signal_BL in signals.values())
)


def _placed(url: str) -> pa.Table:
    """Rows whose places hold. Digests, which are most of their bytes, are for comparing: they are not read."""
    wanted = [name for name in source_table.SCHEMA.names if name != "digest"]
    rows = parquet.read_columns(url, wanted)
    return rows.append_column("digest", pa.repeat("", rows.num_rows)).select(source_table.SCHEMA.names)


def _placed_anew(rows: pa.Table, origin: Origin) -> pa.Table:
    """The same rows where `origin` keeps them. Raises InputError where one is not there, or is another signal now."""
    there = _rows_there(rows, origin)
    place_of = {key: place for place, key in enumerate(_keys(there))}
    places = [place_of.get(key) for key in _keys(rows)]
    found = there.take(pa.array([place or 0 for place in places], pa.int64())) if there.num_rows else there
    for number, place in enumerate(places):
        if place is None:
            raise _other(rows, number, "not there", origin)
    differ = pc.not_equal(_content(rows), _content(found)).to_numpy(zero_copy_only=False)
    if differ.any():
        raise _other(rows, int(np.flatnonzero(differ)[0]), "another", origin)
    for name in _PLACE:
        number = rows.schema.get_field_index(name)
        rows = rows.set_column(number, rows.schema.field(number), found[name])
    return rows


def _rows_there(rows: pa.Table, origin: Origin) -> pa.Table:
    """The rows of `origin` of these recordings; of files whose recordings all stand before or after, none is read."""
    names = pa.array(index.columns())
    snapshot, tables = Snapshot(origin.url, origin.version), [index.arrow_schema().empty_table()]
    for cohort in pc.unique(rows["cohort"]).to_pylist():
        wanted = pc.unique(rows.filter(pc.equal(rows["cohort"], cohort))["recording_id"])
        ends = pc.min_max(wanted).as_py()
        bounds = [("recording_id", ">=", ends["min"]), ("recording_id", "<=", ends["max"])]
        for batch in snapshot.batches(filters=[("cohort", "=", cohort), *bounds]):
            own = pa.Table.from_batches([batch]).select(names.to_pylist())
            tables.append(_unlabelled(own.filter(pc.is_in(own["recording_id"], wanted))))
    return pa.concat_tables(tables).combine_chunks()


def _keys(rows: pa.Table) -> Iterator[tuple[str, str, str]]:
    return zip(*(rows[name].to_pylist() for name in ("cohort", "recording_id", "channel")), strict=True)


def _content(rows: pa.Table) -> pa.Array:
    """What each row is, without its place and its labels: what windows depend on."""
    batches = _unlabelled(rows).select(index.columns()).combine_chunks().to_batches()
    return pa.concat_arrays([encoded(batch) for batch in batches] or [pa.array([], pa.binary())])


def _other(rows: pa.Table, number: int, what: str, origin: Origin) -> InputError:
    row = rows.slice(number, 1).to_pylist()[0]
    return InputError(
        f"recording {row['cohort']}/{row['recording_id']}, channel {row['channel']}",
        value=f"{what} in snapshot {origin.version} of {origin.url}",
        expected=f"as when its windows were counted (digest {row['digest'][:12]}…)",
        fix="name the corpus that the windows were made from (--corpus), or make the windows again",
    )


def _unlabelled(rows: pa.Table) -> pa.Table:
    for name in _LABELS:
        number = rows.schema.get_field_index(name)
        field = rows.schema.field(number)
        rows = rows.set_column(number, field, pa.nulls(rows.num_rows, field.type))
    return rows


def _rows_v1(sources: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The sources of `cuts.json` as rows."""
    pieces = [source_table.SCHEMA.empty_table()]
    for number, source in enumerate(sources):
        pieces.append(source_table.numbered(_index_rows_v1(source["recording"]), number))
        for place, one in enumerate(source["partners"]):
            estimate = canonical_json(one["estimate"]).decode()
            pieces.append(source_table.numbered(_index_rows_v1(one["target"]), number, place, estimate))
    return pa.concat_tables(pieces)


def _index_rows_v1(recording: Mapping[str, Any]) -> list[IndexRow]:
    rows = recording["channels"].values()
    return [IndexRow(**{**row, "gaps": tuple(tuple(gap) for gap in row["gaps"])}) for row in rows]
