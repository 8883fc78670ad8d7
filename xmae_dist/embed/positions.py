"""How far each lineage of an embedding table is: every commit states it for all, so that one read tells what is new.

A lineage that was brought up to a cohort's content needs nothing while the corpus states the same content. The
statement is about 250 bytes a lineage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from xmae_dist.core.fingerprint import canonical_json
from xmae_dist.embed.request import Lineage
from xmae_dist.storage.table import PinnedTable, Table

KEY = "xmae_lineages"
FORMAT = "xmae-lineages/v1"


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How the newest people of a lineage compared with the cohorts that the table knew (`embed.familiar`)."""

    state: str
    nearest: str = ""
    """The cohort that they were told from least well."""
    auc: float | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Position:
    """Where a lineage stands."""

    generation: int = 0
    content: str = ""
    """The cohort's content that its rows are the embeddings of; "" where that was not stated (tables of format v1)."""
    corpus_version: int = 0
    """Whoever had left the corpus by this version has left the lineage."""
    request: str = ""
    """The request that made the generation."""
    likeness: Likeness | None = None
    """None where nothing was compared yet."""


Positions = Mapping[Lineage, Position]


class PositionLog:
    """The statements in the log of an embedding table: its account."""

    def __init__(self, table_url: str) -> None:
        self._log = Table(table_url)

    def summed(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Rows alone move no lineage."""

    def statement(self, base: PinnedTable, removed: None, added: Positions | None) -> Mapping[str, str]:
        """Metadata of a commit on `base` that moves the lineages of `added`."""
        after = {**self.stated(base.version), **(added or {})}
        return {KEY: _to_text(base.version + 1, after)}

    def stated(self, version: int) -> dict[Lineage, Position]:
        """All lineages as of a version: one request, and one more for each commit by others since the last of ours.

        Of a table of format v1, which stated one lineage a commit, the whole log is read, until the next commit.
        """
        found: dict[Lineage, Position] = {}
        for back in range(version, -1, -1):
            commit = self._log.commit(back)
            if KEY in commit.info:
                document = json.loads(commit.info[KEY])
                if document["format"] == FORMAT and document["version"] == back:
                    return {**dict(_positions(document)), **found}
            elif "lineage" in commit.info:
                lineage, position = _v1(json.loads(commit.info["lineage"]), commit.info["request"])
                found.setdefault(lineage, position)
        return found


def embedding_table(table_url: str) -> Table:
    """The table at `table_url`, whose commits state how far its lineages are."""
    return Table(table_url, PositionLog(table_url))


def _to_text(version: int, positions: Positions) -> str:
    models: dict[str, dict[str, dict[str, Any]]] = {}
    for lineage, position in positions.items():
        specs = models.setdefault(lineage.model_id, {})
        spec = specs.setdefault(lineage.spec_id, {"source": lineage.source, "cohorts": {}})
        place = (position.generation, position.content, position.corpus_version, position.request)
        spec["cohorts"][lineage.cohort] = list(place)
        if position.likeness:
            # Beside the list, which readers of before take whole.
            spec.setdefault("likeness", {})[lineage.cohort] = asdict(position.likeness)
    return canonical_json({"format": FORMAT, "version": version, "models": models}).decode()


def _positions(document: Mapping[str, Any]) -> Iterator[tuple[Lineage, Position]]:
    for model_id, specs in document["models"].items():
        for spec_id, spec in specs.items():
            for cohort, position in spec["cohorts"].items():
                lineage = Lineage(cohort=cohort, model_id=model_id, spec_id=spec_id, source=spec["source"])
                likeness = spec.get("likeness", {}).get(cohort)
                yield lineage, replace(Position(*position), likeness=Likeness(**likeness) if likeness else None)


def _v1(told: Mapping[str, Any], request: str) -> tuple[Lineage, Position]:
    lineage = Lineage(
        cohort=told["cohort"], model_id=told["model_id"], spec_id=told["spec_id"], source=told["spec"]["source"]
    )
    return lineage, Position(generation=told["generation"], request=request)
