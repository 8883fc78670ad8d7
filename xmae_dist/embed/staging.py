"""Staged parts: Parquet named by the batch they hold and the digest of their bytes.

    <table>/_staging/<request>/<batch key>-<sha256>.parquet

A part exists whole or not at all, and its name proves its bytes. Two workers that encode one batch (a retry after a
lost node) may leave two parts; the first by name is the one that counts.
"""

from collections.abc import Iterable

import pyarrow as pa

from xmae_dist.core.errors import IntegrityError
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.embed.request import Batch, Request
from xmae_dist.storage import parquet, uri


def staging_url(table_url: str, request: Request) -> str:
    return uri.join(table_url, "_staging", request.request_id)


def put_part(folder: str, batch_key: str, rows: pa.Table) -> str:
    """Store a part and return its URL."""
    data = parquet.encode(rows)
    url = uri.join(folder, f"{batch_key}-{sha256_hex(data)[:32]}.parquet")
    uri.write_bytes(url, data)
    return url


def finished(folder: str) -> dict[str, str]:
    """URL of the part that counts, by batch key."""
    if not uri.exists(folder):
        return {}
    urls = sorted(u for u in uri.list_urls(folder) if u.endswith(".parquet"))
    found: dict[str, str] = {}
    for url in urls:
        found.setdefault(url.rsplit("/", 1)[-1].split("-")[0], url)
    return found


def read_part(url: str) -> pa.Table:
    """The rows of a part. Raises IntegrityError when its bytes are not those that its name promises."""
    data = uri.read_bytes(url)
    promised = url.rsplit("-", 1)[-1].removesuffix(".parquet")
    if sha256_hex(data)[:32] != promised:
        raise IntegrityError(
            f"staged part {url}", value=sha256_hex(data)[:32], expected=promised, fix="delete it and run again"
        )
    return parquet.decode(data)


def unfinished(batches: Iterable[Batch], folder: str) -> list[Batch]:
    done = finished(folder)
    return [batch for batch in batches if batch.key not in done]
