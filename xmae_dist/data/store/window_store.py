"""A window store: the aligned windows of one corpus snapshot under one specification, ready for training.

    <url>/store.json                                   specification, snapshot, split, sizes
    <url>/index/                                       Delta table, a row per part (`part_index`); its commit makes the
                                                       store visible
    <url>/parts/<cohort>/<split>/<part>/ecg, ppg       Zarr v3, (n, 1, L) float16 in [-1, 1], sharded along windows
    <url>/parts/<cohort>/<split>/<part>/meta.parquet   a row per window: where it comes from, qualities, labels
    <url>/parts/<cohort>/<split>/<part>/sources.parquet  a row per recording: windows kept and dropped, labels (`kept`);
                                                       absent in stores of earlier versions and of others' shards
    <url>/parts/<cohort>/<split>/<part>/spans.parquet, recordings.parquet
                                                       instead of the signals, in a store that cuts them when read

Window ids are int64, contiguous in each part, ordered by (split, cohort, part), with train first.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import ConfigError, InputError, StorageError
from xmae_dist.data.store.kept import KEPT, SOURCES, KeptGroup, kept_by_label
from xmae_dist.data.store.part_index import ChunkSizes, is_complete, read_chunk_sizes, read_index
from xmae_dist.data.windows.cut_reader import CutReader, Found, Origin, Places
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SPLITS, SplitConfig
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.segment_cache import CacheConfig, SegmentCache
from xmae_dist.storage.shard_reader import Layout
from xmae_dist.storage.sized_cache import SizedCache
from xmae_dist.storage.snapshot import Snapshot
from xmae_dist.storage.zarr_store import WindowArrayReader

CONTENT = "xmae-windows/v1"
"""What windows are: part of what names a store, whichever way it is kept."""
FORMAT = "xmae-windows/v1"
FORMAT_CUT = "xmae-windows-cut/v2"
"""Of a store that cuts windows when they are read; of version 1 it is FORMAT, and has `cuts.json` in its parts."""
_CONNECTIONS = 16
_LABELS = frozenset({"labels", "label_text"})
_LABELLED_AHEAD = 4  # parts with labels that are held at a time: some 30 MB each
_READERS_BYTES = 128 << 20  # of stores whose index does not say where chunks lie: 512 chunks take 8 kB
_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """The windows [first_id, first_id + n) of one part."""

    cohort: str
    part: str
    first_id: int
    n: int


def part_path(cohort: str, split: str, part: str) -> str:
    """Where a part lies, relative to the store."""
    return f"parts/{cohort}/{split}/{part}"


class WindowStore:
    """Reads a complete window store. Picklable; keeps the list of parts (some 100 bytes each) and, once a window was
    read, the stored sizes of all chunks (0.13 bytes a window), both in Arrow's and NumPy's buffers: whoever gets the
    store through Ray's object store shares one copy with all processes of the node.
    """

    def __init__(
        self,
        url: str,
        document: dict[str, Any],
        parts: pa.Table,
        cache: CacheConfig | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.url = url
        self._cache = cache
        self.origin = origin
        """Where windows are cut from, in a store that keeps none."""
        self.document = document
        """`store.json`."""
        self.spec = WindowSpec.from_dict(document["spec"])
        self.fingerprint: str = document["fingerprint"]
        self.snapshot: dict[str, Any] = document["snapshot"]
        """Fingerprint and version of the corpus snapshot the windows were cut from."""
        self.split: dict[str, Any] = document["split"]
        """How subjects were divided, as `store.json` keeps it; see `split_config`."""
        self.chunk_windows: int = document["chunk_windows"]
        """Windows in a chunk, the unit of reading; chunks begin anew in each part."""
        self.on_the_fly: bool = document.get("on_the_fly", False)
        """Whether signals are cut out of the recordings when they are read, not stored."""
        self._all_parts = parts
        self._parts = parts.filter(pc.greater(parts["n_windows"], 0)).combine_chunks()
        self._first_ids = self._parts["first_id"].to_numpy()
        self._chunk_sizes: dict[str, ChunkSizes] | None = None
        self._found: Found | None = None

    @classmethod
    def open(
        cls, url: str, cache: CacheConfig | None = None, *, origin: Origin | None = None, check_origin: bool = True
    ) -> WindowStore:
        """The store at `url`; with a `cache`, readers keep copies of a far one on the node where they run.

        A store that cuts windows when they are read cuts them out of `origin`, or of the corpus where it was made. That
        this holds the recordings that were counted is checked first, unless `check_origin` is False (who has checked
        it, or reads no windows).

        Raises StorageError where no complete store lies at `url`, InputError where its recordings are needed and
        are others or were withdrawn, ConfigError for a cache that is too small for the store.
        """
        url = uri.normalise(url)
        uri.probe(url)
        document = _document(url)
        if not is_complete(url, document["fingerprint"]):
            raise _incomplete(url)
        if document.get("on_the_fly"):
            origin = origin or Origin(document["corpus"], document["snapshot"]["version"])
            if check_origin:
                _check_origin(url, document, origin)
        parts = read_index(url, document.get("index", 1))
        return cls(url, document, parts, origin=origin).with_cache(cache)

    def with_cache(self, cache: CacheConfig | None) -> WindowStore:
        """The same, whose readers keep copies on the node where they run. Raises ConfigError for a cache that is too
        small for the store.
        """
        near = uri.is_local(self.url) or self.on_the_fly
        store = WindowStore(self.url, self.document, self._all_parts, None if near else cache, self.origin)
        store._chunk_sizes, store._found = self._chunk_sizes, self._found
        store._check_cache()
        return store

    def ready(self) -> WindowStore:
        """Itself, having read what else it needs to know: whoever is handed it asks for windows and nothing else."""
        if self.on_the_fly:
            self._cut_from()
        elif self._chunk_sizes is None and self.document.get("index", 1) >= 2:
            n_chunks_P = -(-self._parts["n_windows"].to_numpy() // self.chunk_windows)
            self._chunk_sizes = read_chunk_sizes(self.url, self._first_ids, n_chunks_P)
        return self

    @property
    def split_config(self) -> SplitConfig | None:
        """How its subjects were divided; None where that is not known (shards of others, put into one split)."""
        return None if self.document.get("all_to") else SplitConfig.from_dict(self.split)

    @property
    def signal_bytes(self) -> int:
        """Bytes of all signals."""
        lanes = 2 if self.spec.paired else 1
        return self.n_windows * self.spec.length * lanes * np.dtype(np.float16).itemsize

    def _check_cache(self) -> None:
        # A window here and a window there would each fetch a segment and push another out.
        if self._cache is not None and self.signal_bytes > self._cache.max_bytes:
            raise ConfigError(
                "cache of windows",
                value=f"{self._cache.max_gib:g} GiB for a store of {self.signal_bytes / 2**30:.1f} GiB",
                expected="room for the whole store",
                fix="a larger --resources.cache-gib, or none and no --resources.cache-folder",
            )

    @property
    def n_windows(self) -> int:
        return int(self._parts["n_windows"].to_numpy().sum())

    def counts(self) -> dict[tuple[str, str], int]:
        """Windows by (cohort, split)."""
        counts: Counter[tuple[str, str]] = Counter()
        for cohort, split, n in _rows(self._parts, "cohort", "split", "n_windows"):
            counts[cohort, split] += n
        return dict(counts)

    def dropped(self) -> dict[tuple[str, str], dict[str, int]]:
        """Windows not kept, by (cohort, split) and reason."""
        reasons: dict[tuple[str, str], Counter[str]] = {}
        for cohort, split, dropped in _rows(self._all_parts, "cohort", "split", "dropped"):
            reasons.setdefault((cohort, split), Counter()).update(dict(dropped or ()))
        return {key: dict(sorted(counter.items())) for key, counter in sorted(reasons.items())}

    def sources(self) -> Iterator[pa.Table] | None:
        """What was kept of each recording (`kept.SOURCES_SCHEMA`), part after part; None where a part does not say."""
        urls = [
            uri.join(self.url, part_path(*place), SOURCES)
            for place in _rows(self._all_parts, "cohort", "split", "part")
        ]
        # A store is made by one version from its first part on: old ones have it nowhere.
        if not urls or not uri.exists(urls[0]) or not uri.exists(urls[-1]):
            return None
        return self._side_by_side(lambda url: parquet.decode(uri.read_bytes(url)), urls)

    def kept(self, labels: Sequence[str] = ()) -> list[KeptGroup]:
        """The share kept, by what is known of the people: of these labels, else of those that were worked out when the
        store was made. None are told by a store whose parts do not say.
        """
        if not labels and uri.exists(uri.join(self.url, KEPT)):
            return [KeptGroup(**row) for row in json.loads(uri.read_bytes(uri.join(self.url, KEPT)))]
        sources = self.sources()
        return kept_by_label(sources, labels) if sources is not None else []

    def part_rows(self) -> list[dict[str, Any]]:
        """The parts in the order of their ids, parts without a window among them: place, sizes, what was dropped."""
        names = ("cohort", "split", "part", "n_windows", "first_id", "n_recordings", "n_subjects")
        there = [name for name in names if name in self._all_parts.column_names]
        rows = self._all_parts.select([*there, "dropped"]).to_pylist()
        return [{**row, "dropped": dict(row["dropped"] or ())} for row in rows]

    def segments(self, split: str) -> list[Segment]:
        """The parts of a split in the order of their ids. Raises InputError for a split that is none."""
        _check_split(split)
        return [
            Segment(cohort=cohort, part=part, first_id=first_id, n=n)
            for cohort, own_split, part, first_id, n in _rows(
                self._parts, "cohort", "split", "part", "first_id", "n_windows"
            )
            if own_split == split
        ]

    def read(self, ids_B: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        """Windows by id, in the order asked for: (ecg_BL, ppg_BL), float16; each chunk is read once, or each span
        cut once.

        `ecg_BL` is None in a store of the source alone. Raises InputError for an id that is not in the store,
        IntegrityError for a damaged chunk, naming it.
        """
        ids_B = np.asarray(ids_B, dtype=np.int64)
        part_B = self._part_of(ids_B)
        shape = (ids_B.size, self.spec.length)
        ppg_BL = np.empty(shape, np.float16)
        ecg_BL = np.empty(shape, np.float16) if self.spec.paired else None
        signals = {"ppg": ppg_BL} if ecg_BL is None else {"ppg": ppg_BL, "ecg": ecg_BL}

        def fill(job: tuple[int, str]) -> None:
            number, name = job
            here = np.flatnonzero(part_B == number)
            signals[name][here] = self._array(number, name).gather(ids_B[here] - self._first_ids[number])[:, 0]

        parts = [int(number) for number in np.unique(part_B)]
        if self.on_the_fly:
            for number in parts:
                here = np.flatnonzero(part_B == number)
                reader = CutReader(self._url(number, ""), self.spec, *self._cut_from())
                found = reader.gather(ids_B[here] - self._first_ids[number])
                for name, signal_BL in signals.items():
                    signal_BL[here] = found[name]
            return ecg_BL, ppg_BL
        self.ready()
        # Arrays lie in objects of their own: their requests wait side by side, not one after another.
        for _ in self._side_by_side(fill, [(number, name) for number in parts for name in signals]):
            pass
        return ecg_BL, ppg_BL

    def meta(self, which: str | np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """What is known of each window of a split, or of windows by id (then in the order asked for).

        Columns of `meta.parquet` plus `window_id` and `split`; `columns` leaves the others unread.
        """
        if isinstance(which, str):
            return self._concatenate(list(self.meta_parts(which, columns)), columns)
        ids_B = np.asarray(which, dtype=np.int64)
        part_B = self._part_of(ids_B)
        numbers = [int(number) for number in np.unique(part_B)]
        tables, places = [], []
        for number, table in zip(numbers, self._metas(numbers, columns), strict=True):
            here = np.flatnonzero(part_B == number)
            tables.append(table.take(ids_B[here] - self._first_ids[number]))
            places.append(here)
        table = self._concatenate(tables, columns)
        return table.take(np.argsort(np.concatenate(places))) if places else table

    def meta_parts(
        self, splits: str | Iterable[str], columns: Sequence[str] | None = None, cohorts: Collection[str] = ()
    ) -> Iterator[pa.Table]:
        """`meta` of one split or several, part after part in the order of ids; of these cohorts, where any are named.

        A few parts are held at a time, at about 1 kB a window of 30 labels.
        """
        chosen = [splits] if isinstance(splits, str) else list(splits)
        for split in chosen:
            _check_split(split)
        there = self._in_splits(chosen)
        if cohorts:
            there = there & pc.is_in(self._parts["cohort"], pa.array(cohorts, pa.string())).to_numpy()
        return self._metas(np.flatnonzero(there).tolist(), columns)

    def subjects_of(self, segments: Sequence[Segment]) -> Iterator[pa.ChunkedArray]:
        """The subject of each window of some parts, part after part."""
        numbers = np.searchsorted(self._first_ids, [segment.first_id for segment in segments]).tolist()
        return (table["subject_id"] for table in self._metas(numbers, ["subject_id"]))

    def windows_of(self, subject: str) -> tuple[str, np.ndarray] | None:
        """(split, ascending ids) of the windows of a subject; None where there are none.

        Reads the subjects of those parts alone that may hold this one: a part or two of each cohort; in stores whose
        index does not tell, all parts of the split.
        """
        config = self.split_config
        parts = self._parts
        there = pc.and_kleene(
            pc.less_equal(parts["first_subject"], subject), pc.greater_equal(parts["last_subject"], subject)
        )
        # A null is a part of which the index does not tell.
        splits_there = self._in_splits(SPLITS if config is None else [config.of(subject)])
        numbers = np.flatnonzero(splits_there & pc.fill_null(there, True).to_numpy()).tolist()
        ids, splits = [np.empty(0, np.int64)], set()
        for number, table in zip(numbers, self._metas(numbers, ["subject_id"]), strict=True):
            own = np.flatnonzero(pc.equal(table["subject_id"], subject).to_numpy())
            if own.size:
                ids.append(own + self._first_ids[number])
                splits.add(parts["split"][number].as_py())
        return (min(splits, key=SPLITS.index), np.concatenate(ids)) if splits else None

    def _in_splits(self, splits: Iterable[str]) -> np.ndarray:
        return pc.is_in(self._parts["split"], pa.array(splits, pa.string())).to_numpy()

    def _part_of(self, ids_B: np.ndarray) -> np.ndarray:
        if ids_B.size and (ids_B.min() < 0 or ids_B.max() >= self.n_windows):
            raise InputError(
                f"window ids of {self.url}",
                value=f"{ids_B.min()} to {ids_B.max()}",
                expected=f"0 to {self.n_windows - 1}",
                fix="use the plan of this store",
            )
        return np.searchsorted(self._first_ids, ids_B, side="right") - 1

    def _url(self, number: int, name: str) -> str:
        place = (self._parts[column][number].as_py() for column in ("cohort", "split", "part"))
        return uri.join(self.url, part_path(*place), name)

    def _array(self, number: int, name: str) -> WindowArrayReader:
        url = self._url(number, name)
        copies = None if self._cache is None else SegmentCache(self._cache)
        if self._chunk_sizes is None:
            # Parts never change, so a reader and its shard indexes may be kept.
            return _readers.get((url, self._cache), lambda: WindowArrayReader(url, copies, kept_chunks=0))
        return WindowArrayReader(url, copies, kept_chunks=0, layout=self._layout(number, name))

    def _layout(self, number: int, name: str) -> Layout:
        assert self._chunk_sizes is not None
        return Layout(
            shape=(self._parts["n_windows"][number].as_py(), 1, self.spec.length),
            dtype=np.dtype(np.float16),
            chunk_rows=self.chunk_windows,
            shard_rows=self.document["shard_windows"],
            chunk_bytes=self._chunk_sizes[name].of(number),
        )

    def _cut_from(self) -> tuple[Origin, Found]:
        """Where windows are cut from, and where its recordings are found: asked once, and handed on."""
        assert self.origin is not None
        if self._found is None:
            self._found = _found(self.document, self.origin)
        return self.origin, self._found

    def _side_by_side(
        self, work: Callable[[_Item], _Found], items: Iterable[_Item], at_once: int = 2 * _CONNECTIONS
    ) -> Iterator[_Found]:
        """`work` of each item in order; of a far store, a few at a time."""
        if uri.is_local(self.url):
            yield from map(work, items)
            return
        rest = iter(items)
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            waiting: deque[Future[_Found]] = deque()
            for item in rest:
                waiting.append(pool.submit(work, item))
                if len(waiting) == at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _metas(self, numbers: Sequence[int], columns: Sequence[str] | None) -> Iterator[pa.Table]:
        labelled = columns is None or not _LABELS.isdisjoint(columns)
        at_once = _LABELLED_AHEAD if labelled else 2 * _CONNECTIONS
        return self._side_by_side(lambda number: self._meta(number, columns), numbers, at_once)

    def _meta(self, number: int, columns: Sequence[str] | None) -> pa.Table:
        row = {name: self._parts[name][number].as_py() for name in ("n_windows", "first_id", "split", "meta_bytes")}
        stored = None if columns is None else [name for name in columns if name not in ("window_id", "split")]
        table = parquet.read_columns(self._url(number, "meta.parquet"), stored, size=row["meta_bytes"])
        added = {
            # Absent where windows were made before there was alignment: then all channels share a clock.
            "arrival_time_absolute": lambda n: pa.array(np.ones(n, bool)),
            "target_recording_id": lambda n: pa.nulls(n, pa.string()),
            "target_start_s": lambda n: pa.nulls(n, pa.float64()),
            "window_id": lambda n: pa.array(np.arange(row["first_id"], row["first_id"] + n)),
            "split": lambda n: pa.repeat(row["split"], n),
        }
        for name, values in added.items():
            if name not in table.column_names and (columns is None or name in columns):
                table = table.append_column(name, values(row["n_windows"]))
        return table if columns is None else table.select(list(columns))

    def _concatenate(self, tables: list[pa.Table], columns: Sequence[str] | None) -> pa.Table:
        if tables:
            return pa.concat_tables(tables)
        schema = META_SCHEMA.append(pa.field("window_id", pa.int64())).append(pa.field("split", pa.string()))
        table = schema.empty_table()
        return table if columns is None else table.select(list(columns))


def open_store(url: str, corpus_url: str = "") -> WindowStore:
    """The store at `url`; windows that are cut when read come from `corpus_url`, where one is named."""
    if not corpus_url:
        return WindowStore.open(url)
    version = _document(uri.normalise(url))["snapshot"]["version"]
    return WindowStore.open(url, origin=Origin(uri.normalise(corpus_url), version))


def stores_below(url: str) -> dict[str, dict[str, Any]]:
    """URL -> `store.json` of each complete window store directly below `url`, without opening any.

    Stores of jobs that died are passed over; one that cuts withdrawn recordings is there, and refuses to open.
    """
    found = {}
    for child in uri.list_urls(url) if uri.exists(url) else ():
        folder = child.rstrip("/")
        if uri.exists(uri.join(folder, "store.json")):
            document = _document(folder)
            if is_complete(folder, document["fingerprint"]):
                found[folder] = document
    return found


def _document(url: str) -> dict[str, Any]:
    if not uri.exists(uri.join(url, "store.json")):
        raise _incomplete(url)
    document: dict[str, Any] = json.loads(uri.read_bytes(uri.join(url, "store.json")))
    if document.get("format") not in (FORMAT, FORMAT_CUT):
        raise StorageError(
            url,
            value=f"window store format {document.get('format')!r}",
            expected=f"{FORMAT} or {FORMAT_CUT}",
            fix="make the store again with this version",
        )
    return document


def _check_origin(url: str, document: dict[str, Any], origin: Origin) -> None:
    """Raises InputError unless the cohorts of `origin` are those that the store's windows were counted in."""
    snapshot = Corpus.open(origin.url).snapshot(origin.version)
    there = set(snapshot.cohorts())
    for cohort, counted in document["cohorts"].items():
        found = _fingerprint_like(snapshot.cohort(cohort), counted) if cohort in there else "no such cohort"
        if found != counted:
            raise InputError(
                f"cohort {cohort} in snapshot {origin.version} of {origin.url}",
                value=found,
                expected=f"{counted}, the fingerprint of what the windows of {url} were counted in",
                fix="name the corpus that they were made from (--corpus), or make the windows again",
            )


