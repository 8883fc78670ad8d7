"""Files into groups, a group to a part: large enough for large objects, small enough to be lost, enough of them to use
all cores.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from xmae_dist.ingest.formats.items import Item

# Splitting below this for the sake of idle cores would make small objects, and save less time than it costs.
SMALLEST_PART_BYTES = 64 * 2**20
# What a file costs besides its bytes (opening, headers, rows) bounds a part of small files: a killed run loses the
# parts it was writing.
MOST_FILES = 1000


def groups(items: Sequence[Item], part_bytes: int, workers: int) -> list[tuple[Item, ...]]:
    """Consecutive items in groups of about equal size, at most about `part_bytes` and `MOST_FILES` items, smaller where
    that keeps all `workers` busy.

    Order is kept and every item is in exactly one group, so the same files give the same parts.
    """
    total = sum(item.bytes for item in items)
    wanted = min(part_bytes, max(SMALLEST_PART_BYTES, -(-total // max(workers, 1))))
    number = max(1, round(total / max(wanted, 1)))
    grouped: list[list[Item]] = [[] for _ in range(number)]
    before = 0
    for item in items:
        # The group in which the item's middle falls when the total is cut into equal lengths.
        middle = before + item.bytes / 2
        grouped[min(number - 1, int(middle * number / max(total, 1)))].append(item)
        before += item.bytes
    return [piece for group in grouped for piece in _pieces(group)]


def _pieces(group: Sequence[Item]) -> list[tuple[Item, ...]]:
    """The group in the fewest pieces of at most `MOST_FILES`, which differ by one item at most."""
    number = -(-len(group) // MOST_FILES)
    edges = [len(group) * at // max(number, 1) for at in range(number + 1)]
    return [tuple(group[start:stop]) for start, stop in itertools.pairwise(edges)]
