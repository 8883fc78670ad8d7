"""Sources whose channels may lie on clocks of their own, person by person, for a specification that asks for pairs.

Estimates that are not stored are made first. Then people and stored estimates, both in the order of subjects, are gone
through side by side, so that one person is held at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from xmae_dist.data.clocks.alignment import PairEstimate
from xmae_dist.data.clocks.people import People
from xmae_dist.data.clocks.record import StoredEstimates, fingerprint_v1, made, pair_id
from xmae_dist.data.store.planning import SourceBlock, block_of_sources
from xmae_dist.data.windows.source import WindowSource, pairs_among, window_sources
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.ordered import Runs
from xmae_dist.storage.snapshot import Recording, Snapshot


class AlignedSources:
    """The sources of a snapshot under a specification with a declared prior."""

    def __init__(self, corpus: Corpus, snapshot: Snapshot, spec: WindowSpec, folder: str) -> None:
        """`folder`: where rows are sorted, empty. Raises IntegrityError where a channel of a recording stands twice."""
        self._corpus, self._snapshot, self.spec, self._folder = corpus, snapshot, spec, Path(folder)
        self._people = People(snapshot, self._below("people"))

    def pairs_fingerprint_v1(self) -> str | None:
        """As window stores of the format before name their pairs; None where there are none."""
        ids = Runs(self._named_pairs(), ("cohort", "subject_id", "recording_id", "place"), self._below("pairs"))
        names = (name for batch in ids for name in batch.column("pair").to_pylist())
        first = next(names, None)
        return None if first is None else fingerprint_v1(itertools.chain([first], names))

    def _named_pairs(self) -> Iterator[pa.RecordBatch]:
        for subject, recordings in self._people:
            rows = [
                {
                    "cohort": pair.source.cohort,
                    "subject_id": subject,
                    "recording_id": pair.source.recording_id,
                    "place": f"{place:012d}",
                    "pair": pair_id(pair),
                }
                for place, pair in enumerate(pairs_among(recordings, self.spec))
            ]
            if rows:
                yield pa.RecordBatch.from_pylist(rows)

    def estimate(self) -> None:
        """Makes and stores the estimates of pairs that have none. Raises IntegrityError for damaged recordings."""
        stored = self._stored("estimates-before")
        missing = (
            pair
            for recordings, known in self.beside(stored)
            for pair in pairs_among(recordings, self.spec)
            if pair_id(pair) not in known
        )
        for _ in made(self._corpus, missing):
            pass

    def blocks(self) -> Iterable[SourceBlock]:
        """The sources, to be gone through as often as is asked; every pair must have its estimate."""
        return _Blocks(self, self._stored("estimates"))

    def beside(self, stored: StoredEstimates) -> Iterator[tuple[list[Recording], dict[str, PairEstimate]]]:
        """The recordings of each person, and the estimates that are stored of theirs."""
        waiting = iter(stored)
        ahead = next(waiting, None)
        for subject, recordings in self._people:
            while ahead is not None and ahead[0] < subject:
                ahead = next(waiting, None)
            yield recordings, ahead[1] if ahead is not None and ahead[0] == subject else {}

    def sources_of(self, recordings: Sequence[Recording], known: Mapping[str, PairEstimate]) -> list[WindowSource]:
        """The sources of one person, in the order of cohort and recording."""
        pairs = pairs_among(recordings, self.spec)
        return window_sources(recordings, pairs, [known[pair_id(pair)] for pair in pairs])

    def _stored(self, name: str) -> StoredEstimates:
        return StoredEstimates(self._corpus, self._snapshot.cohorts(), self._below(name))

    def _below(self, name: str) -> str:
        folder = self._folder / name
        folder.mkdir()
        return str(folder)


class _Blocks:
    def __init__(self, people: AlignedSources, stored: StoredEstimates) -> None:
        self._people, self._stored = people, stored

    def __iter__(self) -> Iterator[SourceBlock]:
        for recordings, known in self._people.beside(self._stored):
            sources = self._people.sources_of(recordings, known)
            for _, own in itertools.groupby(sources, key=lambda source: source.recording.cohort):
                yield block_of_sources(list(own), self._people.spec)
