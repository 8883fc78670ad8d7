"""`xmae export --run URL --out URL`: the encoder of a run as a bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Args:
    """Writes the newest complete checkpoint of a run as a bundle: safetensors, configuration, model card."""

    run: str
    """URL of the run."""
    out: str
    """URL of the bundle to write."""
    step: int | None = None
    """Checkpoint to take. None: the newest complete one."""
    json: bool = False
    """Print the result as JSON."""


def run(args: Args) -> int:
    from xmae_dist.train.export import export

    exported = export(args.run, args.out, step=args.step)
    if args.json:
        print(json.dumps(exported))
    else:
        print(f"bundle {exported['bundle_id']} of step {exported['step']}: {args.out}")
    return 0
