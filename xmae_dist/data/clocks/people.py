"""The people of a snapshot, one after another, each with all recordings of all devices: where pairs are looked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from xmae_dist.storage import index
from xmae_dist.storage.snapshot import Recording, Snapshot, recording_of

_ORDER = ("subject_id", "cohort", "recording_id", "channel")


class People:
    """Gone through as often as is asked; rows are sorted once, on local disk below `folder`. One person's recordings
    are held as objects.
    """

    def __init__(self, snapshot: Snapshot, folder: str) -> None:
        self._url = snapshot.url
        self._rows = snapshot.sorted_rows(folder, _ORDER)

    def __iter__(self) -> Iterator[tuple[str, list[Recording]]]:
        """(subject, recordings in the order of cohort and recording id), in the order of subjects.

        Raises IntegrityError where a channel of a recording stands twice.
        """
        rows = (row for batch in self._rows for row in index.from_arrow(batch))
        for subject, own in itertools.groupby(rows, key=lambda row: row.subject_id):
            keyed = itertools.groupby(own, key=lambda row: (row.cohort, row.recording_id))
            yield subject, [recording_of(list(channels), self._url) for _, channels in keyed]
