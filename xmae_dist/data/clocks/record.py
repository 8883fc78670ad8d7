"""Estimates of clocks, kept beside the recordings they are of: the Delta table `<corpus>/alignments`.

A row is named by what determines it (algorithm, configuration, content and wall time of both recordings), so the same
question finds its answer, a pair that arrives is the only one to be worked out, and a job that died goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from xmae_dist.cluster import fanout
from xmae_dist.core.fingerprint import canonical_json, digest_json
from xmae_dist.core.progress import progress
from xmae_dist.data.clocks.alignment import ALGORITHM, PairEstimate, estimate
from xmae_dist.data.clocks.pairing import Candidate
from xmae_dist.signals.align import Alignment
from xmae_dist.storage.corpus import ALIGNMENTS_SCHEMA, Corpus
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.ordered import Runs

_TASK_PAIRS = 4
_COMMIT_EVERY_S = 20.0  # what a job that dies has to do again


def pair_id(pair: Candidate) -> str:
    """16 hexadecimal digits of what determines the estimate: recordings, wall times and configuration."""
    content = [_row(pair.target_row), _row(pair.source_row)]
    return digest_json({"algorithm": ALGORITHM, "config": pair.config, "pair": content})


def _row(row: IndexRow) -> list[Any]:
    return [row.subject_id, row.cohort, row.recording_id, row.channel, row.digest, row.rate_hz, row.start_time_ns]


def fingerprint_v1(pair_ids: Iterable[str]) -> str:
    """What named the estimates of all pairs in window stores of before there were sums: `digest_json` of the list, in
    the order of cohort, subject and recording of the sources.
    """
    digest = hashlib.sha256(b"[")
    for place, name in enumerate(pair_ids):
        digest.update((b"," if place else b"") + canonical_json(name))
    digest.update(b"]")
    return digest.hexdigest()[:16]


def estimates(corpus: Corpus, pairs: Sequence[Candidate]) -> list[PairEstimate]:
    """The estimate of every pair, in order: read where it is stored, else made (by Ray tasks) and stored.

    Raises IntegrityError for damaged recordings.
    """
    ids = [pair_id(pair) for pair in pairs]
    wanted = set(ids)
    with tempfile.TemporaryDirectory(prefix="xmae-pairs-") as folder:
        stored = StoredEstimates(corpus, {pair.source.cohort for pair in pairs}, folder)
        known = {name: found for _, own in stored for name, found in own.items() if name in wanted}
    missing = {name: pair for name, pair in zip(ids, pairs, strict=True) if name not in known}
    known |= dict(made(corpus, missing.values()))
    return [known[name] for name in ids]


class StoredEstimates:
    """The stored estimates of sources of some cohorts, person by person in the order of their names.

    Sorted on local disk below `folder`; one person's are held as objects.
    """

    def __init__(self, corpus: Corpus, source_cohorts: Collection[str], folder: str) -> None:
        self._rows: Iterable[pa.RecordBatch] = ()
        if corpus.alignments.exists():
            pinned = corpus.alignments.at(corpus.alignments.version())
            filters = [("source_cohort", "in", sorted(source_cohorts))]
            keys = ("subject_id", "pair")
            self._rows = pinned.collected(
                lambda batches: Runs(batches, keys, folder), ["subject_id", "pair", "estimate"], filters
            )

    def __iter__(self) -> Iterator[tuple[str, dict[str, PairEstimate]]]:
        """(subject, estimates by the id of their pair)."""
        rows = (row for batch in self._rows for row in batch.to_pylist())
        for subject, own in itertools.groupby(rows, key=lambda row: str(row["subject_id"])):
            yield subject, {row["pair"]: from_dict(json.loads(row["estimate"])) for row in own}


def made(corpus: Corpus, missing: Iterable[Candidate]) -> Iterator[tuple[str, PairEstimate]]:
    """(id of a pair, its estimate) of pairs that have none, by Ray tasks, committed now and then.

    Pairs are taken as there is room for them. Raises IntegrityError for damaged recordings.
    """
    named = ((pair_id(pair), pair) for pair in missing)
    tasks = iter(lambda: list(itertools.islice(named, _TASK_PAIRS)), [])
    waiting: dict[str, PairEstimate] = {}
    committed_s = time.monotonic()
    with progress("align", None, "pairs") as shown:
        for name, found in fanout.stream(_estimated, tasks):
            waiting[name] = found
            shown.advance(1, found.source_recording)
            if time.monotonic() - committed_s > _COMMIT_EVERY_S:
                _commit(corpus, waiting)
                waiting, committed_s = {}, time.monotonic()
            yield name, found
    _commit(corpus, waiting)


def _estimated(task: Sequence[tuple[str, Candidate]]) -> Iterator[tuple[str, PairEstimate]]:
    """Ray task."""
    for name, pair in task:
        yield name, estimate(pair)


def _commit(corpus: Corpus, found: Mapping[str, PairEstimate]) -> None:
    if not found:
        return
    rows = [
        {
            "pair": name,
            "subject_id": one.subject_id,
            "source_cohort": one.source_cohort,
            "target_cohort": one.target_cohort,
            "accepted": one.found.accepted,
            "reason": one.found.reason,
            "estimate": canonical_json(to_dict(one)).decode(),
        }
        for name, one in found.items()
    ]
    corpus.alignments.append(pa.Table.from_pylist(rows, schema=ALIGNMENTS_SCHEMA))


def to_dict(found: PairEstimate) -> dict[str, Any]:
    """Plain values for JSON; NaN and infinity become null."""
    values = {name: _plain(value) for name, value in vars(found).items() if name != "found"}
    return {**values, "found": {name: _plain(value) for name, value in dataclasses.asdict(found.found).items()}}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_dict(values: Mapping[str, Any]) -> PairEstimate:
    """The estimate that `to_dict` told."""
    numbers: dict[str, Any] = {name: math.nan if value is None else value for name, value in values["found"].items()}
    numbers["segments"] = tuple(tuple(segment) for segment in numbers["segments"])
    numbers["beats"] = tuple(numbers["beats"])
    told: dict[str, Any] = {
        name: math.nan if value is None else value for name, value in values.items() if name != "found"
    }
    return PairEstimate(**told, found=Alignment(**numbers))
