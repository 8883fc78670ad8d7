"""`xmae windows`: cuts a corpus snapshot into aligned, cleaned windows and says what was kept and what was
not.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console

from xmae_dist.core.tables import show, terminal
from xmae_dist.data.store.kept import KeptGroup
from xmae_dist.data.store.materialise import StoreConfig, materialise, missing_channel_hint
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.data.windows.withdrawn import check_allow_withdrawn
from xmae_dist.storage.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class Args:
    """Cut aligned, cleaned windows out of a corpus snapshot into a window store.

    The name of the store, below --out, is computed from the snapshot and all options that follow: the same command
    again finds the store and returns at once. Prints its URL, and the windows kept and dropped by cohort, split and
    reason. For a cohort with PPG alone use `--require ppg`.
    """

    corpus: str
    """URL of the corpus."""
    out: str
    """URL below which window stores are kept."""
    snapshot: int | None = None
    """Version of the corpus; the newest if not given."""
    allow_withdrawn: bool = False
    """Allow an old snapshot with subjects that were withdrawn later."""
    cohorts: tuple[str, ...] = ()
    """Cohorts to use; all if none is given."""
    chunk_windows: int = 64
    """Windows in a chunk, the unit of reading and of the block shuffle."""
    on_the_fly: bool = False
    """Store only the positions of windows; they are cut from the recordings when they are read."""
    tasks: int | None = None
    """Number of parts written at once; the number of CPUs if not given. The result is the same."""
    by: tuple[str, ...] = ()
    """Labels for which the share of windows kept is shown by value, because the quality threshold may remove some
    rhythms more than others. If none is given: rhythm, af, ectopy_per_min and frequent_ectopy, if present."""
    json: bool = False
    """Print one JSON object instead of tables."""
    spec: WindowSpec = field(default_factory=WindowSpec)
    split: SplitConfig = field(default_factory=SplitConfig)


def run(args: Args) -> int:
    """Carries the command out and returns its exit status: 1, and no store, where no window at all was kept."""
    check_allow_withdrawn(allow_withdrawn=args.allow_withdrawn, on_the_fly=args.on_the_fly)
    config = StoreConfig(
        spec=args.spec,
        split=args.split,
        cohorts=args.cohorts,
        chunk_windows=args.chunk_windows,
        on_the_fly=args.on_the_fly,
    )
    store = materialise(
        args.corpus,
        args.out,
        config,
        version=args.snapshot,
        tasks=args.tasks,
        allow_withdrawn=args.allow_withdrawn,
    )
    if args.json:
        print(json.dumps(_summary(store, args.by)))
    else:
        _show(store, terminal(), args.by)
        hint = missing_channel_hint(_channels(args), store.spec, store.dropped().values())
        if hint is not None:
            terminal().print(f"note: {hint}", soft_wrap=True)
    return 0


def _channels(args: Args) -> set[str]:
    snapshot = Corpus.open(args.corpus).snapshot(args.snapshot, allow_withdrawn=args.allow_withdrawn)
    taken = args.cohorts or tuple(snapshot.contents)
    return {channel for name in taken for channel in snapshot.contents[name].channels}


def _summary(store: WindowStore, by: tuple[str, ...]) -> dict[str, Any]:
    counts = store.counts()
    return {
        "url": store.url,
        "fingerprint": store.fingerprint,
        "windows": store.n_windows,
        "groups": [
            {"cohort": cohort, "split": split, "kept": counts.get((cohort, split), 0), "dropped": reasons}
            for (cohort, split), reasons in store.dropped().items()
        ],
        "kept_by_label": [asdict(group) | {"kept_share": group.kept_share} for group in store.kept(by)],
    }


def _show(store: WindowStore, console: Console, by: tuple[str, ...]) -> None:
    counts = store.counts()
    columns = ("cohort", "split", "kept", "hours", "dropped", "by reason")
    rows = []
    for (cohort, split), reasons in store.dropped().items():
        kept = counts.get((cohort, split), 0)
        # Overlapping windows share samples: hours are those covered at least once, near enough.
        hours = kept * min(store.spec.stride_s, store.spec.window_s) / 3600
        by_reason = ", ".join(f"{name} {n}" for name, n in sorted(reasons.items(), key=lambda item: -item[1]))
        rows.append((cohort, split, f"{kept:,}", f"{hours:.1f}", f"{sum(reasons.values()):,}", by_reason))
    show(console, "Windows", columns, rows, numbers=("kept", "hours", "dropped"))
    if groups := store.kept(by):
        shares_of = ("recordings", "people", "kept", "low quality", "other")
        shares = list(map(_shares, groups))
        show(console, "Kept, by label", ("label", "value", *shares_of), shares, numbers=shares_of)
    console.print(f"{store.n_windows:,} windows in {store.url}", soft_wrap=True)


def _shares(group: KeptGroup) -> tuple[str, ...]:
    possible = max(group.kept + group.low_quality + group.other, 1)
    shares = (f"{n / possible:.1%}" for n in (group.kept, group.low_quality, group.other))
    return group.label, group.group, f"{group.recordings:,}", f"{group.subjects:,}", *shares
