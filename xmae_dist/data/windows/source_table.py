"""Sources of windows as rows of the corpus index: what a task is given to cut, what parts that are cut when read keep.

Row by row: `source`, the number of the source; `partner`, which of the recordings that it is aligned with the row is
of, null for its own; `estimate`, for a partner, how its clock and the source's differ (JSON of `clocks.record`). A task
makes objects of one source at a time, however many there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from xmae_dist.core.fingerprint import canonical_json
from xmae_dist.data.clocks import record
from xmae_dist.data.clocks.pairing import Candidate
from xmae_dist.data.windows.source import WindowSource, pair_config
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage import index
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.snapshot import recording_of

_PLACE = (
    pa.field("source", pa.int32(), nullable=False),
    pa.field("partner", pa.int32()),
    pa.field("estimate", pa.string()),
)
SCHEMA = pa.schema([*_PLACE, *index.arrow_schema()])
"""Rows of sources, in the order of their numbers."""
_AT_ONCE = 256  # sources made into objects together: column by column, a source then costs a fifth


def of_recordings(rows: pa.Table, first_B: np.ndarray) -> pa.Table:
    """Index rows, sorted, as sources without partners; a recording begins at each of `first_B`."""
    begins = np.zeros(rows.num_rows, np.int32)
    begins[first_B] = 1
    nothing = [pa.nulls(rows.num_rows, field.type) for field in _PLACE[1:]]
    columns = [pa.array(np.cumsum(begins, dtype=np.int32) - 1), *nothing, *rows.select(index.columns()).columns]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def of_sources(sources: Sequence[WindowSource]) -> pa.Table:
    """Sources with their partners."""
    pieces = [SCHEMA.empty_table()]
    for number, source in enumerate(sources):
        pieces.append(numbered(source.recording.channels.values(), number))
        for place, (pair, estimate) in enumerate(source.partners):
            told = canonical_json(record.to_dict(estimate)).decode()
            pieces.append(numbered(pair.target.channels.values(), number, place, told))
    return pa.concat_tables(pieces)


def numbered(
    rows: Iterable[IndexRow], source: int, partner: int | None = None, estimate: str | None = None
) -> pa.Table:
    """The channels of one recording, as a source's own or its partner's."""
    table = index.to_arrow(list(rows))
    told = [
        pa.array([value] * table.num_rows, one.type)
        for value, one in zip((source, partner, estimate), _PLACE, strict=True)
    ]
    return pa.Table.from_arrays([*told, *table.columns], schema=SCHEMA)


class Sources(Sequence[WindowSource]):
    """The sources of a table, made when they are asked for. Raises what `index.from_arrow` raises."""

    def __init__(self, rows: pa.Table, corpus_url: str, spec: WindowSpec) -> None:
        self._rows, self._corpus_url, self._spec = rows, corpus_url, spec
        self._source_R = rows["source"].to_numpy()
        self._config = pair_config(spec)

    def __len__(self) -> int:
        return int(self._source_R[-1]) + 1 if self._source_R.size else 0

    def __getitem__(self, number: Any) -> Any:
        return next(self._between(number, number + 1))

    def __iter__(self) -> Iterator[WindowSource]:
        for first in range(0, len(self), _AT_ONCE):
            yield from self._between(first, first + _AT_ONCE)

    def _between(self, first: int, stop: int) -> Iterator[WindowSource]:
        """The sources first .. stop - 1, as far as there are so many."""
        row, row_stop = np.searchsorted(self._source_R, [first, stop])
        rows = self._rows.slice(row, row_stop - row)
        found = list(index.from_arrow(rows))
        partner_R = rows["partner"].to_pylist()
        begins = np.searchsorted(self._source_R[row:row_stop], np.arange(first, min(stop, len(self)) + 1))
        for begin, end in pairwise(begins.tolist()):
            own = recording_of(
                [found[place] for place in range(begin, end) if partner_R[place] is None], self._corpus_url
            )
            targets: dict[int, list[int]] = {}
            for place in range(begin, end):
                if (partner := partner_R[place]) is not None:
                    targets.setdefault(partner, []).append(place)
            partners = []
            for places in targets.values():
                target = recording_of([found[place] for place in places], self._corpus_url)
                estimate = record.from_dict(json.loads(rows["estimate"][places[0]].as_py()))
                partners.append((Candidate(target=target, source=own, config=self._config), estimate))
            yield WindowSource(recording=own, partners=tuple(partners))
