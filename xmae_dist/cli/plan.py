"""`xmae plan show`: the window ids that a rank sees at a step, and where they come from."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

from xmae_dist.cli.order_of_run import Order, OrderOptions, order_from
from xmae_dist.core.tables import show, terminal
from xmae_dist.data.order.shuffle_quality import KnownSubjects, ShuffleQuality, shuffle_quality
from xmae_dist.data.store.window_store import Segment

_SAMPLED_PARTS = 32


@dataclass(frozen=True, kw_only=True)
class Args:
    """Show which windows a rank uses at a step, and how well batches are shuffled. No window is read.

    The order depends only on the store, the seed, the global batch, the mixture, --read-windows and --block-steps, so a
    step has the same windows for any number of ranks. Exit status: 0 shown, 2 no such store, run, step or rank.
    """

    action: Annotated[Literal["show", "fingerprint"], tyro.conf.Positional]
    """show: the windows of a step; fingerprint: an identifier of the order."""
    order: tyro.conf.OmitArgPrefixes[OrderOptions]
    step: int = 0
    """First step to show."""
    steps: int = 1
    """Number of steps to show."""
    world: int = 1
    """Number of ranks."""
    rank: int = 0
    """Rank to show."""
    quality: Literal["none", "sample", "all"] = "sample"
    """Whether to show how well batches are shuffled. none: no; sample: estimated from the subjects of a sample of
    parts; all: from the subjects of all parts (reads the subject of every window)."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    order = order_from(args.order)
    if args.action == "fingerprint":
        print(order.plan.fingerprint())
        return 0
    ids_KB = order.plan.ids_of_steps(args.step, args.step + args.steps, args.world, args.rank)
    if args.json:
        print(json.dumps(_document(order, args, ids_KB)))
        return 0
    _show(order, args, ids_KB, terminal())
    return 0


def _document(order: Order, args: Args, ids_KB: np.ndarray) -> dict[str, Any]:
    plan = order.plan
    return {
        "windows": order.store.url,
        "fingerprint": plan.fingerprint(),
        "steps_per_epoch": plan.steps_per_epoch,
        "epoch_windows": plan.epoch_windows,
        "shares": {c.cohort: n for c, n in zip(plan.cohorts, plan.shares, strict=True)},
        "shuffle": asdict(_quality(order, args)) if args.quality != "none" else None,
        "world": args.world,
        "rank": args.rank,
        "steps": [
            {"step": args.step + k, "epoch": plan.epoch_of(args.step + k), "ids": ids_B.tolist()}
            for k, ids_B in enumerate(ids_KB)
        ],
    }


def _show(order: Order, args: Args, ids_KB: np.ndarray, console: Console) -> None:
    plan = order.plan
    mixture = ", ".join(f"{c.cohort} {n:,}" for c, n in zip(plan.cohorts, plan.shares, strict=True))
    console.print(f"order {plan.fingerprint()} over {order.store.url}", soft_wrap=True)
    console.print(
        f"epoch: {plan.epoch_windows:,} windows ({mixture}), {plan.steps_per_epoch:,} steps of {plan.global_batch}"
    )
    if args.quality != "none":
        found = _quality(order, args)
        estimated = "" if found.known_share > 1 - 1e-9 else f", estimated from {found.known_share:.1%} of the windows"
        console.print(
            f"shuffle: {found.subjects:.1f} subjects per batch "
            f"(perfect shuffle: {found.perfect_subjects:.1f}{estimated}), "
            f"{found.cohorts:.1f} of {len(plan.cohorts)} cohorts (perfect shuffle: {found.perfect_cohorts:.1f}); "
            f"a batch draws on {found.stretches} stretches of {found.stretch_windows} windows"
        )
    columns = ("step", "epoch", "cohorts", "window ids")
    rows = []
    for k, ids_B in enumerate(ids_KB):
        cohorts = ", ".join(f"{name} {n}" for name, n in sorted(_cohorts(order, ids_B).items()))
        step = args.step + k
        rows.append((f"{step:,}", str(plan.epoch_of(step)), cohorts, " ".join(map(str, ids_B.tolist()))))
    show(console, f"rank {args.rank} of {args.world}", columns, rows, numbers=("step", "epoch"))


def _quality(order: Order, args: Args) -> ShuffleQuality:
    segments = order.store.segments(order.split)
    chosen = segments if args.quality == "all" else _sample(segments, {c.cohort for c in order.plan.cohorts})
    known = KnownSubjects()
    for one, subjects in zip(chosen, order.store.subjects_of(chosen), strict=True):
        known.add(one.first_id, subjects)
    return shuffle_quality(order.plan, known, np.array([one.first_id for one in segments]))


def _sample(segments: list[Segment], cohorts: set[str]) -> list[Segment]:
    """Parts evenly spaced over each cohort, in order; at least one of each."""
    share = max(1, _SAMPLED_PARTS // max(1, len(cohorts)))
    chosen = []
    for name in sorted(cohorts):
        own = [one for one in segments if one.cohort == name]
        chosen += [own[k] for k in np.unique(np.linspace(0, len(own) - 1, min(len(own), share)).astype(int))]
    return sorted(chosen, key=lambda one: one.first_id)


def _cohorts(order: Order, ids_B: np.ndarray) -> Counter[str]:
    segments = order.store.segments(order.split)
    place_B = np.searchsorted([s.first_id for s in segments], ids_B, side="right") - 1
    return Counter(segments[place].cohort for place in place_B)
