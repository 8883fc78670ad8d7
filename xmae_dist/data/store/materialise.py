"""Snapshot -> window store, as Ray tasks: one writes one part, one commit makes the store visible.

The store's place is named by what determines its content (snapshot, specification, split, sizes), so asking again for
the same windows finds them, by the sums that the snapshot carries: no row is read. A job that dies leaves parts that no
reader sees; the next one keeps those that are complete and makes the rest.

Parts are planned as rows stream by, and each task is handed the rows of its own part when there is room for it: memory
of this process does not follow the corpus, but for a few kilobytes a part (its row of the index).
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xmae_dist.cluster import fanout
from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import canonical_json, digest_json
from xmae_dist.core.plausible import likely_pulse_waves
from xmae_dist.core.progress import progress
from xmae_dist.data.clocks.alignment import ALGORITHM as ALIGNMENT
from xmae_dist.data.store import planning
from xmae_dist.data.store.aligned_sources import AlignedSources
from xmae_dist.data.store.kept import KEPT, SOURCES, kept_by_label
from xmae_dist.data.store.part import PartPlan, kept_as, write_part
from xmae_dist.data.store.part_index import commit_index, is_complete
from xmae_dist.data.store.planning import PartRows, SourceBlock, blocks_of_rows, plan_parts
from xmae_dist.data.store.window_store import CONTENT, FORMAT, FORMAT_CUT, MEASURES_REVISION, WindowStore, part_path
from xmae_dist.data.windows.cut_reader import Origin, Places
from xmae_dist.data.windows.spec import ALGORITHM, WindowSpec
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.contents import fingerprint
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.snapshot import Snapshot


class NoWindowsError(InputError):
    """A snapshot of which no window can be kept under a specification."""

    exit_status = 1


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """What a window store holds."""

    spec: WindowSpec = field(default_factory=WindowSpec)
    """How windows are cut."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """How subjects are divided."""
    cohorts: tuple[str, ...] = ()
    """Cohorts to take; none named takes all."""
    chunk_windows: int = 64
    """Windows in a chunk, the unit of reading and of the block shuffle."""
    on_the_fly: bool = False
    """Keep no signals, only where windows lie: they are cut out of the recordings whenever they are read. Same
    windows, same ids, no room taken, more work for each read."""


def materialise(
    corpus_url: str,
    windows_url: str,
    config: StoreConfig | None = None,
    *,
    version: int | None = None,
    tasks: int | None = None,
    allow_withdrawn: bool = False,
) -> WindowStore:
    """The window store of a corpus snapshot (the newest unless `version` is given), made if it is not there.

    An old version with subjects that were withdrawn since is refused unless `allow_withdrawn`.
    `tasks` limits how many parts are written at once; it changes nothing in the result. Starts a local Ray
    where none is running and no RAY_ADDRESS is set. Raises InputError for an empty corpus, IntegrityError
    for damaged recordings, naming them, and NoWindowsError where not one window can be kept: such a store is not kept
    either.
    """
    config = config or StoreConfig()
    corpus = Corpus.open(corpus_url)
    snapshot = _chosen(corpus.snapshot(version, allow_withdrawn=allow_withdrawn), config)
    if not snapshot.contents:
        raise InputError(corpus_url, value="no recordings", expected="a corpus with recordings", fix="ingest some")
    windows_url = uri.checked_place(windows_url)
    uri.probe(windows_url)
    with tempfile.TemporaryDirectory(prefix="xmae-plan-") as folder:
        making = Making(corpus, snapshot, config, windows_url, folder)
        url = making.found() or making.made(tasks)
    # The store is named by what this snapshot holds, so its recordings need no second look.
    store = WindowStore.open(url, origin=Origin(snapshot.url, snapshot.version), check_origin=allow_withdrawn)
    if not store.n_windows:  # made by a version that kept empty ones
        uri.delete(url, recursive=True)
        raise _no_windows(snapshot, config, list(store.dropped().values()))
    return store


def _chosen(snapshot: Snapshot, config: StoreConfig) -> Snapshot:
    """The cohorts of the configuration. Raises InputError for one that is not there."""
    for name in config.cohorts:
        snapshot.cohort(name)
    return Snapshot(snapshot.url, snapshot.version, config.cohorts) if config.cohorts else snapshot


class Making:
    """One store: looked for, or made."""

    def __init__(self, corpus: Corpus, snapshot: Snapshot, config: StoreConfig, below: str, folder: str) -> None:
        """`below`: URL that stores lie below. `folder`: where rows are sorted, empty."""
        self._corpus, self._snapshot, self._config = corpus, snapshot, config
        self._below, self._folder = below, folder
        self._aligned: AlignedSources | None = None

    def found(self) -> str | None:
        """The URL of the complete store, also of one that is named as versions before sums named it."""
        name = digest_json(_content(self._config, _digests(self._snapshot)))
        if is_complete(url := uri.join(self._below, name), name):
            return url
        legacy = self._name_v1()
        if legacy is not None and is_complete(url := uri.join(self._below, legacy), legacy):
            return url
        return None

    def _name_v1(self) -> str | None:
        """Pairs are part of it: where the specification asks for them, all people are gone through."""
        cohorts = {name: self._snapshot.cohort(name).legacy_fingerprint() for name in self._snapshot.cohorts()}
        if None in cohorts.values():
            return None
        content = _content(self._config, cohorts)
        if content.pop("alignments", None) is not None and (pairs := self._sources().pairs_fingerprint_v1()):
            content["alignments"] = pairs
        return digest_json(content)

    def document(self) -> dict[str, Any]:
        """`store.json`."""
        config, snapshot = self._config, self._snapshot
        content = _content(config, _digests(snapshot))
        whole = Snapshot(snapshot.url, snapshot.version)
        cut_when_read = {"corpus": snapshot.url, "places": Places.of(self._corpus)}
        return {
            **content,
            "format": FORMAT_CUT if config.on_the_fly else FORMAT,
            "snapshot": {"fingerprint": whole.fingerprint, "version": snapshot.version, **_legacy(whole)},
            "fingerprint": digest_json(content),
            **kept_as(config.chunk_windows),
            **(cut_when_read if config.on_the_fly else {}),
        }

    def made(self, tasks: int | None) -> str:
        """Makes the store, and returns its URL. Raises NoWindowsError, and keeps nothing, where no window is kept."""
        document = self.document()
        url = uri.join(self._below, document["fingerprint"])
        uri.write_bytes(uri.join(url, "store.json"), canonical_json(document))
        rows = list(self._written(url, tasks))
        if not any(row["n_windows"] for row in rows):
            uri.delete(url, recursive=True)
            raise _no_windows(self._snapshot, self._config, [row["dropped"] for row in rows])
        kept = kept_by_label(parquet.decode(uri.read_bytes(uri.join(url, one, SOURCES))) for one in _places(rows))
        uri.write_bytes(uri.join(url, KEPT), canonical_json(kept))
        commit_index(url, document["fingerprint"], rows)
        return url

    def _written(self, url: str, tasks: int | None) -> Iterator[dict[str, Any]]:
        """Writes all parts as Ray tasks; yields their index rows as they finish."""
        total = None if self._mixed else sum(one.rows for one in self._snapshot.contents.values())
        with progress("windows", total, "signals") as shown:
            for row, signals in fanout.stream(_write, self.plans(url), at_once=tasks):
                shown.advance(signals, f"{row['cohort']}/{row['split']}/{row['part']}")
                row["chunk_bytes"] = {name: np.array(sizes, np.int32) for name, sizes in row["chunk_bytes"].items()}
                yield row

    def plans(self, url: str) -> Iterator[PartPlan]:
        """The parts of the store at `url`, each as it is planned."""
        blocks = self._aligned_blocks() if self._mixed else _Recordings(self._snapshot, self._config.spec, self._folder)
        size = planning.part_windows(blocks)
        return (self._plan(url, part) for part in plan_parts(blocks, self._config.split, size, mixed=self._mixed))

    @property
    def _mixed(self) -> bool:
        return self._config.spec.arrival_prior_s is not None

    def _aligned_blocks(self) -> Iterable[SourceBlock]:
        sources = self._sources()
        sources.estimate()
        return sources.blocks()

    def _sources(self) -> AlignedSources:
        if self._aligned is None:
            self._aligned = AlignedSources(self._corpus, self._snapshot, self._config.spec, self._folder)
        return self._aligned

    def _plan(self, url: str, part: PartRows) -> PartPlan:
        return PartPlan(
            store_url=url,
            corpus_url=self._snapshot.url,
            cohort=part.cohort,
            split=part.split,
            part=part.part,
            rows=part.rows,
            spec=self._config.spec,
            chunk_windows=self._config.chunk_windows,
            on_the_fly=self._config.on_the_fly,
        )


class _Recordings:
    """Every recording of a snapshot as a source, to be gone through more than once; rows are sorted below `folder`."""

    def __init__(self, snapshot: Snapshot, spec: WindowSpec, folder: str) -> None:
        self._spec = spec
        self._rows = snapshot.sorted_rows(folder)

    def __iter__(self) -> Iterator[SourceBlock]:
        return blocks_of_rows(self._rows, self._spec)


def _places(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    return (part_path(row["cohort"], row["split"], row["part"]) for row in rows)


def _write(plan: PartPlan) -> Iterator[tuple[dict[str, Any], int]]:
    """Ray task: the part's row of the index, and how many signals it was made from."""
    yield write_part(plan), plan.rows.num_rows


