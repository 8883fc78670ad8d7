"""Recordings of withdrawn people out of the reports of ingests, which name every recording that they took in.

What recognises files of theirs stays: the list of the withdrawn, and the register of what was taken in.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from xmae_dist.storage import uri

_LISTS = ("kept", "rejected", "left_out")


def forget_outcomes(corpus_url: str, recordings: Collection[tuple[str, str]]) -> int:
    """Takes what became of `recordings` (cohort, name) out of the reports of a corpus; returns how many reports were
    written again. Counts in them stay. Every report is read; one is held at a time.
    """
    root = uri.join(corpus_url, "reports", "ingest")
    by_cohort: dict[str, set[str]] = {}
    for cohort, name in recordings:
        by_cohort.setdefault(cohort, set()).add(name)
    written = 0
    for url in uri.list_urls(root, recursive=True):
        names = by_cohort.get(url.removeprefix(root).lstrip("/").split("/")[0], set())
        data = uri.read_bytes(url) if names else b""
        after = _lines_without(data, names) if url.endswith(".jsonl") else _report_without(data, names)
        if after != data:
            uri.write_bytes(url, after)
            written += 1
    return written


def _lines_without(data: bytes, names: Collection[str]) -> bytes:
    """Without the outcomes of `names`; the first line is the header."""
    lines = data.splitlines(keepends=True)
    return b"".join(line for at, line in enumerate(lines) if at == 0 or json.loads(line)["name"] not in names)


def _report_without(data: bytes, names: Collection[str]) -> bytes:
    if not data:
        return data
    report: dict[str, Any] = json.loads(data)
    lists = {key: [one for one in report[key] if one["name"] not in names] for key in _LISTS if key in report}
    groups = [[name for name in group if name not in names] for group in report.get("same", ())]
    same = {"same": [group for group in groups if group]} if "same" in report else {}
    after = {**report, **lists, **same}
    return data if after == report else json.dumps(after, indent=1, allow_nan=False).encode()
