"""A window store: the aligned windows of one corpus snapshot under one specification, ready for training.

    <url>/store.json                                   specification, snapshot, split, sizes
    <url>/index/                                       Delta table, a row per part; its commit makes the store visible
    <url>/parts/<cohort>/<split>/<part>/ecg, ppg       Zarr v3, (n, 1, L) float16 in [-1, 1], sharded along windows
    <url>/parts/<cohort>/<split>/<part>/meta.parquet   a row per window: where it comes from, qualities, labels
    <url>/parts/<cohort>/<split>/<part>/sources.parquet  a row per recording: windows kept and dropped, labels (`kept`);
                                                       absent in stores of earlier versions and of others' shards
    <url>/parts/<cohort>/<split>/<part>/cuts.json      instead of the signals, in a store that cuts them when read

Window ids are int64, contiguous in each part, ordered by (split, cohort, part), with train first.
"""

from __future__ import annotations

import functools
import json
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from xmae_dist.core.errors import ConfigError, InputError, StorageError
from xmae_dist.data.store.kept import SOURCES
from xmae_dist.data.windows.cut_reader import CutReader, Origin
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SPLITS, SplitConfig
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.segment_cache import CacheConfig, SegmentCache
from xmae_dist.storage.table import Table
from xmae_dist.storage.zarr_store import WindowArrayReader

