"""`xmae import-shards`: a window store made of WebDataset tar files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import tyro

from xmae_dist.data.exchange.importing import ForeignConfig, import_shards


@dataclass(frozen=True, kw_only=True)
class Args:
    """Create a window store from WebDataset shards, for training in an exact order.

    Shards of `xmae export-shards` become the same windows with the same ids and order, in a separate store (never in
    place of the windows of a corpus). The options below `json` are for other shards: each sample has `ppg.npy` and
    `ecg.npy` of one window, and a `json` that names the subject. Prints the URL of the store. The same command again
    returns at once.
    """

    shards: str
    """URL below which the .tar files are."""
    out: str
    """URL below which window stores are kept."""
    json: bool = False
    """Print one JSON object instead of a summary."""
    foreign: tyro.conf.OmitArgPrefixes[ForeignConfig] = field(default_factory=ForeignConfig)


def run(args: Args) -> int:
    """Carries the command out and returns its exit status: 1 where no window at all was kept."""
    store = import_shards(args.shards, args.out, args.foreign)
    counts = [{"cohort": c, "split": s, "windows": n} for (c, s), n in sorted(store.counts().items())]
    if args.json:
        print(json.dumps({"url": store.url, "windows": store.n_windows, "groups": counts}))
    else:
        for row in counts:
            print(f"{row['cohort']} {row['split']}: {row['windows']:,} windows")
        print(f"{store.n_windows:,} windows in {store.url}")
    return 0 if store.n_windows else 1
