"""One tick of a schedule: whatever is new, in every cohort that a bundle can embed, and what came of it in one line.

A cohort whose recordings are damaged does not keep the others waiting: it is named at the end. What concerns all of
them (a store that does not answer, a cluster that is gone) ends the tick at once.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.embed.backlog import View
from xmae_dist.embed.familiar import DIFFERENT
from xmae_dist.embed.lag import Lag, lag
from xmae_dist.embed.pipeline import Held, Outcome, Resources, embed_cohort, take_away_all_who_left
from xmae_dist.embed.positions import Likeness
from xmae_dist.embed.request import Encoder

OK, ATTENTION, FAILED = "ok", "attention", "failed"
EXIT_STATUS = {OK: 0, FAILED: 1, ATTENTION: 3}


@dataclass(frozen=True, kw_only=True)
class Tick:
    """What a tick did, and how the table stands after it."""

    model_id: str
    outcomes: Mapping[str, Outcome]
    """By cohort; None for nothing to do."""
    failed: Mapping[str, str]
    """By cohort, what was wrong with it."""
    lag: Lag
    """What is behind after the tick: held and failed cohorts, and what came meanwhile."""
    likeness: Mapping[str, Likeness]
    """Of each cohort, how its newest people compared with what was known, now or at an earlier tick."""
    looked: bool = False
    """It was only looked what is behind."""

    @property
    def state(self) -> str:
        """`failed`: some cohort could not be embedded; `attention`: some is held back for a person to look at, or was
        found behind by a look.
        """
        if self.failed:
            return FAILED
        return ATTENTION if self._held or (self.looked and self.lag.lag_s_of) else OK

    @property
    def line(self) -> str:
        """For a scheduler's log: what to alert on, as name=value."""
        embedded = sum(one is not None and not isinstance(one, Held) for one in self.outcomes.values())
        different = Counter(one.state for one in self.likeness.values())[DIFFERENT]
        counts = {
            "cohorts": len(self.outcomes),
            "embedded": embedded,
            "held": self._held,
            "different": different,
            "failed": len(self.failed),
            "behind": len(self.lag.lag_s_of),
            "lag_s": round(self.lag.lag_s),
        }
        numbers = " ".join(f"{name}={number}" for name, number in counts.items())
        return f"status={self.state} model={self.model_id} {numbers}" + (
            f" oldest={self.lag.oldest}" if self.lag.oldest else ""
        )

    @property
    def _held(self) -> int:
        return sum(isinstance(one, Held) for one in self.outcomes.values())

    def to_dict(self) -> dict[str, Any]:
        return {
            "status": self.state,
            "model_id": self.model_id,
            "cohorts": {cohort: told(one) for cohort, one in self.outcomes.items()},
            "failed": dict(self.failed),
            "lag_s": self.lag.lag_s,
            "behind": dict(self.lag.lag_s_of),
            "likeness": {cohort: dataclasses.asdict(one) for cohort, one in self.likeness.items()},
        }


def told(outcome: Outcome) -> dict[str, Any] | None:
    """An outcome as plain values; `held` says whether it was kept back."""
    return {"held": isinstance(outcome, Held), **dataclasses.asdict(outcome)} if outcome else None


def tick(
    corpus_url: str, encoder: Encoder, table_url: str, resources: Resources | None = None, *, hold: bool = False
) -> Tick:
    """Brings the table up to the newest snapshot: for an encoder, all cohorts with its signal; for others that the
    table holds, only that whoever left the corpus leaves their rows too. With `hold`, nothing is added that is like
    nothing known. Raises StorageError and RunError, and InputError for a bundle that was retired.
    """
    view = View.of(corpus_url, table_url)
    view.refuse_retired(encoder)
    outcomes: dict[str, Outcome] = dict.fromkeys(view.cohorts(encoder))
    failed = {}
    behind = view.behind(encoder)
    for cohort in behind:
        try:
            outcomes[cohort] = embed_cohort(corpus_url, encoder, table_url, cohort, resources, hold=hold)
        except (InputError, IntegrityError) as error:
            failed[cohort] = str(error)
    after = View.of(corpus_url, table_url) if behind else view
    if take_away_all_who_left(after, but=encoder):
        after = View.of(corpus_url, table_url)
    return Tick(
        model_id=encoder.model_id,
        outcomes=outcomes,
        failed=failed,
        lag=lag(after, encoder),
        likeness=_likeness(after, encoder),
    )


def look(corpus_url: str, encoder: Encoder, table_url: str) -> Tick:
    """How the table stands; nothing is embedded. Raises StorageError."""
    view = View.of(corpus_url, table_url)
    return Tick(
        model_id=encoder.model_id,
        outcomes=dict.fromkeys(view.cohorts(encoder)),
        failed={},
        lag=lag(view, encoder),
        likeness=_likeness(view, encoder),
        looked=True,
    )


def _likeness(view: View, encoder: Encoder) -> dict[str, Likeness]:
    """What the table states of the encoder's cohorts."""
    return {
        lineage.cohort: position.likeness
        for lineage, position in view.positions.items()
        if position.likeness and encoder.lineage(lineage.cohort) == lineage
    }