FORMAT = "xmae-windows/v1"
_CONNECTIONS = 16


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
    """Reads a complete window store. Picklable; keeps only the list of parts."""

    def __init__(
        self,
        url: str,
        document: dict[str, Any],
        parts: list[dict[str, Any]],
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
        self._all_parts = sorted(parts, key=lambda row: (row["first_id"], row["n_windows"]))
        self._parts = [row for row in self._all_parts if row["n_windows"]]
        self._first_ids = np.array([row["first_id"] for row in self._parts], dtype=np.int64)

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
        parts = Table(uri.join(url, "index")).read().to_pylist()
        store = cls(url, document, parts, _useful(cache, url, document), origin)
        store._check_cache()
        return store

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
                fix="give it more room, or leave the cache out",
            )

    @property
    def n_windows(self) -> int:
        return int(sum(row["n_windows"] for row in self._parts))

    def counts(self) -> dict[tuple[str, str], int]:
        """Windows by (cohort, split)."""
        counts: Counter[tuple[str, str]] = Counter()
        for row in self._parts:
            counts[row["cohort"], row["split"]] += row["n_windows"]
        return dict(counts)

    def dropped(self) -> dict[tuple[str, str], dict[str, int]]:
        """Windows not kept, by (cohort, split) and reason."""
        reasons: dict[tuple[str, str], Counter[str]] = {}
        for row in self._all_parts:
            reasons.setdefault((row["cohort"], row["split"]), Counter()).update(dict(row["dropped"] or ()))
        return {key: dict(sorted(counter.items())) for key, counter in sorted(reasons.items())}

    def sources(self) -> pa.Table | None:
        """What was kept of each recording (`kept.SOURCES_SCHEMA`); None where a part does not say."""
        urls = [
            uri.join(self.url, part_path(row["cohort"], row["split"], row["part"]), SOURCES) for row in self._all_parts
        ]
        if not urls or not all(map(uri.exists, urls)):
            return None
        return pa.concat_tables(parquet.decode(uri.read_bytes(url)) for url in urls)

    def part_rows(self) -> list[dict[str, Any]]:
        """The rows of the index in the order of their ids, parts without a window among them."""
        return [{**row, "dropped": dict(row["dropped"] or ())} for row in self._all_parts]

    def segments(self, split: str) -> list[Segment]:
        """The parts of a split in the order of their ids. Raises InputError for a split that is none."""
        _check_split(split)
        return [
            Segment(cohort=row["cohort"], part=row["part"], first_id=row["first_id"], n=row["n_windows"])
            for row in self._parts
            if row["split"] == split
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
                reader = _cut_reader(self._url(number, ""), self.spec, self.origin)
                found = reader.gather(ids_B[here] - self._first_ids[number])
                for name, signal_BL in signals.items():
                    signal_BL[here] = found[name]
            return ecg_BL, ppg_BL
        jobs = [(number, name) for number in parts for name in signals]
        if uri.is_local(self.url):
            list(map(fill, jobs))
        else:
            # Arrays lie in objects of their own: their requests wait side by side, not one after another.
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                list(pool.map(fill, jobs))
        return ecg_BL, ppg_BL

    def meta(self, which: str | np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
        """What is known of each window of a split, or of windows by id (then in the order asked for).

        Columns of `meta.parquet` plus `window_id` and `split`; `columns` leaves the others unread.
        """
        if isinstance(which, str):
            _check_split(which)
            numbers = [i for i, row in enumerate(self._parts) if row["split"] == which]
            return self._concatenate([self._meta(number, columns) for number in numbers], columns)
        ids_B = np.asarray(which, dtype=np.int64)
        part_B = self._part_of(ids_B)
        tables, places = [], []
        for number in np.unique(part_B):
            here = np.flatnonzero(part_B == number)
            tables.append(self._meta(int(number), columns).take(ids_B[here] - self._first_ids[number]))
            places.append(here)
        table = self._concatenate(tables, columns)
        return table.take(np.argsort(np.concatenate(places))) if places else table

    def meta_parts(
        self, splits: Iterable[str], columns: Sequence[str] | None = None, cohorts: Collection[str] = ()
    ) -> Iterator[pa.Table]:
        """`meta` of one part after another, in the order of ids; of some cohorts, where any are named.

        The next part is fetched while one is worked on: two are in memory, at about 1 kB a window with 30 labels.
        """
        chosen = set(splits)
        for split in chosen:
            _check_split(split)
        numbers = [
            number
            for number, row in enumerate(self._parts)
            if row["split"] in chosen and (not cohorts or row["cohort"] in cohorts)
        ]
        coming: deque[Future[pa.Table]] = deque()
        with ThreadPoolExecutor(1) as ahead:
            for number in numbers:
                coming.append(ahead.submit(self._meta, number, columns))
                if len(coming) > 1:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

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
        row = self._parts[number]
        return uri.join(self.url, part_path(row["cohort"], row["split"], row["part"]), name)

    def _array(self, number: int, name: str) -> WindowArrayReader:
        return _reader(self._url(number, name), self._cache)

    def _meta(self, number: int, columns: Sequence[str] | None) -> pa.Table:
        row = self._parts[number]
        stored = None if columns is None else [name for name in columns if name not in ("window_id", "split")]
        table = parquet.decode(uri.read_bytes(self._url(number, "meta.parquet")), stored)
        added = {
            # Absent where windows were made before there was alignment: then all channels share a clock.
            "arrival_time_absolute": pa.array([True] * row["n_windows"]),
            "target_recording_id": pa.nulls(row["n_windows"], pa.string()),
            "target_start_s": pa.nulls(row["n_windows"], pa.float64()),
            "window_id": pa.array(np.arange(row["first_id"], row["first_id"] + row["n_windows"])),
            "split": pa.array([row["split"]] * row["n_windows"]),
        }
        for name, values in added.items():
            if name not in table.column_names and (columns is None or name in columns):
                table = table.append_column(name, values)
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


def transaction(fingerprint: str) -> str:
    """The application id of the one commit that makes a store visible."""
    return f"windows:{fingerprint}"


def is_complete(url: str, fingerprint: str) -> bool:
    """Whether the commit was made; an index without it is the trace of a job that died."""
    return Table(uri.join(url, "index")).transaction_version(transaction(fingerprint)) is not None


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
    if document.get("format") != FORMAT:
        raise StorageError(
            url,
            value=f"window store format {document.get('format')!r}",
            expected=FORMAT,
            fix="make the store again with this version",
        )
    return document


def _check_origin(url: str, document: dict[str, Any], origin: Origin) -> None:
    """Raises InputError unless the cohorts of `origin` are those that the store's windows were counted in."""
    snapshot = Corpus.open(origin.url).snapshot(origin.version)
    there = set(snapshot.cohorts())
    for cohort, counted in document["cohorts"].items():
        found = snapshot.cohort(cohort).fingerprint if cohort in there else "no such cohort"
        if found != counted:
            raise InputError(
                f"cohort {cohort} in snapshot {origin.version} of {origin.url}",
                value=found,
                expected=f"{counted}, the fingerprint of what the windows of {url} were counted in",
                fix="name the corpus that they were made from (--corpus), or make the windows again",
            )


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


@functools.lru_cache(maxsize=64)
def _cut_reader(url: str, spec: WindowSpec, origin: Origin) -> CutReader:
    return CutReader(url, spec, origin)


@functools.lru_cache(maxsize=256)
def _reader(url: str, cache: CacheConfig | None) -> WindowArrayReader:
    """Parts never change, so a reader and its shard indexes may be kept."""
    return WindowArrayReader(url, None if cache is None else SegmentCache(cache))


def _useful(cache: CacheConfig | None, url: str, document: dict[str, Any]) -> CacheConfig | None:
    """None where there is nothing far to copy."""
    return None if uri.is_local(url) or document.get("on_the_fly") else cache


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise InputError("split", value=repr(split), expected=f"one of {', '.join(SPLITS)}")
