"""Estimates of clocks, kept beside the recordings they are of: `<corpus>/alignments/<fingerprint>.json`.

The name is made from the configuration and the content of every pair, so the same question finds its answer and a
recording that arrives changes the name.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from xmae_dist.core.fingerprint import canonical_json, digest_json
from xmae_dist.core.progress import progress
from xmae_dist.data.alignment import ALGORITHM, PairEstimate, estimate
from xmae_dist.data.pairing import Candidate, PairConfig
from xmae_dist.signals.align import Alignment
from xmae_dist.storage import uri
from xmae_dist.storage.index import IndexRow


def fingerprint(pairs: Sequence[Candidate], config: PairConfig) -> str:
    """16 hexadecimal digits of what determines the estimates: recordings, wall times and configuration."""
    content = [[_row(pair.target_row), _row(pair.source_row)] for pair in pairs]
    return digest_json({"algorithm": ALGORITHM, "config": config, "pairs": content})


def _row(row: IndexRow) -> list[Any]:
    return [row.subject_id, row.cohort, row.recording_id, row.channel, row.digest, row.rate_hz, row.start_time_ns]


def record_url(corpus_url: str, name: str) -> str:
    return uri.join(corpus_url, "alignments", f"{name}.json")


def estimates(corpus_url: str, pairs: Sequence[Candidate], config: PairConfig) -> list[PairEstimate]:
    """The estimate of every pair, in order: read where they are stored, else made and stored.

    Raises IntegrityError for damaged recordings.
    """
    if not pairs:
        return []
    name = fingerprint(pairs, config)
    url = record_url(corpus_url, name)
    if uri.exists(url):
        return [from_dict(values) for values in json.loads(uri.read_bytes(url))["pairs"]]
    found = []
    with progress("align", len(pairs), "pairs") as shown:
        for pair in pairs:
            found.append(estimate(pair))
            shown.advance(1, pair.source.recording_id)
    document = {"algorithm": ALGORITHM, "fingerprint": name, "config": config, "pairs": [to_dict(one) for one in found]}
    uri.write_bytes(url, canonical_json(document))
    return found


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
