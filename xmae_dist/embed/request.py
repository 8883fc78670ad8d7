"""What is to be embedded: one cohort of one snapshot, by one bundle, under one window specification.

The request id is the hash of the cohort's recordings (their contents), the bundle and the specification: asking again
for the same thing is recognised as the same thing. A lineage is everything ever embedded for one (cohort, bundle,
specification); its generations are numbered, and a request takes exactly one number.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage import uri
from xmae_dist.storage.snapshot import Recording, Snapshot

BATCH_HOURS = 1.0


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What identifies an encoder without loading its weights."""

    url: str
    model_id: str
    spec: WindowSpec

    @property
    def spec_id(self) -> str:
        return self.spec.fingerprint()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Recordings that one worker encodes into one staged part; `key` names the part and depends on nothing else."""

    recordings: tuple[Recording, ...]
    key: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """One generation of a lineage: the state the table shall have, and what is missing from it."""

    cohort: str
    encoder: Encoder
    snapshot: Snapshot
    contents: Mapping[str, str]
    """Content digest by recording id: every recording of the cohort that has the source signal."""
    generation: int
    missing: tuple[Recording, ...]
    stale: tuple[str, ...]
    """Recording ids that the table holds and the cohort no longer has, or has with other content."""

    @property
    def request_id(self) -> str:
        return request_id(self.cohort, self.contents, self.encoder)

    @property
    def lineage(self) -> str:
        return lineage_id(self.cohort, self.encoder)

    def batches(self) -> list[Batch]:
        """Missing recordings in batches of about BATCH_HOURS of signal, in the order of the snapshot."""
        groups: list[list[Recording]] = [[]]
        hours = 0.0
        for recording in self.missing:
            if hours >= BATCH_HOURS:
                groups.append([])
                hours = 0.0
            groups[-1].append(recording)
            hours += recording.duration_s / 3600
        return [self._batch(tuple(group)) for group in groups if group]

    def _batch(self, recordings: tuple[Recording, ...]) -> Batch:
        contents = {r.recording_id: self.contents[r.recording_id] for r in recordings}
        return Batch(recordings=recordings, key=request_id(self.cohort, contents, self.encoder))


def read_encoder(bundle_url: str) -> Encoder:
    """The bundle's id and the windows of its source signal. Raises InputError when it does not embed that signal."""
    document = json.loads(uri.read_bytes(uri.join(bundle_url, "config.json")))
    spec = WindowSpec.from_dict(document["window_spec"]).source_only()
    return Encoder(url=uri.normalise(bundle_url), model_id=document["bundle_id"], spec=spec)


def request_id(cohort: str, contents: Mapping[str, str], encoder: Encoder) -> str:
    return digest_json(
        {"cohort": cohort, "contents": dict(contents), "model": encoder.model_id, "spec": encoder.spec_id}, 32
    )


def lineage_id(cohort: str, encoder: Encoder) -> str:
    return digest_json({"lineage": cohort, "model": encoder.model_id, "spec": encoder.spec_id}, 32)


def contents_of(snapshot: Snapshot, cohort: str, encoder: Encoder) -> dict[str, Recording]:
    """Recordings of the cohort that have the source signal, by id, in the snapshot's order."""
    source = encoder.spec.source
    return {r.recording_id: r for r in snapshot.cohort(cohort).recordings() if source in r.channels}


def content_digest(recording: Recording, encoder: Encoder) -> str:
    """Digest of whatever changes the embedding of a recording: samples, rate, gaps, time, and whose it is."""
    row = recording.channels[encoder.spec.source]
    facts: dict[str, Any] = {
        "samples": row.digest,
        "rate_hz": row.rate_hz,
        "gaps": [list(gap) for gap in row.gaps],
        "start_time_ns": row.start_time_ns,
        "subject": recording.subject_id,
    }
    return digest_json(facts)


def require_source(contents: Mapping[str, object], cohort: str, encoder: Encoder) -> None:
    """Raise InputError for a cohort without a single recording of the source signal."""
    if not contents:
        raise InputError(
            f"cohort {cohort}",
            value=f"no recording with a {encoder.spec.source!r} channel",
            expected=f"{encoder.spec.source!r}, which bundle {encoder.model_id} reads",
            fix="embed another cohort, or ingest this one with its channels named",
        )
