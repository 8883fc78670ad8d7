"""What became of every recording of a run: each on a line of an object in the corpus; counts and the first ones in
memory.

    <corpus>/reports/ingest/<cohort>/<name>.jsonl    a header, then an outcome on each line
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from xmae_dist.ingest.written import Outcome, outcome_fields, read_outcome
from xmae_dist.storage import uri

FORMAT = "xmae-ingest-outcomes/v1"
# So many outcomes of a kind are in the report itself.
MOST_NAMED = 1000
_LINES_AN_OBJECT = 50_000


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """How many outcomes of a kind there are, and the first of them by name, at most `MOST_NAMED`."""

    count: int = 0
    first: tuple[Outcome, ...] = ()


@dataclass
class _Tally:
    belongs: Callable[[Outcome], bool]
    count: int = 0
    first: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        if self.belongs(outcome):
            self.count += 1
            self.first.append(outcome)
            if len(self.first) > 2 * MOST_NAMED:
                self._shorten()

    def outcomes(self) -> Outcomes:
        self._shorten()
        return Outcomes(count=self.count, first=tuple(self.first))

    def _shorten(self) -> None:
        self.first = sorted(self.first, key=lambda one: one.name)[:MOST_NAMED]


class OutcomeLog:
    """Writes the outcomes of a run down, and counts them."""

    def __init__(self, corpus_url: str, cohort: str) -> None:
        self._folder, self._cohort = uri.join(corpus_url, "reports", "ingest", cohort), cohort
        self._kept = _Tally(lambda one: one.kept)
        self._rejected = _Tally(lambda one: not one.kept and not one.withdrawn)
        self._left_out = _Tally(lambda one: one.withdrawn)
        self._lost = _Tally(lambda one: one.kept and bool(one.dropped))
        self._noted = _Tally(lambda one: one.kept and bool(one.notes))
        self.channels: Counter[str] = Counter()
        self.hours = 0.0
        self.urls: list[str] = []

    def add(self, outcomes: Iterable[Outcome], name: str, version: int | None = None) -> None:
        """Counts outcomes and writes them down as the object `name`, or several where they are many; none where there
        are none. `version`: the commit that they come with.
        """
        lines: list[str] = []
        number = 1
        for outcome in outcomes:
            self._count(outcome)
            lines.append(json.dumps(outcome_fields(outcome), allow_nan=False))
            if len(lines) == _LINES_AN_OBJECT:
                self._write(name if number == 1 else f"{name}-{number}", version, lines)
                lines, number = [], number + 1
        if lines:
            self._write(name if number == 1 else f"{name}-{number}", version, lines)

    @property
    def kept(self) -> Outcomes:
        return self._kept.outcomes()

    @property
    def rejected(self) -> Outcomes:
        return self._rejected.outcomes()

    @property
    def left_out(self) -> Outcomes:
        """Recordings, or whole files, of people who were withdrawn."""
        return self._left_out.outcomes()

    @property
    def lost(self) -> Outcomes:
        """Recordings that are kept without some of their channels."""
        return self._lost.outcomes()

    @property
    def noted(self) -> Outcomes:
        """Recordings that are kept, and of which a person should know something."""
        return self._noted.outcomes()

    def _count(self, outcome: Outcome) -> None:
        for tally in (self._kept, self._rejected, self._left_out, self._lost, self._noted):
            tally.add(outcome)
        self.channels.update(outcome.channels)
        self.hours += outcome.hours

    def _write(self, name: str, version: int | None, lines: list[str]) -> None:
        header = json.dumps({"format": FORMAT, "cohort": self._cohort, "version": version})
        url = uri.join(self._folder, f"{name}.jsonl")
        uri.write_bytes(url, "\n".join([header, *lines, ""]).encode())
        self.urls.append(url)


def read_outcomes(url: str) -> Iterator[Outcome]:
    """The outcomes of one object."""
    for line in uri.read_bytes(url).splitlines()[1:]:
        yield read_outcome(json.loads(line))
