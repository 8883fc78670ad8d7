"""What a version of the index holds, cohort by cohort, as sums that a commit can state (ADR 21).

A commit of the index carries, in the metadata of its log entry, the content of every cohort after it: digest, rows,
rows of each channel. The 2 KiB of the multiset hash are with it for the cohorts that it touched; those of another
cohort are in the commit that last touched that one. About 200 bytes a cohort, 2.7 kB more for each that was touched.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.fingerprint import canonical_json, digest_json
from xmae_dist.storage.multiset import MultisetHash
from xmae_dist.storage.row_bytes import encoded

FORMAT = "xmae-contents/v1"


@dataclass(frozen=True, kw_only=True)
class CohortContent:
    """The rows of one cohort, whatever their order and wherever their signals lie."""

    digest: str
    """64 hexadecimal digits of the multiset hash of the rows."""
    rows: int
    channels: Mapping[str, int]
    """Rows of each channel that has any."""
    touched: int
    """The version whose commit last changed a row, which has the whole sum; or the one that was counted."""
    lost: int
    """The last version that had fewer rows of the cohort than the one before it; 0 for none."""
    v1: str | None = None
    """The fingerprint of this content in format v1, where a corpus of that format had it."""


@dataclass(frozen=True, kw_only=True)
class Sum:
    """The rows of one cohort that a commit adds or takes away, or all there are."""

    hash: MultisetHash = field(default_factory=MultisetHash)
    channels: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(self.channels.values())

    def __add__(self, other: Sum) -> Sum:
        channels = Counter(self.channels) + Counter(other.channels)
        return Sum(hash=self.hash + other.hash, channels=channels)

    def __sub__(self, other: Sum) -> Sum:
        return Sum(hash=self.hash - other.hash, channels=Counter(self.channels) - Counter(other.channels))


Sums = Mapping[str, Sum]
"""By cohort."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a version holds. Cohorts that lost all their rows stay, with none, so that their loss stays known."""

    version: int
    cohorts: Mapping[str, CohortContent]
    sums: Mapping[str, MultisetHash]
    """Of cohorts that the version's commit touched, and whichever else were looked up."""
    v1: Mapping[str, str] = field(default_factory=dict)
    """The fingerprint of all cohorts in format v1, by `fingerprint` of what it was made of."""

    def to_text(self) -> str:
        document = {
            "format": FORMAT,
            "version": self.version,
            "cohorts": {name: dataclasses.asdict(one) for name, one in self.cohorts.items()},
            "sums": {name: one.to_text() for name, one in self.sums.items()},
            "v1": self.v1,
        }
        return canonical_json(document).decode()

    @classmethod
    def from_text(cls, text: str) -> Contents | None:
        """What `to_text` wrote; None for another format."""
        document: dict[str, Any] = json.loads(text)
        if document.get("format") != FORMAT:
            return None
        return cls(
            version=document["version"],
            cohorts={name: CohortContent(**one) for name, one in document["cohorts"].items()},
            sums={name: MultisetHash.from_text(one) for name, one in document["sums"].items()},
            v1=document["v1"],
        )

    def changed(self, version: int, removed: Sums, added: Sums) -> Contents:
        """The contents that a commit of `version` leaves which takes `removed` away from these and adds `added`; `sums`
        has the cohorts of both that are here.
        """
        cohorts, sums = dict(self.cohorts), {}
        for name in sorted({*removed, *added}):
            before = self.cohorts.get(name)
            start = Sum(hash=self.sums[name], channels=before.channels) if before else Sum()
            total = start - removed.get(name, Sum()) + added.get(name, Sum())
            lost = version if total.rows < start.rows else before.lost if before else 0
            sums[name] = total.hash
            cohorts[name] = _content(total, version, lost)
            if before is not None and before.digest == cohorts[name].digest:
                cohorts[name] = dataclasses.replace(cohorts[name], v1=before.v1)
        return Contents(version=version, cohorts=cohorts, sums=sums, v1=self.v1)


def fingerprint(cohorts: Mapping[str, CohortContent]) -> str:
    """16 hexadecimal digits of the content of some cohorts."""
    return digest_json({name: one.digest for name, one in cohorts.items() if one.rows})


def summed(batches: Iterable[pa.RecordBatch]) -> dict[str, Sum]:
    """The sums of all rows (CONTENT_COLUMNS at least), by cohort; about 15 µs of CPU a row."""
    sums: dict[str, Sum] = {}
    for batch in batches:
        for cohort in pc.unique(batch["cohort"]).to_pylist():
            own = batch.filter(pc.equal(batch["cohort"], cohort))
            counts = {one["values"]: one["counts"] for one in pc.value_counts(own["channel"]).to_pylist()}
            sums[cohort] = sums.get(cohort, Sum()) + Sum(
                hash=MultisetHash.of(encoded(own).to_pylist()), channels=counts
            )
    return sums


def counted(version: int, sums: Sums) -> Contents:
    """The contents of a version all of whose rows were summed; what it lost, and when, is not known from these."""
    cohorts = {name: _content(one, version, version) for name, one in sorted(sums.items())}
    return Contents(version=version, cohorts=cohorts, sums={name: one.hash for name, one in sums.items()})


def _content(total: Sum, touched: int, lost: int) -> CohortContent:
    channels = dict(sorted(total.channels.items()))
    return CohortContent(digest=total.hash.digest(), rows=total.rows, channels=channels, touched=touched, lost=lost)
