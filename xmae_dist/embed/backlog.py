"""What is new: cohorts whose content is not the one that the table is up to, and in these, which recordings.

A look at what every cohort states and at what the table states of its lineages reads no rows: a bounded number of
requests, whatever the corpus holds. Only the rows of a cohort that differs are read, and compared with the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from xmae_dist.core.errors import InputError
from xmae_dist.embed import manifest
from xmae_dist.embed.difference import Difference, difference
from xmae_dist.embed.part import refuse_other_table
from xmae_dist.embed.positions import Position, PositionLog
from xmae_dist.embed.request import GONE, NOT_WANTED, Encoder, Lineage, Request, Seen, name_of
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.snapshot import Snapshot
from xmae_dist.storage.table import PinnedTable, Table


@dataclass(frozen=True, kw_only=True)
class View:
    """A version of the table and a later state of the corpus, as one look found them."""

    table_url: str
    main: PinnedTable | None
    positions: Mapping[Lineage, Position]
    snapshot: Snapshot

    @classmethod
    def of(cls, corpus_url: str, table_url: str) -> View:
        """The newest of both. The table comes first: no commit in it can then have seen a later corpus, of which this
        one would lack what was added. Raises InputError for a table that is no embedding table.
        """
        table_url = uri.checked_place(table_url)
        main = Table(table_url).newest()
        if main is not None:
            refuse_other_table(main.schema, table_url)
        positions = PositionLog(table_url).stated(main.version) if main else {}
        return cls(table_url=table_url, main=main, positions=positions, snapshot=Corpus.open(corpus_url).snapshot())

    def position(self, lineage: Lineage) -> Position:
        return self.positions.get(lineage, Position())

    def seen(self, cohort: str) -> Seen:
        there = self.snapshot.contents.get(cohort)
        return Seen(
            corpus_url=self.snapshot.url,
            corpus_version=self.snapshot.version,
            content=there.digest if there else GONE,
        )

    def cohorts(self, encoder: Encoder) -> list[str]:
        """Cohorts with the encoder's signal, or with rows in its lineages: all of one may have been withdrawn."""
        recorded = {name for name, one in self.snapshot.contents.items() if one.channels.get(encoder.spec.source)}
        return sorted(recorded | {one.cohort for one in self.positions if encoder.lineage(one.cohort) == one})

    def behind(self, encoder: Encoder) -> list[str]:
        """Cohorts whose content the table is not up to."""
        return [name for name in self.cohorts(encoder) if not self.is_up_to(encoder.lineage(name), encoder)]

    def refuse_retired(self, encoder: Encoder) -> None:
        """Raises InputError for a bundle that was retired from the table."""
        if is_retired(self.positions, encoder.model_id):
            raise InputError(
                f"bundle {encoder.url}",
                value=f"{encoder.model_id} was retired from {self.table_url}",
                expected="a bundle that the table may hold rows of",
                fix="embed with another (`xmae models` lists them), or into another table",
            )

    def with_people_who_left(self, but: Encoder | None = None) -> Iterator[Lineage]:
        """Lineages, other than those of an encoder, that may hold recordings the corpus has lost."""
        for lineage in self.positions:
            if not (but and but.lineage(lineage.cohort) == lineage) and not self.is_up_to(lineage, None):
                yield lineage

    def is_up_to(self, lineage: Lineage, encoder: Encoder | None) -> bool:
        """Whether nothing can be missing from a lineage; without an encoder: whether nothing can have to leave it."""
        position, there = self.position(lineage), self.snapshot.contents.get(lineage.cohort)
        if position.content == NOT_WANTED:
            return True
        if there is None:
            return position.content == GONE
        if encoder is None and there.lost <= position.corpus_version:
            return True
        return there.digest == position.content


def open_request(view: View, lineage: Lineage, encoder: Encoder | None, folder: str) -> Request:
    """The request that brings a lineage up to the corpus; its difference may be empty, and is kept below `folder`.

    Without an encoder it only takes away what the corpus does not have, or has with other content. A cohort that the
    table holds and the snapshot no longer has is taken out. Raises InputError for a cohort that neither knows, or that
    has no source signal.
    """
    position, seen = view.position(lineage), view.seen(lineage.cohort)
    if not position.generation:
        _require_source(view.snapshot, lineage)
    found = Table(view.table_url).patiently(lambda: _difference(view, lineage, encoder, folder))
    name = name_of(lineage, position.generation + 1, found)
    swept = view.main.transaction_version(swept_id(name)) if view.main else None
    return Request(
        lineage=lineage,
        encoder=encoder,
        seen=seen,
        generation=position.generation + 1,
        attempt=swept or 0,
        difference=found,
    )


def is_retired(positions: Mapping[Lineage, Position], model_id: str) -> bool:
    """Whether a table whose lineages stand at `positions` wants no rows of a bundle any more."""
    return any(one.model_id == model_id and position.content == NOT_WANTED for one, position in positions.items())


def _difference(view: View, lineage: Lineage, encoder: Encoder | None, folder: str) -> Difference:
    wanted: Iterator[pa.RecordBatch] = iter(())
    if lineage.cohort in view.snapshot.contents:
        wanted = view.snapshot.cohort(lineage.cohort).batches(filters=[("channel", "=", lineage.source)])
    held = manifest.held(view.table_url, lineage, view.position(lineage))
    return difference(wanted, held, folder, embed=encoder is not None)


def swept_id(name: str) -> str:
    """The application id that counts how many dead attempts at a request were swept away."""
    return f"swept:{name}"


def _require_source(snapshot: Snapshot, lineage: Lineage) -> None:
    if lineage.cohort not in snapshot.contents:
        snapshot.cohort(lineage.cohort)  # raises, naming those there are
    if not snapshot.contents[lineage.cohort].channels.get(lineage.source):
        raise InputError(
            f"cohort {lineage.cohort}",
            value=f"no recording with a {lineage.source!r} channel",
            expected=f"{lineage.source!r}, which bundle {lineage.model_id} reads",
            fix="embed another cohort, or ingest this one with its channels named",
        )
