"""`xmae export-shards`: a window store as WebDataset tar files."""

from __future__ import annotations

import json
from dataclasses import dataclass

from xmae_dist.data.exchange.shards import export_shards
from xmae_dist.data.store.window_store import open_store
from xmae_dist.data.windows.split import SPLITS


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write the windows of a store as WebDataset shards, for other programs.

    Each sample holds `ppg.npy` and `ecg.npy` (float16, scaled to [-1, 1]) and `json` (cohort, recording, subject,
    start, qualities, labels). `index.json` states the window specification and a digest of each shard. The same command
    again returns at once; a stopped one continues. `xmae import-shards` reads the shards.
    """

    windows: str
    """URL of the window store (as `xmae windows` prints it)."""
    out: str
    """URL below which the shards are written."""
    corpus: str = ""
    """URL of the corpus, for a store made with --on-the-fly. Empty: the corpus that the store was made from."""
    splits: tuple[str, ...] = SPLITS
    """Splits to export."""
    shard_windows: int = 8192
    """Largest number of windows in a shard. A shard has windows of one cohort and one split."""
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
