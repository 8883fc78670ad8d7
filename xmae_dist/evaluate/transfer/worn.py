"""What the corpus index says of the channel that windows were cut from: its device, and where on the body it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import UsageError
from xmae_dist.storage.corpus import Corpus

OF_THE_INDEX = ("device", "body_site")


@dataclass(frozen=True)
class Worn:
    """Windows with further columns of the index: read once a cohort, about 40 bytes a recording of one cohort."""

    windows: Iterable[pa.Table]
    columns: tuple[str, ...]
    corpus_url: str
    source: str
    """The channel."""

    def __iter__(self) -> Iterator[pa.Table]:
        cohort, known = "", pa.table({})
        for table in self.windows:
            if len(table) and table["cohort"][0].as_py() != cohort:
                cohort = table["cohort"][0].as_py()
                known = self._of_cohort(cohort)
            yield self._joined(table, known)

    def _of_cohort(self, cohort: str) -> pa.Table:
        snapshot = Corpus.open(self.corpus_url).snapshot().cohort(cohort)
        return snapshot.table(["recording_id", *self.columns], [("channel", "=", self.source)])

    def _joined(self, table: pa.Table, known: pa.Table) -> pa.Table:
        place_W = pc.index_in(table["recording_id"], known["recording_id"].combine_chunks())
        for name in self.columns:
            column = known[name].take(place_W)
            # An empty text is no answer.
            table = table.append_column(name, pc.if_else(pc.equal(column, ""), None, column))
        return table


def with_index_columns(
    windows: Iterable[pa.Table], corpus_url: str, source: str, axes: Iterable[str]
) -> Iterable[pa.Table]:
    """`windows` with `device` or `body_site` of the `source` channel, where an axis asks for it.

    Raises UsageError where that needs a corpus and none is named.
    """
    wanted = tuple(axis for axis in axes if axis in OF_THE_INDEX)
    if not wanted:
        return windows
    if not corpus_url:
        raise UsageError(
            "--transfer-by",
            value=wanted[0],
            expected="--corpus beside it: the index names devices",
            fix="add --corpus, or use --transfer-by cohort (a cohort is one campaign of one device)",
        )
    return Worn(windows, wanted, corpus_url, source)
