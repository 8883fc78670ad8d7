"""Commits of the index state what the index holds after them; this reads the statements, and makes the next one.

A statement is believed for the version that it names and that its commit has. A version without one (of format v1, or
by a writer of that format that still ran) is counted: one streamed pass over its rows. The next commit then states
everything, for all cohorts, and with it the fingerprints of format v1 where the corpus was of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping

import pyarrow as pa

from xmae_dist.core.errors import StorageError
from xmae_dist.storage import contents
from xmae_dist.storage.contents import Contents, Sums
from xmae_dist.storage.diagnose import NOTHING_THERE
from xmae_dist.storage.fingerprint_v1 import fingerprints_v1
from xmae_dist.storage.row_bytes import CONTENT_COLUMNS
from xmae_dist.storage.table import Commit, Filters, PinnedTable, Table

KEY = "xmae_contents"
# Commits that change no row (compactions, vacuums by delta-rs) that are looked past before rows are counted instead.
_LOOK_BACK = 64


class Ledger:
    """The statements in the log of an index."""

    def __init__(self, index_url: str, upgrade: Callable[[], bool] = lambda: False) -> None:
        """`upgrade` is called before the first statement about rows that were not stated yet; it says whether format v1
        knew them.
        """
        self._log = Table(index_url)
        self._upgrade = upgrade

    def summed(self, batches: Iterable[pa.RecordBatch]) -> Sums:
        """What a commit adds or takes away."""
        return contents.summed(batches)

    def statement(self, base: PinnedTable, removed: Sums | None, added: Sums | None) -> Mapping[str, str]:
        """Metadata of a commit made on `base`, and on no later version, that changes its rows so."""
        removed, added = removed or {}, added or {}
        stated = self._with_sums(self.stated(base.version), {*removed, *added})
        if stated is not None:
            after = stated.changed(base.version + 1, removed, added)
        else:
            counted = self._with_v1(base, self.counted(base))
            after = _all_touched(counted.changed(base.version + 1, removed, added), counted)
        return {KEY: after.to_text()}

    def stated(self, version: int) -> Contents | None:
        """What the log states of a version, by one request or a few; None where its rows would have to be counted."""
        for back in range(min(version + 1, _LOOK_BACK)):
            commit = self._commit(version - back)
            if commit is None:
                return None
            if KEY in commit.info:
                stated = Contents.from_text(commit.info[KEY])
                return stated if stated is not None and stated.version == commit.version else None
            if commit.changes_rows:
                return None
            if commit.version == 0:
                return Contents(version=0, cohorts={}, sums={})
        return None

    @staticmethod
    def counted(base: PinnedTable, filters: Filters | None = None) -> Contents:
        """What the rows of a version come to where all `filters` hold: one streamed pass over them."""
        return contents.counted(base.version, base.collected(contents.summed, CONTENT_COLUMNS, filters))

    def _with_v1(self, base: PinnedTable, counted: Contents) -> Contents:
        if not self._upgrade():
            return counted
        whole, by_cohort = base.collected(fingerprints_v1, CONTENT_COLUMNS)
        cohorts = {name: dataclasses.replace(one, v1=by_cohort[name]) for name, one in counted.cohorts.items()}
        return dataclasses.replace(counted, cohorts=cohorts, v1={contents.fingerprint(cohorts): whole})

    def _commit(self, version: int) -> Commit | None:
        """An entry of the log; None where somebody else shortened the log."""
        try:
            return self._log.commit(version)
        except StorageError as error:
            if error.value != NOTHING_THERE:
                raise
            return None

    def _with_sums(self, stated: Contents | None, cohorts: Collection[str]) -> Contents | None:
        """These contents with the sums of `cohorts`, from the commits that last touched them; None without one."""
        if stated is None:
            return None
        sums = dict(stated.sums)
        for cohort in sorted({*cohorts} & {*stated.cohorts} - {*sums}):
            touched = self.stated(stated.cohorts[cohort].touched)
            if touched is None or cohort not in touched.sums:
                return None
            sums[cohort] = touched.sums[cohort]
        return dataclasses.replace(stated, sums=sums)


def _all_touched(after: Contents, before: Contents) -> Contents:
    cohorts = {name: dataclasses.replace(one, touched=after.version) for name, one in after.cohorts.items()}
    return dataclasses.replace(after, cohorts=cohorts, sums={**before.sums, **after.sums})
