"""Public data sets as people download them: which files are recordings, and what reads them.

`docs/datasets.md` says where each comes from and how its folder must look. Readers hold one recording in memory at a
time: the longest here are nights and operations.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xmae_dist.core.errors import UsageError
from xmae_dist.ingest.datasets import pickles, pulsedb, tables, vitaldb
from xmae_dist.ingest.formats.items import Folder, Item, Refusal
from xmae_dist.ingest.formats.protocol import told
from xmae_dist.ingest.formats.source import HeldRecording, Opened

Reader = Callable[[Path, str], Iterator[HeldRecording]]


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One data set. `files` is the glob that picks recordings by name; `beside` gives, as (pattern, replacement) on
    the relative path of a recording, further files that its reader looks into where they are there.
    """

    name: str
    files: str
    beside: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        return f"files like {self.files!r}"

    def heads(self, folder: Folder) -> Iterator[str]:
        if folder.only is not None:
            return folder.names()
        return (name for name in folder.names() if fnmatch.fnmatch(posixpath.basename(name), self.files))

    def find(self, folder: Folder) -> Iterator[Item | Refusal]:
        return folder.whole_files(((head, self._companions(head, folder)) for head in self.heads(folder)), self.name)

    def recordings(self, item: Item, folder: Path) -> Iterator[Opened]:
        """The recordings of one file; the item's name is the id that the file stands for."""
        return told(_READERS[self.name](folder / item.head, item.name), item.name)

    def _companions(self, head: str, folder: Folder) -> tuple[str, ...]:
        """Files beside `head`, relative to the listing, that are in it."""
        named = (re.sub(pattern, replacement, head) for pattern, replacement in self.beside)
        return tuple(name for name in dict.fromkeys(named) if name in folder.sizes and name != head)


_READERS: dict[str, Reader] = {
    "bidmc": tables.bidmc,
    "dreamt": tables.dreamt,
    "mimic_perform_af": tables.mimic_perform_af,
    "ppg_dalia": pickles.ppg_dalia,
    "pulsedb": pulsedb.pulsedb,
    "vitaldb": vitaldb.vitaldb,
    "wesad": pickles.wesad,
}
_ARCHIVES = (
    Archive(
        name="bidmc",
        files="bidmc_*_Signals.csv",
        beside=((r"_Signals\.csv$", "_Numerics.csv"), (r"_Signals\.csv$", "_Fix.txt")),
    ),
    Archive(name="dreamt", files="S*_whole_df.csv", beside=((r"(data_\w+/)?[^/]+$", "participant_info.csv"),)),
    Archive(name="mimic_perform_af", files="mimic_perform_*af_*_data.csv"),
    Archive(name="ppg_dalia", files="S*.pkl"),
    Archive(name="pulsedb", files="p*.mat"),
    Archive(name="vitaldb", files="*.vital", beside=((r"(vital_files/)?[^/]+$", "clinical_data.csv"),)),
    Archive(name="wesad", files="S*.pkl", beside=((r"(S\d+)\.pkl$", r"\1_readme.txt"),)),
)
ARCHIVES = {archive.name: archive for archive in _ARCHIVES}


def archive(name: str) -> Archive:
    """The data set of this name. Raises UsageError, naming those there are."""
    if name not in ARCHIVES:
        raise UsageError("--adapter", value=repr(name), expected="one of " + ", ".join(ARCHIVES))
    return ARCHIVES[name]
