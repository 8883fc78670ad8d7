"""Which formats an ingest run looks for: those that describe themselves, a mapping's files, or a public data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from xmae_dist.ingest.datasets.catalogue import Archive
from xmae_dist.ingest.formats.mapped import MappedFormat
from xmae_dist.ingest.formats.mapping import Mapping as TableMapping
from xmae_dist.ingest.formats.protocol import Format
from xmae_dist.ingest.formats.registry import SELF_DESCRIBING


def formats_of(mapping: TableMapping | Archive | None, header_subjects: bool = False) -> Mapping[str, Format]:
    """Formats by the name that their items carry. With `header_subjects` the person that a header names is the subject,
    in formats whose headers name one.
    """
    if mapping is None:
        return {entry.name: _asked(entry) if header_subjects else entry for entry in SELF_DESCRIBING}
    entry: Format = mapping if isinstance(mapping, Archive) else MappedFormat(mapping=mapping)
    return {entry.name: entry}


def _asked(entry: Any) -> Format:
    if not hasattr(entry, "header_subjects"):
        return entry
    return dataclasses.replace(entry, header_subjects=True)
