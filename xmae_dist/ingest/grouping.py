"""Files into groups, a group to a part: large enough for large objects, small enough to be lost, enough of them to use
all cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from xmae_dist.ingest.formats.items import Item

# Splitting below this for the sake of idle cores would make small objects, and save less time than it costs.
SMALLEST_PART_BYTES = 64 * 2**20
# What a file costs besides its bytes (opening, headers, rows) bounds a part of small files: a killed run loses the
# parts it was writing.
MOST_FILES = 1000


def groups(items: Iterable[Item], total_bytes: int, part_bytes: int, workers: int) -> Iterator[tuple[Item, ...]]:
    """Consecutive items in groups of about equal size, at most about `part_bytes` and `MOST_FILES` items, smaller where
    that keeps all `workers` busy. `total_bytes` is the size of all items together.

    Order is kept and every item is in exactly one group; one group is in memory at a time.
    """
    wanted = min(part_bytes, max(SMALLEST_PART_BYTES, -(-total_bytes // max(workers, 1))))
    number = max(1, round(total_bytes / max(wanted, 1)))
    group: list[Item] = []
    before, current = 0, 0
    for item in items:
        # The group in which the item's middle falls when the total is cut into equal lengths.
        middle = before + item.bytes / 2
        at = min(number - 1, int(middle * number / max(total_bytes, 1)))
        if group and (at != current or len(group) == MOST_FILES):
            yield tuple(group)
            group = []
        group.append(item)
        before, current = before + item.bytes, at
    if group:
        yield tuple(group)
