"""Window store -> WebDataset shards: tar files that others can train on without this package.

    <url>/<cohort>/<split>/<part>-0000.tar        samples in the order of their window ids
        000000000042.ecg.npy, .ppg.npy            float16 (L,) in [-1, 1], as stored
        000000000042.json                         where the window comes from, qualities, labels
    <url>/<cohort>/<split>/<part>-0000.tar.json   the shard's row of the index; it says that the shard is complete
    <url>/index.json                              specification, snapshot, order, and a row with the digest per shard

The bytes of a shard depend on the store and `shard_windows` alone, so an export that died is continued, and
one that is asked for again is found. `index.json` is written last. `shard_import` reads them back.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xmae_dist.core.errors import ConfigError, InputError, StorageError
from xmae_dist.core.fingerprint import canonical_json, digest_json, sha256_hex
from xmae_dist.core.progress import progress
from xmae_dist.data.store.window_store import FORMAT, WindowStore, part_path
from xmae_dist.data.stream.direct import RetryConfig, read_with_retries
from xmae_dist.data.windows.split import SPLITS
from xmae_dist.storage import uri

SHARDS_FORMAT = "xmae-shards/v1"
ORDER = "ascending window id: split (train, val, test), cohort, part, then as cut"
_KEY_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """One tar file: windows [first_id, first_id + n_windows) of the store, all of one part."""

    path: str
    cohort: str
    split: str
    part: str
    first_id: int
    n_windows: int


def export_shards(
    store: WindowStore, url: str, *, splits: Sequence[str] = SPLITS, shard_windows: int = 8192
) -> dict[str, Any]:
    """Write the windows of `splits` as shards below `url` and return `index.json`.

    Raises ConfigError for a size below 1, InputError where the splits hold no window, StorageError where another
    export lies at `url`, IntegrityError for damaged windows.
    """
    if shard_windows < 1:
        raise ConfigError("shard_windows", value=shard_windows, expected="1 or more")
    url = uri.checked_place(url)
    uri.probe(url)
    shards = list(_shards_of(store, splits, shard_windows))
    if not shards:
        raise InputError(store.url, value="no windows", expected=f"windows in {', '.join(splits)}")
    content: dict[str, Any] = {
        "format": SHARDS_FORMAT,
        "store": _told(store),
        "splits": sorted(set(splits), key=SPLITS.index),
        "order": ORDER,
        "shard_windows": shard_windows,
    }
    content["fingerprint"] = digest_json(content)
    found = _found_index(url, content["fingerprint"])
    if found is not None:
        return found
    index = {**content, "shards": list(_written(store, url, shards))}
    index["n_windows"] = sum(row["n_windows"] for row in index["shards"])
    index["parts"] = [row for row in store.part_rows() if row["split"] in splits]
    uri.write_bytes(uri.join(url, "index.json"), canonical_json(index))
    return index


def _told(store: WindowStore) -> dict[str, Any]:
    """`store.json` without how and where the store is kept: shards hold the signals, whether the store does or not."""
    kept = ("on_the_fly", "corpus", "places", "index", "shard_windows")
    return {name: value for name, value in store.document.items() if name not in kept} | {"format": FORMAT}


def read_index(url: str) -> dict[str, Any] | None:
    """The `index.json` below `url`, None where there is none or it is not ours."""
    index_url = uri.join(url, "index.json")
    if not uri.exists(index_url):
        return None
    try:
        index = json.loads(uri.read_bytes(index_url), parse_constant=_no_number)
    except ValueError:
        return None
    return index if isinstance(index, dict) and index.get("format") == SHARDS_FORMAT else None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _found_index(url: str, fingerprint: str) -> dict[str, Any] | None:
    index = read_index(url)
    if index is not None and index["fingerprint"] != fingerprint:
        raise StorageError(
            url,
            value=f"another export ({index['fingerprint']}; this one is {fingerprint})",
            expected="an empty place, or the same export",
            fix="choose another URL",
        )
    return index


def _shards_of(store: WindowStore, splits: Sequence[str], shard_windows: int) -> Iterator[_Shard]:
    for split in sorted(set(splits), key=SPLITS.index):
        for segment in store.segments(split):
            for number, start in enumerate(range(0, segment.n, shard_windows)):
                yield _Shard(
                    path=f"{part_path(segment.cohort, split, segment.part).partition('/')[2]}-{number:04d}.tar",
                    cohort=segment.cohort,
                    split=split,
                    part=segment.part,
                    first_id=segment.first_id + start,
                    n_windows=min(shard_windows, segment.n - start),
                )


def _written(store: WindowStore, url: str, shards: list[_Shard]) -> Iterator[dict[str, Any]]:
    with progress("export", sum(shard.n_windows for shard in shards), "windows") as shown:
        for shard in shards:
            row_url = uri.join(url, shard.path + ".json")
            row = json.loads(uri.read_bytes(row_url)) if uri.exists(row_url) else {}
            wanted = {**vars(shard), "store": store.fingerprint}
            if {name: row.get(name) for name in wanted} != wanted:
                data = _tar(store, shard)
                row = {**wanted, "bytes": len(data), "sha256": sha256_hex(data)}
                uri.write_bytes(uri.join(url, shard.path), data)
                uri.write_bytes(row_url, canonical_json(row))
            shown.advance(shard.n_windows, shard.path)
            yield row


def _tar(store: WindowStore, shard: _Shard) -> bytes:
    """The shard's bytes, the same each time: fixed times, owners and order."""
    import webdataset  # loads torch where that is installed, which only this needs

    ids_B = np.arange(shard.first_id, shard.first_id + shard.n_windows)
    ecg_BL, ppg_BL = read_with_retries(store, ids_B, RetryConfig())
    out = io.BytesIO()
    # Whole seconds: a fraction would cost every member a PAX header of its own.
    with webdataset.TarWriter(out, encoder=False, mtime=0, user="xmae", group="xmae") as tar:
        for i, meta in enumerate(store.meta(ids_B).to_pylist()):
            sample = {"__key__": f"{ids_B[i]:0{_KEY_DIGITS}d}", "ppg.npy": _npy(ppg_BL[i]), "json": _json(meta)}
            if ecg_BL is not None:
                sample["ecg.npy"] = _npy(ecg_BL[i])
            tar.write(sample)
    return out.getvalue()


def _npy(signal_L: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, signal_L.astype("<f2", copy=False))
    return out.getvalue()


def _json(meta: dict[str, Any]) -> bytes:
    """JSON knows no NaN: what is not known is null, and a label without a value is left out."""
    plain = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in meta.items()}
    plain["labels"] = {name: v for name, v in meta["labels"] or () if v is not None and math.isfinite(v)}
    plain["label_text"] = dict(meta["label_text"] or ())
    return canonical_json(plain)
