"""Recordings that stand in the index twice, as two ingests at once could leave them before commits held their cohorts.

Nobody can read a snapshot with one. Copies of equal content are one as good as the other; where they differ, a person
says which is kept. Rows are dropped in one commit for each cohort; their samples go with `vacuum`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from xmae_dist.core.fingerprint import digest_json
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.row_bytes import PLACE_COLUMNS

_Key = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """One recording with channels that occur more than once."""

    cohort: str
    recording_id: str
    subjects: tuple[str, ...]
    channels: tuple[str, ...]
    parts: tuple[str, ...]
    """Where its copies lie, oldest name first."""
    alike: bool
    """Whether the copies are equal in all but their place: samples, subject and labels."""
    kept: str | None
    """The part whose copy stays, None where that is for a person to say."""


def duplicates(corpus: Corpus, keep: Collection[str] = ()) -> list[Duplicate]:
    """Every recording that stands twice, ordered by cohort and name. `keep`: parts (cohort/part) to prefer."""
    return _found([row for rows in _copies(corpus) for row in rows], keep)


def drop(corpus: Corpus, keep: Collection[str] = ()) -> int:
    """Drops the copies that do not stay, and returns of how many recordings; undecided ones are left as they are."""
    decided = [one for one in duplicates(corpus, keep) if one.kept is not None]
    for cohort in sorted({one.cohort for one in decided}):
        names = sorted({one.recording_id for one in decided if one.cohort == cohort})

        def without(current: pa.Table) -> pa.Table:
            return current.take(_stay(current.to_pylist(), keep))

        filters = [("cohort", "=", cohort), ("recording_id", "in", names)]
        corpus.index.rewrite(filters, without, {"xmae_operation": "drop-duplicates"})
    return len(decided)


def _copies(corpus: Corpus) -> Iterator[list[dict[str, Any]]]:
    """The rows of each channel that has more than one; of others one batch is held at a time."""
    batches = corpus.snapshot().ordered(by=("cohort", "recording_id", "channel"))
    rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
    for _, copies in itertools.groupby(rows, key=_key):
        found = list(copies)
        if len(found) > 1:
            yield found


def _found(rows: Sequence[dict[str, Any]], keep: Collection[str]) -> list[Duplicate]:
    twice: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for (cohort, recording, _), copies in sorted(_by_channel(rows).items()):
        if len(copies) > 1:
            twice.setdefault((cohort, recording), []).append(copies)
    return [_duplicate(cohort, recording, groups, keep) for (cohort, recording), groups in twice.items()]


def _duplicate(cohort: str, recording: str, groups: list[list[dict[str, Any]]], keep: Collection[str]) -> Duplicate:
    rows = [row for copies in groups for row in copies]
    parts = sorted({row["part"] for row in rows}, key=lambda part: (len(part), part))
    alike = all(len({_content(row) for row in copies}) == 1 for copies in groups)
    named = [part for part in parts if f"{cohort}/{part}" in keep]
    return Duplicate(
        cohort=cohort,
        recording_id=recording,
        subjects=tuple(sorted({row["subject_id"] for row in rows})),
        channels=tuple(copies[0]["channel"] for copies in groups),
        parts=tuple(parts),
        alike=alike,
        kept=named[0] if len(named) == 1 else parts[0] if alike else None,
    )


def _stay(rows: Sequence[dict[str, Any]], keep: Collection[str]) -> list[int]:
    """Positions of the rows that stay: of each channel that occurs twice, one."""
    kept = {(one.cohort, one.recording_id): one.kept for one in _found(rows, keep)}
    taken: set[_Key] = set()
    copies = {key: {row["part"] for row in found} for key, found in _by_channel(rows).items()}
    stay = []
    for at, row in enumerate(rows):
        key = _key(row)
        part = kept.get(key[:2])
        if part is not None and part in copies[key] and len(copies[key]) > 1 and row["part"] != part:
            continue
        if part is not None and key in taken:
            continue  # the same copy, committed by two runs
        taken.add(key)
        stay.append(at)
    return stay


def _by_channel(rows: Sequence[dict[str, Any]]) -> dict[_Key, list[dict[str, Any]]]:
    groups: dict[_Key, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_key(row), []).append(row)
    return groups


def _key(row: dict[str, Any]) -> _Key:
    return row["cohort"], row["recording_id"], row["channel"]


def _content(row: dict[str, Any]) -> str:
    return digest_json({name: value for name, value in row.items() if name not in PLACE_COLUMNS})
