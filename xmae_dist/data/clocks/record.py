"""Estimates of clocks, kept beside the recordings they are of: the Delta table `<corpus>/alignments`.

A row is named by what determines it (algorithm, configuration, content and wall time of both recordings), so the same
question finds its answer, a pair that arrives is the only one to be worked out, and a job that died goes on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
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

_TASK_PAIRS = 4
_COMMIT_EVERY_S = 20.0  # what a job that dies has to do again


def pair_id(pair: Candidate) -> str:
    """16 hexadecimal digits of what determines the estimate: recordings, wall times and configuration."""
    content = [_row(pair.target_row), _row(pair.source_row)]
    return digest_json({"algorithm": ALGORITHM, "config": pair.config, "pair": content})


def fingerprint(pairs: Sequence[Candidate]) -> str:
    """16 hexadecimal digits of what determines the estimates of all pairs."""
    return digest_json([pair_id(pair) for pair in pairs])


def _row(row: IndexRow) -> list[Any]:
    return [row.subject_id, row.cohort, row.recording_id, row.channel, row.digest, row.rate_hz, row.start_time_ns]


def estimates(corpus: Corpus, pairs: Sequence[Candidate]) -> list[PairEstimate]:
    """The estimate of every pair, in order: read where it is stored, else made (by Ray tasks) and stored.

    Raises IntegrityError for damaged recordings.
    """
    if not pairs:
        return []
    ids = [pair_id(pair) for pair in pairs]
    known = stored(corpus, {pair.source.cohort for pair in pairs})
    missing = {name: pair for name, pair in zip(ids, pairs, strict=True) if name not in known}
    if missing:
        known |= _made(corpus, missing)
    return [known[name] for name in ids]


def stored(corpus: Corpus, source_cohorts: set[str]) -> dict[str, PairEstimate]:
    """Every stored estimate of sources of these cohorts, by the id of its pair."""
    if not corpus.alignments.exists():
        return {}
    rows = corpus.alignments.read(
        columns=["pair", "estimate"], filters=[("source_cohort", "in", sorted(source_cohorts))]
    )
    texts = zip(rows["pair"].to_pylist(), rows["estimate"].to_pylist(), strict=True)
    return {name: from_dict(json.loads(text)) for name, text in texts}


def _made(corpus: Corpus, missing: Mapping[str, Candidate]) -> dict[str, PairEstimate]:
    items = list(missing.items())
    tasks = [items[first : first + _TASK_PAIRS] for first in range(0, len(items), _TASK_PAIRS)]
    made: dict[str, PairEstimate] = {}
    waiting: dict[str, PairEstimate] = {}
    committed_s = time.monotonic()
    with progress("align", len(items), "pairs") as shown:
        for name, found in fanout.stream(_estimated, tasks):
            made[name] = waiting[name] = found
            shown.advance(1, found.source_recording)
            if time.monotonic() - committed_s > _COMMIT_EVERY_S:
                _commit(corpus, waiting)
                waiting, committed_s = {}, time.monotonic()
    _commit(corpus, waiting)
    return made


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
