"""The formats whose files describe themselves: no mapping is needed, and a folder may hold several of them."""

from __future__ import annotations

from xmae_dist.ingest.formats.edf_files import EdfFormat
from xmae_dist.ingest.formats.protocol import Format
from xmae_dist.ingest.formats.wfdb_files import WfdbFormat

SELF_DESCRIBING: tuple[Format, ...] = (
    WfdbFormat(),
    EdfFormat(),
)
