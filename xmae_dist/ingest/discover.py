"""Which recordings the folders, records and files of a command offer, and which of their files nothing reads."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.datasets.catalogue import Archive
from xmae_dist.ingest.formats.items import Folder, Item, Refusal, listed
from xmae_dist.ingest.formats.mapping import Mapping as TableMapping
from xmae_dist.ingest.readers import formats_of
from xmae_dist.ingest.roots import named_from
from xmae_dist.storage import uri

# A record is also named without the suffix of its header.
_RECORD_SUFFIXES = (".hea",)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What the inputs of a command offer. `unread`: kind of file (its suffix) -> how many of it no format reads."""

    items: tuple[Item, ...]
    refusals: tuple[Refusal, ...]
    unread: Mapping[str, int] = field(default_factory=dict)


def discover(
    inputs: Sequence[str], mapping: TableMapping | Archive | None, tell: Callable[[], None] = lambda: None
) -> Offer:
    """Items of all `inputs` (folders, records, files), ordered by name. `tell` is called for each file looked into.

    Raises InputError where an input does not exist or holds nothing that looks like a recording.
    """
    formats = formats_of(mapping)
    items: dict[str, Item] = {}
    refusals: dict[str, Refusal] = {}
    unread: Counter[str] = Counter()
    for url in map(uri.normalise, inputs):
        folder = listed(url, _RECORD_SUFFIXES if mapping is None else (), tell)
        found = [entry.find(folder) for entry in formats.values()]
        if not any(one.items or one.refusals for one in found):
            what = " or ".join(entry.title for entry in formats.values())
            raise InputError(url, value="nothing to ingest", expected=what, fix="check the path, or give --mapping")
        place = named_from(folder.url, [item.head for one in found for item in one.items])
        for item in (replace(item, name=place + item.name) for one in found for item in one.items):
            if item.name in items and items[item.name].fingerprint != item.fingerprint:
                reason = f"another recording is also called {item.name}; fix: ingest it from its own parent folder"
                refusals[f"{folder.url}/{item.head}"] = Refusal(name=f"{folder.url}/{item.head}", reason=reason)
                continue
            items[item.name] = item
        refusals.update({refusal.name: refusal for one in found for refusal in one.refusals})
        unread.update(_unread(folder, [item for one in found for item in one.items]))
    return Offer(
        items=tuple(items[name] for name in sorted(items)),
        refusals=tuple(refusals[name] for name in sorted(refusals)),
        unread=dict(sorted(unread.items())),
    )


def _unread(folder: Folder, items: Sequence[Item]) -> Counter[str]:
    """Files of a folder that are part of no item, by suffix; a file that was named alone leaves none."""
    if folder.only is not None:
        return Counter()
    read = {name for item in items for name in item.files}
    return Counter(_kind(name) for name in folder.sizes if name not in read)


def _kind(name: str) -> str:
    return posixpath.splitext(name)[1].lower() or "without suffix"
