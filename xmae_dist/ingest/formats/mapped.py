"""Files that say too little of themselves, read as a mapping file describes them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from xmae_dist.core.fingerprint import digest_json
from xmae_dist.ingest.formats.items import Folder, Found, Item
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

    def find(self, folder: Folder) -> Found:
        names = folder.names()
        if folder.only is None:
            # The folder may be the one that the pattern begins with.
            place = posixpath.basename(folder.url.rstrip("/"))
            names = [name for name in names if picks(self.mapping.files, f"{place}/{name}")]
        return Found(items=tuple(self._item(folder, name) for name in names))

    def _item(self, folder: Folder, name: str) -> Item:
        beside = self.mapping.companions(name, folder.sizes)
        item = folder.whole_file(name, self.name, beside)
        if not beside:
            return item
        others = [folder.whole_file(other, self.name) for other in beside]
        return replace(
            item,
            bytes=item.bytes + sum(other.bytes for other in others),
            fingerprint=digest_json([item.fingerprint, *(other.fingerprint for other in others)]),
        )

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
