"""The samples of WebDataset tar files, checked: signals as arrays, what is known of them as a row of `meta`."""

from __future__ import annotations

import hashlib
import io
import json
import math
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa

from xmae_dist.core.errors import InputError
from xmae_dist.data.store.window_store import MEASURES, META_SCHEMA
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage import uri

_BLOCK = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample of a shard. Signals (L,) by name ("ppg", "ecg"); `meta` is its JSON, {} where it has none."""

    key: str
    signals: dict[str, np.ndarray]
    meta: dict[str, Any]


def samples(tar: IO[bytes], url: str, spec: WindowSpec) -> Iterator[Sample]:
    """The samples of one tar file in their order, read as a stream.

    Raises InputError, naming shard and key, for what is no tar file, a signal that is missing, is no array, or
    has another length than the windows of `spec`.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander  # loads torch where that is installed

    names = ("ecg", "ppg") if spec.paired else ("ppg",)
    found = group_by_keys(tar_file_expander([{"url": url, "stream": tar}]))
    while True:
        try:
            raw = next(found, None)
        except (tarfile.TarError, ValueError) as error:
            raise InputError(
                url, value=f"{type(error).__name__} {error.args[:1]}", expected="a whole tar file"
            ) from error
        if raw is None:
            return
        where = f"sample {raw['__key__']} of {url}"
        signals = {name: _signal(raw, f"{name}.npy", where, spec.length) for name in names}
        yield Sample(key=raw["__key__"], signals=signals, meta=_meta(raw, where))


def _signal(raw: Mapping[str, Any], member: str, where: str, length: int) -> np.ndarray:
    if member not in raw:
        raise InputError(
            where,
            value=f"no .{member}",
            expected=f".{member}",
            fix="see that the shard is whole; --require ppg takes the source alone",
        )
    try:
        array = np.load(io.BytesIO(raw[member]), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(where, value=f".{member}: {error}", expected="a NumPy array") from error
    if array.dtype.kind not in "fiu" or array.size != length or array.shape[-1:] != (length,):
        raise InputError(
            where,
            value=f".{member} with shape {array.shape} of {array.dtype}",
            expected=f"{length} numbers",
            fix="set --window-s and --rate-hz to those of the shards",
        )
    return array.reshape(length)


def _meta(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    try:
        meta = json.loads(raw.get("json", b"{}"))
    except ValueError as error:
        raise InputError(where, value=f".json: {error}", expected="JSON") from error
    if not isinstance(meta, dict):
        raise InputError(where, value=f".json: {type(meta).__name__}", expected="a JSON object")
    numbers = {name: meta[name] for name in (*MEASURES, "start_s", "target_start_s") if meta.get(name) is not None}
    for field, kinds, expected in (("labels", (int, float), "a number"), ("label_text", str, "text")):
        values = meta.get(field) or {}
        if not isinstance(values, dict):
            raise InputError(where, value=f".json: {field} is {values!r}", expected="names with values")
        _check_kinds(values, kinds, expected, where)
    _check_kinds(numbers, (int, float), "a number", where)
    return meta


def _check_kinds(values: Mapping[str, Any], kinds: Any, expected: str, where: str) -> None:
    for name, value in values.items():
        if not isinstance(value, kinds):
            raise InputError(where, value=f".json: {name} is {value!r}", expected=expected)


def meta_table(rows: list[dict[str, Any]]) -> pa.Table:
    """`meta.parquet` of samples; each row holds the JSON of one. Measures that are not known are NaN."""
    return pa.Table.from_pylist([_meta_row(row) for row in rows], schema=META_SCHEMA)


def _meta_row(meta: Mapping[str, Any]) -> dict[str, Any]:
    measures = {name: math.nan if meta.get(name) is None else float(meta[name]) for name in MEASURES}
    named = {name: meta.get(name) for name in ("subject_id", "recording_id", "cohort", "start_s")}
    named |= {
        "arrival_time_absolute": bool(meta.get("arrival_time_absolute", True)),
        "target_recording_id": meta.get("target_recording_id"),
        "target_start_s": meta.get("target_start_s"),
    }
    labels, texts = meta.get("labels"), meta.get("label_text")
    if labels is None and texts is None:  # not ours: its own fields are the labels
        known = {*measures, *named, "window_id", "split"}
        own = {name: value for name, value in meta.items() if name not in known}
        labels = {name: value for name, value in own.items() if isinstance(value, (int, float))}
        texts = {name: value for name, value in own.items() if isinstance(value, str)}
    return {
        **named,
        **measures,
        "labels": [(name, float(value)) for name, value in sorted((labels or {}).items())],
        "label_text": sorted((texts or {}).items()),
    }


def digest_of_object(url: str) -> str:
    """SHA-256 of an object of any size."""
    fs, path = uri.filesystem(url)
    digest = hashlib.sha256()
    with uri.storage_errors(url), fs.open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
