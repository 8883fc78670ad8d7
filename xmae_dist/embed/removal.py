"""Recordings taken away from a lineage: the files that hold them are written again without them.

Which files these can be is known from the statistics in the log: a file is read only where the ids of its recordings
span one that is to go. A file is written again whole, so taking away one recording costs reading and writing the file
that holds it (tens of MB).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.embed import staging
from xmae_dist.embed.difference import Difference
from xmae_dist.embed.part import SCHEMA, put_part
from xmae_dist.embed.request import Lineage
from xmae_dist.embed.staging import Facts
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.file_actions import DataFile
from xmae_dist.storage.table import PinnedTable

_NAMES_A_LIST = 65_536
_KEYS = pa.schema([("recording_id", pa.string()), ("spec_id", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A file of the table, and where the ids are listed that may be in it and must not."""

    key: str
    file: DataFile
    lists: tuple[str, ...]
    lineage: Lineage


def removals(difference: Difference, lineage: Lineage, main: PinnedTable, folder: str) -> list[Removal]:
    """The work of taking away what is gone, its lists put in place below `folder`: an entry a file."""
    lists = [_put_list(folder, number, names) for number, names in enumerate(_listed(difference))]
    files = main.files(lineage.partition) if lists else pa.table({})
    found = []
    for file in files.to_pylist():
        least, greatest = file.get("min.recording_id"), file.get("max.recording_id")
        spanned = [
            url
            for first, last, url in lists
            if least is None or greatest is None or (first <= greatest and last >= least)
        ]
        if spanned:
            data_file = DataFile(
                path=file["path"], bytes=file["size_bytes"], partition=lineage.partition, rows=file["num_records"] or 0
            )
            key = "without-" + hashlib.sha256(file["path"].encode()).hexdigest()[:24]
            found.append(Removal(key=key, file=data_file, lists=tuple(spanned), lineage=lineage))
    return found


def take_away(removal: Removal, table_url: str, folder: str, request: str) -> Facts:
    """Writes the file again without what must go, and leaves the facts. A file that holds nothing of it is let be."""
    data = uri.read_bytes(removal.file.url(table_url))
    gone = pa.chunked_array([staging.read_work(url)["recording_id"].combine_chunks() for url in removal.lists])
    # delta-rs writes views, on which Arrow cannot compute.
    places = parquet.decode(data, _KEYS.names).select(_KEYS.names).cast(_KEYS)
    goes = pc.and_(pc.is_in(places["recording_id"], gone), pc.equal(places["spec_id"], removal.lineage.spec_id))
    if not pc.any(goes).as_py():
        return staging.put_facts(folder, Facts(key=removal.key, add=None))
    kept = parquet.decode(data).filter(pc.invert(goes))
    rows = pa.table([_column(kept, name, removal.lineage) for name in SCHEMA.names], schema=SCHEMA)
    facts = Facts(
        key=removal.key,
        add=put_part(table_url, rows, removal.lineage.partition, request=request, key=removal.key),
        remove=removal.file,
        recordings_removed=pc.count_distinct(places["recording_id"].filter(goes)).as_py(),
    )
    return staging.put_facts(folder, facts)


def _column(rows: pa.Table, name: str, lineage: Lineage) -> pa.ChunkedArray | pa.Array:
    if name in lineage.partition:
        return pa.array([lineage.partition[name]] * len(rows), pa.string())
    return rows[name].cast(SCHEMA.field(name).type)


def _listed(difference: Difference) -> Iterator[pa.Array]:
    held: list[pa.Array] = []
    for batch in difference.taken_away():
        held.append(batch["recording_id"])
        if sum(map(len, held)) >= _NAMES_A_LIST:
            yield pa.concat_arrays(held)
            held = []
    if sum(map(len, held)):
        yield pa.concat_arrays(held)


def _put_list(folder: str, number: int, names: pa.Array) -> tuple[str, str, str]:
    """First and last of sorted ids, and where they are listed."""
    url = staging.put_work(folder, f"gone-{number:06d}", pa.table({"recording_id": names}))
    return names[0].as_py(), names[-1].as_py(), url
