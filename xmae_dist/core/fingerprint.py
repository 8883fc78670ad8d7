"""Content fingerprints: the same meaning gives the same short string on every machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def canonical_json(value: Any) -> bytes:
    """`value` (dataclasses, mappings, sequences, scalars) as JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no canonical form: {value!r}")


def digest_json(value: Any, length: int = 16) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:length]


def sha256_hex(data: bytes | bytearray | memoryview | np.ndarray) -> str:
    """SHA-256 of raw bytes; an array is hashed in C order and little-endian, whatever the machine."""
    if isinstance(data, np.ndarray):
        little = data.astype(data.dtype.newbyteorder("<"), copy=False)
        data = np.ascontiguousarray(little).reshape(-1).view(np.uint8).data if little.size else b""
    return hashlib.sha256(data).hexdigest()
