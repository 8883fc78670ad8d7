"""JSON schemas of what format v1 stores, made from the classes that define it.

`python -m xmae_dist.storage.schema storage/schemas` writes them; a test fails where the files and classes differ.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xmae_dist.storage.corpus import FORMAT
from xmae_dist.storage.index import IndexRow, Span
from xmae_dist.storage.shard_writer import ARRAY_FORMAT
from xmae_dist.storage.zarr_store import ChannelAttributes

_TYPES: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    int | None: {"type": ["integer", "null"]},
    Sequence[Span]: {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"start": {"type": "integer"}, "stop": {"type": "integer"}},
            "required": ["start", "stop"],
        },
    },
    Mapping[str, float]: {"type": "object", "additionalProperties": {"type": "number"}},
    Mapping[str, str]: {"type": "object", "additionalProperties": {"type": "string"}},
}


def documents() -> dict[str, dict[str, Any]]:
    """File name → JSON schema."""
    attributes = _schema(ChannelAttributes, "Attributes of a channel array", open_ended=True)
    attributes["properties"] |= {"format": {"const": ARRAY_FORMAT}, "kind": {"const": "channel"}}
    attributes["required"] = ["format", "kind", *attributes["required"]]
    return {
        "corpus.json": _marker("corpus.json at the root of a corpus", FORMAT, "id", "created_s"),
        "part.json": _marker("part.json: claim of the writer of a part", "xmae-part/v1", "writer", "created_s"),
        "index-row.json": _schema(IndexRow, "A row of the corpus index", open_ended=False),
        "channel-attributes.json": attributes,
    }


def _schema(cls: Any, title: str, *, open_ended: bool) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": {one.name: {**_TYPES[hints[one.name]], "description": one.metadata["doc"]} for one in fields},
        "required": [one.name for one in fields],
        "additionalProperties": open_ended,
    }


def _marker(title: str, format_name: str, identity: str, created: str) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": {
            "format": {"const": format_name},
            identity: {"type": "string", "description": "random, 32 hexadecimal digits"},
            created: {"type": "number", "description": "seconds since 1970 by the writer's clock"},
        },
        "required": ["format", identity, created],
    }


def text(document: dict[str, Any]) -> str:
    """The exact content of a schema file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, document in documents().items():
        (Path(folder) / name).write_text(text(document), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
