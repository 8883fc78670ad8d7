"""How long a table has been behind its corpus: since the first change of a cohort that it has not embedded.

The log of the corpus states what every cohort held after each commit, so the time of that change is found by reading
entries from the newest back, one request each; none where nothing is behind.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass

from xmae_dist.embed.backlog import View
from xmae_dist.embed.request import GONE, Encoder
from xmae_dist.storage import uri
from xmae_dist.storage.contents import Contents
from xmae_dist.storage.ledger import KEY
from xmae_dist.storage.table import Commit, Table

_MOST_COMMITS = 256
"""With more since then, the lag is that of the oldest that was read."""


@dataclass(frozen=True, kw_only=True)
class Lag:
    """What a table lacks of an encoder's cohorts."""

    lag_s_of: Mapping[str, float]
    """Of each cohort that is behind, seconds since its first change that is not embedded."""

    @property
    def lag_s(self) -> float:
        """Of the cohort that waits longest; 0 for none."""
        return max(self.lag_s_of.values(), default=0.0)

    @property
    def oldest(self) -> str:
        """The cohort that waits longest; "" for none."""
        return max(self.lag_s_of, key=self.lag_s_of.__getitem__, default="")


def lag(view: View, encoder: Encoder) -> Lag:
    """What a view finds behind."""
    now_s = time.time()
    embedded = {cohort: view.position(encoder.lineage(cohort)).content for cohort in view.behind(encoder)}
    since_ms = dict.fromkeys(embedded, now_s * 1000)
    open_ = set(embedded)
    if open_:
        commits = Table(uri.join(view.snapshot.url, "index")).commits()
        for commit in itertools.islice(commits, _MOST_COMMITS):
            stated = _contents(commit)
            for cohort in sorted(open_) if stated else ():
                if _content(stated, cohort) == (embedded[cohort] or GONE):
                    open_.remove(cohort)
                else:
                    since_ms[cohort] = commit.info["timestamp"]
            if not open_:
                break
    return Lag(lag_s_of={cohort: max(0.0, now_s - at_ms / 1000) for cohort, at_ms in since_ms.items()})


def _contents(commit: Commit) -> Contents | None:
    """What a commit states; None for one that changes no row, or of a corpus of format v1."""
    return Contents.from_text(commit.info[KEY]) if KEY in commit.info else None


def _content(stated: Contents | None, cohort: str) -> str:
    there = stated.cohorts.get(cohort) if stated else None
    return there.digest if there and there.rows else GONE
