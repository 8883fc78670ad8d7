"""EDF and BDF files in a folder; annotations in a file of their own belong to the recording beside them."""

from __future__ import annotations

import itertools
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xmae_dist.ingest.formats.items import Folder, Item, Refusal
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

    def heads(self, folder: Folder) -> Iterator[str]:
        return folder.ending(_SUFFIXES)

    def find(self, folder: Folder) -> Iterator[Item | Refusal]:
        return folder.whole_files(self._pairs(folder), self.name)

    def _pairs(self, folder: Folder) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Recordings with their annotations, folder by folder: none belongs to a recording elsewhere."""
        for _, near in itertools.groupby(folder.sizes.ending(_SUFFIXES), key=posixpath.dirname):
            names = list(near)
            beside = annotations_beside(names)
            owned = set(beside.values())
            for head in names:
                if head not in owned and folder.only in (None, head):
                    yield head, (beside[head],) if head in beside else ()

    def recordings(self, item: Item, folder: Path) -> Iterator[Opened]:
        return told(self._opened(item, folder), item.name)

    def _opened(self, item: Item, folder: Path) -> Iterator[Opened]:
        from xmae_dist.ingest.formats.edf import EdfRecording

        beside = folder / item.files[1] if len(item.files) > 1 else None
        yield EdfRecording(folder / item.head, item.name, self.header_subjects, beside)


def annotations_beside(names: Iterable[str]) -> dict[str, str]:
    """Recording -> the file of annotations that belongs to it: in its folder, and of all recordings there none shares a
    longer beginning of its name. What is unclear is left out.
    """
    names = [name for name in names if name.lower().endswith(_SUFFIXES)]
    annotations = [name for name in names if _ANNOTATIONS.search(name)]
    near: dict[str, list[str]] = {}
    for name in names if annotations else ():
        if not _ANNOTATIONS.search(name):
            near.setdefault(_neighbourhood(name), []).append(name)
    owners = {name: _owner(name, near.get(_neighbourhood(name), [])) for name in annotations}
    counts = Counter(owners.values())
    return {owner: name for name, owner in owners.items() if owner is not None and counts[owner] == 1}


def _neighbourhood(name: str) -> str:
    folder, base = posixpath.split(name)
    return f"{folder}/{base[:_FEWEST_SHARED]}"


def _owner(annotations: str, signals: list[str]) -> str | None:
    shared = {other: len(posixpath.commonprefix([annotations, other])) for other in signals}
    owners = [other for other, length in shared.items() if length == max(shared.values())]
    return owners[0] if len(owners) == 1 else None
