"""Which recordings the folders, records and files of a command offer, and which of their files nothing reads."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.datasets.catalogue import Archive
from xmae_dist.ingest.formats.items import Folder, Item, Recall, Refusal, Tell, listed, nobody_listens, nothing_taken
from xmae_dist.ingest.formats.mapping import Mapping as TableMapping
from xmae_dist.ingest.formats.protocol import Format
from xmae_dist.ingest.offer import Offer
from xmae_dist.ingest.readers import formats_of
from xmae_dist.ingest.roots import Roots
from xmae_dist.storage import uri

# A record is also named without the suffix of its header.
_RECORD_SUFFIXES = (".hea",)


def discover(
    inputs: Sequence[str],
    mapping: TableMapping | Archive | None,
    tell: Tell = nobody_listens,
    recall: Recall = nothing_taken,
    roots: Roots | None = None,
) -> Offer:
    """Items of all `inputs` (folders, records, files). What `recall` knows by its mark is not looked into; `roots` are
    the folders that were named before.

    Costs a listing and, of each file that is new or changed, its header or ends. Raises InputError where an input does
    not exist or holds nothing that looks like a recording.
    """
    formats, roots = formats_of(mapping), roots or Roots()
    offer = Offer()
    for url in map(uri.normalise, inputs):
        folder = listed(url, _RECORD_SUFFIXES if mapping is None else (), tell)
        place = roots.place(folder.url, _first_head(folder, formats))
        below = functools.partial(roots.place_below, folder.url)
        folder = dataclasses.replace(folder, place=place, place_below=below, recall=recall)
        if not _take(folder, formats, offer):
            what = " or ".join(entry.title for entry in formats.values())
            raise InputError(url, value="nothing to ingest", expected=what, fix="check the path, or give --mapping")
        if folder.only is None:  # a file that was named alone leaves none unread
            for suffix, count in folder.sizes.unused():
                offer.unread[suffix or "without suffix"] += count
    return offer


def _first_head(folder: Folder, formats: Mapping[str, Format]) -> str | None:
    return min((head for entry in formats.values() for head in entry.heads(folder)), default=None)


def _take(folder: Folder, formats: Mapping[str, Format], offer: Offer) -> int:
    """Takes over what a folder offers; how many things that is."""
    count = 0
    for one in _found(folder, formats):
        count += 1
        if isinstance(one, Refusal):
            offer.refuse(one)
            continue
        for name in one.files:
            folder.sizes.use(name)
        if not offer.add(one):
            reason = f"another recording is also called {one.name}; fix: ingest it from its own parent folder"
            offer.refuse(Refusal(name=f"{folder.url}/{one.head}", reason=reason))
    return count


def _found(folder: Folder, formats: Mapping[str, Format]) -> Iterator[Item | Refusal]:
    for entry in formats.values():
        yield from entry.find(folder)
