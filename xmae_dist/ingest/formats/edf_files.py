"""EDF and BDF files in a folder; annotations in a file of their own belong to the recording beside them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xmae_dist.ingest.formats.items import Folder, Found
from xmae_dist.ingest.formats.protocol import told
from xmae_dist.ingest.formats.source import Opened

_SUFFIXES = (".edf", ".bdf")
_ANNOTATIONS = re.compile(r"(?i)(hypnogram|annotations?|scoring)\.[be]df$")
# Scorers put their initial where the recording's name goes on (SC4001E0-PSG and SC4001EC-Hypnogram of Sleep-EDF).
_FEWEST_SHARED = 4


@dataclass(frozen=True, kw_only=True)
class EdfFormat:
    """A file is a recording, with the annotations beside it if there are any."""

    name: str = "edf"
    title: str = "EDF and BDF (*.edf, *.bdf)"
    header_subjects: bool = False

    def find(self, folder: Folder) -> Found:
        names = [name for name in folder.names() if name.lower().endswith(_SUFFIXES)]
        present = names if folder.only is None else sorted(folder.sizes)
        pairs = {name: annotations_beside(name, present) for name in names}
        taken = {beside for beside in pairs.values() if beside is not None}
        heads = [name for name in names if name not in taken]
        return Found(
            items=tuple(folder.whole_file(head, self.name, tuple(filter(None, [pairs[head]]))) for head in heads)
        )

    def recordings(self, head: Path, name: str) -> Iterator[Opened]:
        from xmae_dist.ingest.formats.edf import opened

        return told(opened(head, name, self.header_subjects), name)


def annotations_beside(name: str, names: Iterable[str]) -> str | None:
    """The file of annotations among `names` that belongs to the recording `name`: in its folder, and of all files there
    that are no annotations none shares a longer beginning of its name. None where it has none, or it is unclear.
    """
    if _ANNOTATIONS.search(name):
        return None
    folder = posixpath.dirname(name)
    near = [other for other in names if posixpath.dirname(other) == folder]
    annotations = [other for other in near if _ANNOTATIONS.search(other)]
    if not annotations:
        return None
    signals = [other for other in near if other.lower().endswith(_SUFFIXES) and not _ANNOTATIONS.search(other)]
    fitting = [other for other in annotations if _owner(other, signals) == name]
    return fitting[0] if len(fitting) == 1 else None


def _owner(annotations: str, signals: list[str]) -> str | None:
    shared = {other: len(posixpath.commonprefix([annotations, other])) for other in signals}
    longest = max(shared.values(), default=0)
    owners = [other for other, length in shared.items() if length == longest]
    enough = longest - len(posixpath.dirname(annotations)) >= _FEWEST_SHARED
    return owners[0] if len(owners) == 1 and enough else None
