"""Manifests of tables of format v1: `<table>/_requests/<lineage>/<generation>-<request>.json`, read and never written.

Each lists every recording that the table held of a lineage after one commit: its content, and its number of windows. It
counts only when the table's log names its request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from xmae_dist.core.errors import IntegrityError
from xmae_dist.embed.positions import Position
from xmae_dist.embed.request import Lineage
from xmae_dist.storage import uri

_NAME = re.compile(r"([0-9]+)-([0-9a-f]+)\.json")


def rows(table_url: str, lineage: Lineage, position: Position) -> Iterator[pa.RecordBatch]:
    """What a lineage holds that is at `position`: lineage, recording_id, content, windows, generation, request, parent.

    A job of the next generation that died may have removed already what it would have replaced or left out: of these
    recordings the content is not known (""). About 300 bytes a recording are held, as the format wants it.
    Raises IntegrityError where the manifest is missing.
    """
    generation = position.generation
    documents = dict(_documents(table_url, lineage, position))
    if generation not in documents:
        raise IntegrityError(
            f"embedding table {table_url}",
            value=f"no manifest for generation {generation} of cohort {lineage.cohort}",
            expected=f"one in _manifests, or under _requests/{lineage.id}",
            fix="restore these folders from a copy; the table's rows are not affected",
        )
    state, begun = documents[generation], documents.get(generation + 1, [])
    for document in state:
        yield _batch(document, begun, lineage)


def _documents(table_url: str, lineage: Lineage, position: Position) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The manifest of a generation, and those of jobs that had begun the next."""
    found: dict[int, list[dict[str, Any]]] = {}
    for url in uri.list_urls(uri.join(table_url, "_requests", lineage.id)):
        named = _NAME.fullmatch(url.rsplit("/", 1)[-1])
        if named is None:
            continue  # not ours: a note, a copy, what a file manager leaves
        number, request = int(named.group(1)), named.group(2)
        if (number, request) == (position.generation, position.request) or number == position.generation + 1:
            found.setdefault(number, []).append(json.loads(uri.read_bytes(url)))
    yield from found.items()


def _batch(state: dict[str, Any], begun: list[dict[str, Any]], lineage: Lineage) -> pa.RecordBatch:
    names = list(state["contents"])
    contents = [
        digest if all(one["contents"].get(name) == digest for one in begun) else ""
        for name, digest in state["contents"].items()
    ]
    n = len(names)
    columns: dict[str, pa.Array] = {
        "lineage": pa.array([lineage.id] * n, pa.string()),
        "recording_id": pa.array(names, pa.string()),
        "content": pa.array(contents, pa.string()),
        "windows": pa.array([state["windows"][name] for name in names], pa.int64()),
        "generation": pa.array([state["generation"]] * n, pa.int64()),
        "request": pa.array([state["request"]] * n, pa.string()),
        "parent": pa.nulls(n, pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns)
