"""Few data files for many commits: files of a cohort that have become many are merged, as a policy of the corpus.

A commit leaves a file in each cohort that it adds to, and whoever reads a cohort asks for each of its files (about
three requests). Merging changes no row, so what commits state stays true, and writers, readers and pinned versions go
on: the old files stay. `vacuum` keeps them too until somebody is withdrawn after the merge.
"""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc

from xmae_dist.storage.table import Table

OPERATION = "compact-index"
EVERY_COMMITS = 64
"""An ingest merges after each so many commits of the index."""
MOST_FILES = 32
"""Small files of a cohort that are left alone."""
_SMALL_BYTES = 32 * 2**20


def merge_files(index: Table, most_files: int = MOST_FILES) -> list[str]:
    """Merges the small files of every cohort that has more than `most_files`; returns these cohorts.

    A commit for each. A cohort whose files another writer took away at the same moment is left for the next time.
    Time and requests as the rows of these cohorts; delta-rs holds some row groups of them at a time.
    """
    files = index.at().files()
    small = Counter(files.filter(pc.less(files["size_bytes"], _SMALL_BYTES))["partition.cohort"].to_pylist())
    crowded = sorted(cohort for cohort, files in small.items() if files > most_files)
    return [one for one in crowded if index.merge_files("cohort", one, {"xmae_operation": OPERATION})]
