"""`index.json` of shards, checked: it may come from a stranger, and its names become paths and its claims an order.

Nothing in it is believed that can be worked out: the fingerprint of the store that shards become is made here, of what
is imported, so that no index can make an import answer to the fingerprint of a corpus's own windows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.data.exchange.shards import SHARDS_FORMAT
from xmae_dist.data.store.window_store import FORMAT, part_path
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SPLITS
from xmae_dist.storage.part import checked_name

_NOT_OF_THE_EXPORT = ("fingerprint", "shards", "n_windows", "parts")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def checked_index(index: Mapping[str, Any], url: str) -> dict[str, Any]:
    """`index` if every name in it can be one level of a key and every number counts something.

    Raises InputError naming what is wrong, IntegrityError where the index is not the one that was written.
    """
    where = f"index.json of {url}"
    for name, kind in (("store", dict), ("splits", list), ("shards", list), ("parts", list), ("n_windows", int)):
        _require(isinstance(index.get(name), kind), where, name, index.get(name), f"a {kind.__name__}")
    content = {name: value for name, value in index.items() if name not in _NOT_OF_THE_EXPORT}
    if index.get("fingerprint") != digest_json(content):
        raise IntegrityError(
            where,
            value=f"fingerprint {str(index.get('fingerprint'))[:40]!r}",
            expected=f"{digest_json(content)}, which is that of its content",
            fix="export or copy the shards again",
        )
    _check_store(index["store"], where)
    for row in (*index["parts"], *index["shards"]):
        _check_place(row, where)
    for row in index["parts"]:
        _check_dropped(row.get("dropped"), where)
    for row in index["shards"]:
        _check_shard(row, where)
    _require(set(index["splits"]) <= set(SPLITS), where, "splits", index["splits"], f"some of {', '.join(SPLITS)}")
    total = sum(row["n_windows"] for row in index["shards"])
    _require(index["n_windows"] == total, where, "n_windows", index["n_windows"], f"{total}, the sum of its shards")
    return dict(index)


def imported_document(index: Mapping[str, Any]) -> dict[str, Any]:
    """`store.json` of the store that checked shards become: the same for the same shards, and no other store's.

    Its snapshot is the shards' own. What the index says of the first store is kept as `imported`, and decides nothing.
    """
    source = index["store"]
    shards = [[row["path"], row["sha256"]] for row in index["shards"]]
    snapshot = {"fingerprint": digest_json([SHARDS_FORMAT, index["fingerprint"], shards]), "version": 0}
    content = {
        **{name: source.get(name) for name in ("format", "algorithm", "spec", "split", "chunk_windows")},
        "snapshot": snapshot,
        "imported": {name: source.get(name) for name in ("fingerprint", "snapshot")} | {"splits": index["splits"]},
    }
    return {**content, "fingerprint": digest_json(content)}


def _check_store(store: Mapping[str, Any], where: str) -> None:
    _require(store.get("format") == FORMAT, where, "store.format", store.get("format"), FORMAT)
    for name in ("spec", "split"):
        _require(isinstance(store.get(name), dict), where, f"store.{name}", store.get(name), "an object")
    try:
        WindowSpec.from_dict(store["spec"])
    except (TypeError, ValueError) as error:
        _require(False, where, "store.spec", error, "a window specification")
    _require(
        _counts(store.get("chunk_windows"), 1), where, "store.chunk_windows", store.get("chunk_windows"), "1 or more"
    )


def _check_place(row: Mapping[str, Any], where: str) -> None:
    _require(isinstance(row, dict), where, "a row", row, "an object")
    for kind in ("cohort", "part"):
        checked_name(f"{where}: {kind}", str(row.get(kind)))
    _require(row.get("split") in SPLITS, where, "split", row.get("split"), f"one of {', '.join(SPLITS)}")
    for name in ("n_windows", "n_recordings", "n_subjects"):
        _require(_counts(row.get(name, 0), 0), where, name, row.get(name), "0 or more")


def _check_dropped(dropped: object, where: str) -> None:
    whole = isinstance(dropped, dict) and all(_counts(count, 0) for count in dropped.values())
    _require(whole, where, "dropped", dropped, "reasons with counts")


def _check_shard(row: Mapping[str, Any], where: str) -> None:
    stem = part_path(row["cohort"], row["split"], row["part"]).partition("/")[2]
    named = isinstance(row.get("path"), str) and re.fullmatch(re.escape(stem) + r"-\d{4,}\.tar", row["path"])
    _require(bool(named), where, "path", row.get("path"), f"{stem}-0000.tar or a later number")
    digest = row.get("sha256")
    _require(isinstance(digest, str) and bool(_SHA256.fullmatch(digest)), where, "sha256", digest, "64 hex digits")


def _counts(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _require(right: bool, where: str, name: str, value: object, expected: str) -> None:
    if not right:
        raise InputError(
            where,
            value=f"{name}: {str(value)[:80]!r}",
            expected=expected,
            fix="do not use these shards if you do not trust their maker; else export them again",
        )
