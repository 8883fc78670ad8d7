"""`xmae export-shards`: a window store as WebDataset tar files."""

from __future__ import annotations

import json
from dataclasses import dataclass

from xmae_dist.data.exchange.shards import export_shards
from xmae_dist.data.store.window_store import open_store
from xmae_dist.data.windows.split import SPLITS


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write the windows of a store as WebDataset shards, to hand them to others.

    Each sample holds `ppg.npy` and `ecg.npy` (float16, scaled to [-1, 1]) and `json` (subject, start, qualities,
    labels). `index.json` beside the shards says how the windows were cut and gives a digest per shard. The same
    command again returns at once; one that was stopped goes on. `xmae import-shards` reads them back.
    """

    windows: str
    """URL of the window store (as `xmae windows` prints it)."""
    out: str
    """URL below which the shards are written."""
    corpus: str = ""
    """URL of the corpus that windows are cut from, in a store that keeps none. Not named: where the store was made."""
    splits: tuple[str, ...] = SPLITS
    """Splits to export."""
    shard_windows: int = 8192
    """Most windows in a shard; a shard never holds windows of two cohorts or splits."""
    json: bool = False
    """Print `index.json` instead of a summary."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    index = export_shards(
        open_store(args.windows, args.corpus), args.out, splits=args.splits, shard_windows=args.shard_windows
    )
    if args.json:
        print(json.dumps(index))
    else:
        size_mib = sum(row["bytes"] for row in index["shards"]) / 2**20
        print(f"{index['n_windows']:,} windows in {len(index['shards'])} shards, {size_mib:,.1f} MiB, in {args.out}")
    return 0
