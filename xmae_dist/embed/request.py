"""What is to be done to the table: for one lineage, the difference between one snapshot and what the table holds.

A lineage is everything ever embedded for one (cohort, bundle, specification); its generations are numbered, and a
request takes exactly one number. The id of a request is the hash of what it changes, so asking again for the same thing
is recognised as the same thing, and what a killed job had finished is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed.difference import Difference
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What identifies an encoder without loading its weights."""

    url: str
    model_id: str
    spec: WindowSpec
    pretrained_on: tuple[str, ...] = ()
    """Cohorts, as the bundle states; empty where it does not."""

    @property
    def spec_id(self) -> str:
        return self.spec.fingerprint()

    def lineage(self, cohort: str) -> Lineage:
        return Lineage(cohort=cohort, model_id=self.model_id, spec_id=self.spec_id, source=self.spec.source)


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """One cohort, by one bundle, under one window specification."""

    cohort: str
    model_id: str
    spec_id: str
    source: str
    """The channel that is embedded."""

    @property
    def id(self) -> str:
        return digest_json({"lineage": self.cohort, "model": self.model_id, "spec": self.spec_id}, 32)

    @property
    def partition(self) -> dict[str, str]:
        """The values of the table's partition columns."""
        return {"model_id": self.model_id, "cohort": self.cohort}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The state of a cohort in the corpus that a request was made for."""

    corpus_url: str
    corpus_version: int
    content: str
    """Digest of the cohort's rows; GONE where it has none."""


GONE = "-"
NOT_WANTED = "~"
"""In place of a content: the lineage's bundle was retired; it has no rows, and is to get none (`embed.retirement`)."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One generation of a lineage: what is missing from the table, and what must leave it."""

    lineage: Lineage
    encoder: Encoder | None
    """None: recordings are taken away only."""
    seen: Seen
    generation: int
    attempt: int
    """How many attempts at this were swept away as dead (`embed.sweep`): their parts must not be used."""
    difference: Difference

    @property
    def id(self) -> str:
        return digest_json({"request": self.name, "attempt": self.attempt}, 32)

    @property
    def name(self) -> str:
        """The same for every attempt."""
        return name_of(self.lineage, self.generation, self.difference)

    def staging_url(self, table_url: str) -> str:
        return uri.join(table_url, "_staging", self.id)


class OvertakenError(Exception):
    """The table is no longer what was seen of it; look again."""


def name_of(lineage: Lineage, generation: int, difference: Difference) -> str:
    return digest_json({"lineage": lineage.id, "generation": generation, "difference": difference.digest}, 32)


def read_encoder(bundle_url: str) -> Encoder:
    """The bundle's id and the windows of its source signal.

    Raises StorageError where there is no bundle, IntegrityError for one of which something is missing or cut off,
    InputError for a model that does not take the bundle's own windows. Weights are compared with the id when they are
    loaded, by whoever encodes.
    """
    from xmae_dist.model.bundle import WEIGHTS, describe  # needs torch, which a vacuum does not

    bundle_url = uri.normalise(bundle_url)
    document = describe(bundle_url)
    if not uri.exists(uri.join(bundle_url, WEIGHTS)):
        raise IntegrityError(
            f"bundle {bundle_url}", value=f"no {WEIGHTS}", expected="a bundle that was written to its end",
            fix="export it again (`xmae export`)",
        )  # fmt: skip
    spec = WindowSpec.from_dict(document["window_spec"]).source_only()
    _check_length(bundle_url, document, spec)
    cohorts = tuple(document["pretrained_on"].get("cohorts", ()))
    return Encoder(url=bundle_url, model_id=document["bundle_id"], spec=spec, pretrained_on=cohorts)


def _check_length(bundle_url: str, document: Mapping[str, Any], spec: WindowSpec) -> None:
    takes = document["model"].get("length")
    if takes is not None and takes != spec.length:
        raise InputError(
            f"bundle {bundle_url}",
            value=f"windows of {spec.length} samples, a model that takes {takes}",
            expected="the windows that the model was trained on",
            fix="export it again from its run (`xmae export`), which knows them",
        )
