"""`xmae audit --subject S`: which steps saw a person, without having kept any record of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro

from xmae_dist.cli.order_of_run import Order, OrderOptions, order_from
from xmae_dist.core.errors import InputError
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """List the training steps that used a subject, and with --run the checkpoints that came after.

    The options determine the order of windows, so the steps are computed, not read from a log. Exit status: 0 listed
    (also if the subject is held out and no step used it), 2 no such subject, store or run.
    """

    subject: str
    """Subject id, as in the corpus index."""
    order: tyro.conf.OmitArgPrefixes[OrderOptions]
    steps: int | None = None
    """Number of steps to search, from step 0. None: all steps of the run, or one epoch."""
    json: bool = False
    """Print every step with the ids of the windows used."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    order = order_from(args.order)
    split, ids_B = _windows_of(order, args.subject)
    document = {"subject": args.subject, **_seen(order, split, ids_B, args.steps)}
    if args.order.run is not None:
        document["checkpoints"] = _after_first_step(args.order.run, document)
    print(json.dumps(document) if args.json else _told(document))
    return 0


def checkpoints_that_saw(run_url: str, subject: str) -> dict[str, Any]:
    """Of a pretraining run: how often it saw a subject, at how many of its steps, and the complete checkpoints that it
    has from after the first of these. Raises what `order_from` raises.
    """
    order = order_from(OrderOptions(run=run_url))
    split, ids_B = order.store.windows_of(subject) or ("", np.empty(0, np.int64))
    document = _seen(order, split, ids_B, None)
    return {
        "run": uri.normalise(run_url),
        "seen_windows": document["seen_windows"],
        "steps": len(document["steps"]),
        "checkpoints": _after_first_step(run_url, document),
    }


def _seen(order: Order, split: str, ids_B: np.ndarray, steps: int | None) -> dict[str, Any]:
    steps = steps or order.steps or order.plan.steps_per_epoch
    position_B, seen_B = _positions(order, ids_B if split == order.split else ids_B[:0], steps)
    step_B = position_B // order.plan.global_batch
    return {
        "split": split,
        "trained_on": order.split,
        "windows": int(ids_B.size),
        "looked_through_steps": steps,
        "seen_windows": int(seen_B.size),
        "steps": [{"step": int(step), "ids": seen_B[step_B == step].tolist()} for step in np.unique(step_B)],
    }


def _after_first_step(run_url: str, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Complete checkpoints, oldest first; the one of step n holds steps 0 to n - 1."""
    from xmae_dist.train.checkpoints.checkpoint import list_checkpoints  # needs torch, which an order does not

    first = min((row["step"] for row in document["steps"]), default=None)
    return [
        {"step": one.step, "url": one.url}
        for one in reversed(list_checkpoints(uri.normalise(run_url)))
        if first is not None and one.complete and one.step > first
    ]


def _windows_of(order: Order, subject: str) -> tuple[str, np.ndarray]:
    found = order.store.windows_of(subject)
    if found is not None:
        return found
    raise InputError(
        "--subject",
        value=subject,
        expected=f"a subject with windows in {order.store.url}",
        fix="check the id (`subject_id` of the corpus index); a subject whose windows were all dropped has none",
    )


def _positions(order: Order, ids_B: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    plan = order.plan
    end = steps * plan.global_batch
    found = [plan.positions_of(ids_B, epoch) for epoch in range(-(-end // plan.epoch_windows))]
    position_B = np.concatenate([positions for positions, _ in found])
    seen_B = np.concatenate([ids for _, ids in found])
    return position_B[position_B < end], seen_B[position_B < end]


def _told(document: dict[str, Any]) -> str:
    head = f"subject {document['subject']}: {document['windows']} windows, split {document['split']}"
    if document["split"] != document["trained_on"]:
        return f"{head}: held out, no step saw any of them"
    steps = [row["step"] for row in document["steps"]]
    listed = " ".join(map(str, steps))
    saved = [str(row["step"]) for row in document.get("checkpoints", ())]
    checkpoints = f"\ncheckpoints that saw them: {' '.join(saved) or 'none'}" if "checkpoints" in document else ""
    return (
        f"{head}\nseen {document['seen_windows']} times at {len(steps)} of "
        f"{document['looked_through_steps']} steps:\n{listed}{checkpoints}"
    )