def made_of(document: Mapping[str, Any], snapshot: Snapshot) -> bool:
    """Whether a store's `store.json` names this snapshot, as versions before sums named it too."""
    named = document["snapshot"]["fingerprint"]
    return named == snapshot.fingerprint or named == snapshot.legacy_fingerprint()


def _fingerprint_like(cohort: Snapshot, counted: str) -> str:
    """Its fingerprint; that of before there were sums, where that is what was counted."""
    if cohort.fingerprint == counted or (legacy := cohort.legacy_fingerprint()) != counted:
        return cohort.fingerprint
    return legacy


def _found(document: dict[str, Any], origin: Origin) -> Found:
    if document["format"] != FORMAT_CUT:
        return Found.BY_INDEX_V1
    holds = Places(**document["places"]) == Places.of(Corpus.open(origin.url))
    return Found.IN_PART if holds else Found.BY_INDEX


def _incomplete(url: str) -> StorageError:
    return StorageError(
        url,
        value="no complete window store there",
        expected="a store.json and a committed index",
        fix="make it with `xmae windows`, or check the URL it printed",
    )


# Numbers of `WindowBatch` that are kept for each window, under their names less the shape suffix.
MEASURES = (
    "quality_ecg",
    "quality_ppg",
    "heart_rate_bpm",
    "pulse_rate_bpm",
    "pulse_arrival_s",
    "pulse_arrival_iqr_s",
    "ecg_offset",
    "ecg_scale",
    "ppg_offset",
    "ppg_scale",
)
# Of how they are measured: part of a store's fingerprint, and of no run's, since the windows are the same. Stores
# without it took the next foot after an R peak for its pulse: on monitors that show the pulse late, another beat's.
MEASURES_REVISION = "pulse-arrival-of-its-own-beat/v1"
META_SCHEMA = pa.schema(
    [
        ("subject_id", pa.string()),
        ("recording_id", pa.string()),
        ("cohort", pa.string()),
        ("start_s", pa.float64()),
        *((name, pa.float32()) for name in MEASURES),
        ("labels", pa.map_(pa.string(), pa.float64())),
        ("label_text", pa.map_(pa.string(), pa.string())),
        # False where target and source had clocks of their own: then their constant delay is the declared prior.
        ("arrival_time_absolute", pa.bool_()),
        ("target_recording_id", pa.string()),
        ("target_start_s", pa.float64()),
    ]
)


_readers: SizedCache[WindowArrayReader] = SizedCache(_READERS_BYTES, lambda reader: reader.most_bytes)


def _rows(parts: pa.Table, *columns: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(parts[name].to_pylist() for name in columns), strict=True)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise InputError("split", value=repr(split), expected=f"one of {', '.join(SPLITS)}")
