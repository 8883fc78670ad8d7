"""What a request leaves for its workers, and what these leave of what they finished, so that a killed job goes on.

    <table>/_staging/<request>/begun.json           what is asked for
    <table>/_staging/<request>/tasks/<key>.parquet  recordings of a batch; recordings to take away
    <table>/_staging/<request>/done/<key>.json      facts of what was finished

The rows themselves lie in the table already, named by no commit. Facts are put once: of two workers that finish the
same (a retry after a lost node), the first counts, and the file of the other is swept later (`embed.sweep`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from xmae_dist.core.errors import IntegrityError
from xmae_dist.core.fingerprint import canonical_json
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.file_actions import DataFile

FORMAT = "xmae-embedding-facts/v1"
_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What came of a batch of recordings, or of a file that held recordings to take away."""

    key: str
    add: DataFile | None
    """The file that was written; None for no rows."""
    remove: DataFile | None = None
    """The file that it takes the place of."""
    windows: tuple[int, ...] = ()
    """Of each recording of the batch, in its order."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Windows that were left out, by reason."""
    recordings_removed: int = 0

    def to_json(self) -> bytes:
        return canonical_json({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes) -> Facts:
        document: dict[str, Any] = json.loads(data)
        document.pop("format")
        files = {name: DataFile(**document[name]) if document[name] else None for name in ("add", "remove")}
        return cls(**{**document, **files, "windows": tuple(document["windows"])})


def begin(folder: str, told: dict[str, Any]) -> None:
    """Says that a job is at work on this request, from now on."""
    uri.write_bytes(uri.join(folder, "begun.json"), canonical_json(told))


def put_work(folder: str, key: str, rows: pa.Table) -> str:
    """Leaves rows for a worker and returns their URL."""
    url = uri.join(folder, "tasks", f"{key}.parquet")
    uri.write_bytes(url, parquet.encode(rows))
    return url


def read_work(url: str) -> pa.Table:
    return parquet.decode(uri.read_bytes(url))


def put_facts(folder: str, facts: Facts) -> Facts:
    """Leaves the facts of what was finished, unless another worker had finished it; returns those that count."""
    url = _facts_url(folder, facts.key)
    return facts if uri.create_exclusively(url, facts.to_json()) else Facts.from_json(uri.read_bytes(url))


def finished(folder: str) -> set[str]:
    """The keys of what was finished."""
    return {url.rsplit("/", 1)[-1].removesuffix(".json") for url in uri.list_urls(uri.join(folder, "done"))}


def read_facts(folder: str, keys: list[str]) -> Iterator[Facts]:
    """The facts of all `keys`, in their order, a request each, some at a time. Raises IntegrityError where some are
    missing.
    """
    lacking = sorted(set(keys) - finished(folder))
    if lacking:
        raise IntegrityError(
            f"request {folder}", value=f"no result of {len(lacking)} batches, such as {lacking[0]}",
            expected="a result of every batch", fix="run again; nothing was committed",
        )  # fmt: skip
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="embed-facts") as pool:
        yield from pool.map(lambda key: Facts.from_json(uri.read_bytes(_facts_url(folder, key))), keys)


def _facts_url(folder: str, key: str) -> str:
    return uri.join(folder, "done", f"{key}.json")
