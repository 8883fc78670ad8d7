"""Snapshot -> window store, as a Ray Data job: one task writes one part, one commit makes the store visible.

The store's place is named by what determines its content (snapshot, specification, split, sizes), so asking
again for the same windows finds them. A job that dies leaves parts that no reader sees; the next one keeps
those that are complete and makes the rest.
"""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from xmae_dist.cluster import fanout
from xmae_dist.core.errors import InputError, XmaeError
from xmae_dist.core.fingerprint import canonical_json, digest_json
from xmae_dist.core.plausible import likely_pulse_waves
from xmae_dist.core.progress import progress
from xmae_dist.data.clocks.pairing import Candidate
from xmae_dist.data.clocks.record import estimates
from xmae_dist.data.clocks.record import fingerprint as pairs_fingerprint
from xmae_dist.data.store.part import PartPlan, plan_parts, write_part
from xmae_dist.data.store.window_store import FORMAT, MEASURES_REVISION, WindowStore, is_complete, transaction
from xmae_dist.data.windows.cut_reader import Origin
from xmae_dist.data.windows.source import pairs_among, window_sources
from xmae_dist.data.windows.spec import ALGORITHM, WindowSpec
from xmae_dist.data.windows.split import SPLITS, SplitConfig
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.snapshot import Snapshot
from xmae_dist.storage.table import Table

# Loggers of Ray Data that tell of every execution what our own progress says better.
_CHATTER = ("ray.data._internal.execution.streaming_executor", "ray.data._internal.progress")

_INDEX_SCHEMA = pa.schema(
    [
        pa.field("cohort", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("n_windows", pa.int64(), nullable=False),
        pa.field("first_id", pa.int64(), nullable=False),
        pa.field("n_recordings", pa.int64(), nullable=False),
        pa.field("n_subjects", pa.int64(), nullable=False),
        pa.field("dropped", pa.map_(pa.string(), pa.int64())),
    ]
)


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
    snapshot = corpus.snapshot(version, allow_withdrawn=allow_withdrawn)
    recordings = [r for name in _cohorts(snapshot, config) for r in snapshot.cohort(name).recordings()]
    if not recordings:
        raise InputError(corpus_url, value="no recordings", expected="a corpus with recordings", fix="ingest some")
    pairs = pairs_among(recordings, config.spec)
    document = _document(snapshot, config, pairs)
    url = uri.join(uri.checked_place(windows_url), document["fingerprint"])
    uri.probe(url)
    if not is_complete(url, document["fingerprint"]):
        uri.write_bytes(uri.join(url, "store.json"), canonical_json(document))
        sources = window_sources(recordings, pairs, estimates(corpus, pairs))
        plans = plan_parts(sources, config.spec, config.split, url, config.chunk_windows, on_the_fly=config.on_the_fly)
        rows = list(_written(plans, tasks))
        if not any(row["n_windows"] for row in rows):
            uri.delete(url, recursive=True)
            raise _no_windows(snapshot, config, [dict(row["dropped"]) for row in rows])
        commit_index(url, document["fingerprint"], rows)
    # The store is named by what this snapshot holds, so its recordings need no second look.
    store = WindowStore.open(url, origin=Origin(snapshot.url, snapshot.version), check_origin=allow_withdrawn)
    if not store.n_windows:  # made by a version that kept empty ones
        uri.delete(url, recursive=True)
        raise _no_windows(snapshot, config, list(store.dropped().values()))
    return store


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
    channels = {row.channel for name in _cohorts(snapshot, config) for row in snapshot.cohort(name).rows()}
    return NoWindowsError(
        f"windows of {snapshot.url}",
        value=f"none of {sum(reasons.values()):,} possible ones kept ({said})" if said else "none",
        expected="at least one",
        fix=missing_channel_hint(channels, config.spec, dropped)
        or "look at the reasons: `xmae inspect` shows channels and quality; `--min-quality` and others decide",
    )


def _cohorts(snapshot: Snapshot, config: StoreConfig) -> list[str]:
    return sorted(set(config.cohorts)) if config.cohorts else snapshot.cohorts()


def _document(snapshot: Snapshot, config: StoreConfig, pairs: Sequence[Candidate] = ()) -> dict[str, Any]:
    """`store.json`. Its fingerprint covers the cohorts taken, so a store outlives the arrival of others."""
    content = {
        "format": FORMAT,
        "algorithm": ALGORITHM,
        "spec": config.spec.to_dict(),
        "split": config.split,
        "cohorts": {name: snapshot.cohort(name).fingerprint for name in _cohorts(snapshot, config)},
        "chunk_windows": config.chunk_windows,
    }
    content["measures"] = MEASURES_REVISION
    if pairs:
        content["alignments"] = pairs_fingerprint(pairs)
    if config.on_the_fly:
        content["on_the_fly"] = True
    source = {"fingerprint": snapshot.fingerprint, "version": snapshot.version}
    place = {"corpus": snapshot.url} if config.on_the_fly else {}
    return {**content, **place, "snapshot": source, "fingerprint": digest_json(content)}


def _written(plans: Sequence[PartPlan], tasks: int | None) -> Iterator[dict[str, Any]]:
    """Write all parts as Ray tasks; yield their index rows as they finish."""
    import ray

    fanout.connect()
    for name in _CHATTER:
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False  # ours counts recordings
    items = [{"plan": pickle.dumps(plan)} for plan in plans]
    with ray.data.DataContext.current(context):
        rows = ray.data.from_items(items, override_num_blocks=len(items)).map(_write, num_cpus=1, concurrency=tasks)
    with progress("windows", sum(len(plan.sources) for plan in plans), "recordings") as shown:
        for row in rows.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, XmaeError):
                raise result
            shown.advance(result["n_recordings"], f"{result['cohort']}/{result['split']}/{result['part']}")
            yield result


def _write(row: dict[str, bytes]) -> dict[str, bytes]:
    """Ray task. An error that a person must see travels as a value: Ray would retry and wrap it."""
    try:
        result: dict[str, Any] | XmaeError = write_part(pickle.loads(row["plan"]))
    except XmaeError as error:
        result = error
    return {"result": pickle.dumps(result)}


def commit_index(url: str, fingerprint: str, rows: list[dict[str, Any]]) -> None:
    """Number the windows of all parts and make the store visible, in one commit."""
    rows.sort(key=lambda row: (SPLITS.index(row["split"]), row["cohort"], row["part"]))
    first_id = 0
    for row in rows:
        row["first_id"] = first_id
        row["dropped"] = list(row["dropped"].items())
        first_id += row["n_windows"]
    Table(uri.join(url, "index")).append(
        pa.Table.from_pylist(rows, schema=_INDEX_SCHEMA), txn=(transaction(fingerprint), 1)
    )