def missing_channel_hint(channels: Iterable[str], spec: WindowSpec, dropped: Iterable[Mapping[str, int]]) -> str | None:
    """What to do where windows are dropped because a recording lacks a channel; None where none was."""
    reasons: Counter[str] = Counter()
    for one in dropped:
        reasons.update(one)
    there = set(channels)
    if reasons[f"no_{spec.source}"]:
        likely = likely_pulse_waves(there - {spec.source})
        if likely:
            target = f"{spec.target} " if spec.paired else ""
            return (
                f"{', '.join(likely)} may be the pulse wave: `--source {likely[0]} --require {target}{likely[0]}`, or "
                f"ingest it as {spec.source!r} by a mapping"
            )
    if spec.paired and reasons[f"no_{spec.target}"] and spec.source in there:
        return f"recordings without {spec.target!r} give windows with `--require {spec.source}`"
    return None


def _no_windows(snapshot: Snapshot, config: StoreConfig, dropped: Sequence[Mapping[str, int]]) -> NoWindowsError:
    reasons: Counter[str] = Counter()
    for one in dropped:
        reasons.update(one)
    said = ", ".join(f"{name} {count:,}" for name, count in reasons.most_common())
    channels = {channel for one in snapshot.contents.values() for channel in one.channels}
    return NoWindowsError(
        f"windows of {snapshot.url}",
        value=f"none of {sum(reasons.values()):,} possible ones kept ({said})" if said else "none",
        expected="at least one",
        fix=missing_channel_hint(channels, config.spec, dropped)
        or "look at the reasons: `xmae inspect` shows channels and quality; `--min-quality` and others decide",
    )


def _digests(snapshot: Snapshot) -> dict[str, str | None]:
    """The fingerprint of each cohort, from what the snapshot's commit states."""
    return {name: fingerprint({name: content}) for name, content in snapshot.contents.items()}


def _content(config: StoreConfig, cohorts: Mapping[str, str | None]) -> dict[str, Any]:
    """What determines the windows of a store and names it; it covers the cohorts taken, so a store outlives the arrival
    of others. Which pairs there are follows from the cohorts.
    """
    content: dict[str, Any] = {
        "format": CONTENT,
        "algorithm": ALGORITHM,
        "spec": config.spec.to_dict(),
        "split": config.split,
        "cohorts": cohorts,
        "chunk_windows": config.chunk_windows,
        "measures": MEASURES_REVISION,
    }
    if config.spec.arrival_prior_s is not None:
        content["alignments"] = ALIGNMENT
    if config.on_the_fly:
        content["on_the_fly"] = True
    return content


def _legacy(whole: Snapshot) -> dict[str, str]:
    """What checkpoints of before there were sums know the snapshot by."""
    legacy = whole.legacy_fingerprint()
    return {} if legacy is None else {"legacy": legacy}
