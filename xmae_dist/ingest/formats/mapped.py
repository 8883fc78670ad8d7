"""Files that say too little of themselves, read as a mapping file describes them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xmae_dist.ingest.formats.items import Folder, Item, Refusal
from xmae_dist.ingest.formats.mapping import Mapping, picks
from xmae_dist.ingest.formats.protocol import told
from xmae_dist.ingest.formats.source import Opened
from xmae_dist.ingest.formats.table import ColumnsRecording, lines_recording, rows_recordings
from xmae_dist.ingest.formats.variables import VariablesRecording


@dataclass(frozen=True, kw_only=True)
class MappedFormat:
    """The files that `mapping.files` picks by name."""

    mapping: Mapping
    name: str = "mapped"

    @property
    def title(self) -> str:
        return f"files like {self.mapping.files!r}"

    def heads(self, folder: Folder) -> Iterator[str]:
        if folder.only is not None:
            return folder.names()
        # The folder may be the one that the pattern begins with.
        place = posixpath.basename(folder.url.rstrip("/"))
        return (name for name in folder.names() if picks(self.mapping.files, f"{place}/{name}"))

    def find(self, folder: Folder) -> Iterator[Item | Refusal]:
        heads = ((head, self.mapping.companions(head, folder.sizes)) for head in self.heads(folder))
        return folder.whole_files(heads, self.name, joined=True)

    def recordings(self, item: Item, folder: Path) -> Iterator[Opened]:
        return told(self._opened(folder / item.head, item.name), item.name)

    def _opened(self, head: Path, name: str) -> Iterator[Opened]:
        if self.mapping.layout == "columns":
            yield ColumnsRecording(head, name, self.mapping)
        elif self.mapping.layout == "variables":
            yield VariablesRecording(head, name, self.mapping)
        elif self.mapping.layout == "lines":
            yield lines_recording(head, name, self.mapping)
        else:
            yield from rows_recordings(head, self.mapping)
