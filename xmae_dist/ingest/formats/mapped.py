"""Files that say too little of themselves, read as a mapping file describes them."""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xmae_dist.ingest.formats.items import Folder, Found, Item
from xmae_dist.ingest.formats.mapping import Mapping
from xmae_dist.ingest.formats.protocol import told
from xmae_dist.ingest.formats.source import Opened
from xmae_dist.ingest.formats.table import ColumnsRecording, rows_recordings


@dataclass(frozen=True, kw_only=True)
class MappedFormat:
    """The files that `mapping.files` picks by name."""

    mapping: Mapping
    name: str = "mapped"

    @property
    def title(self) -> str:
        return f"files like {self.mapping.files!r}"

    def find(self, folder: Folder) -> Found:
        names = folder.names()
        if folder.only is None:
            names = [name for name in names if fnmatch.fnmatch(posixpath.basename(name), self.mapping.files)]
        return Found(items=tuple(folder.whole_file(name, self.name) for name in names))

    def recordings(self, item: Item, folder: Path) -> Iterator[Opened]:
        return told(self._opened(folder / item.head, item.name), item.name)

    def _opened(self, head: Path, name: str) -> Iterator[Opened]:
        if self.mapping.layout == "columns":
            yield ColumnsRecording(head, name, self.mapping)
        else:
            yield from rows_recordings(head, self.mapping)
