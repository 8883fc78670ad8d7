"""`xmae import-shards`: a window store made of WebDataset tar files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import tyro

from xmae_dist.data.exchange.importing import ForeignConfig, import_shards


@dataclass(frozen=True, kw_only=True)
class Args:
    """Make a window store of WebDataset shards, so that they are trained on in an exact order.

    Shards of `xmae export-shards` give back the windows they came from, ids and order included, in a store of its own
    (never in the place of a corpus's own windows); the options below `json` are for other shards: samples with
    `ppg.npy` and `ecg.npy` of one window each, and `json` that names the subject. Prints the URL of the
    store. The same command again returns at once.
    """

    shards: str
    """URL below which the .tar files lie."""
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
