"""`xmae export --run URL --out URL`: the encoder of a run as a bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Args:
    """Writes a checkpoint of a run, its last if not told otherwise, as a bundle: safetensors, configuration, model
    card. A run that has not stored its last step needs --step or --best."""

    run: str
    """URL of the run."""
    out: str
    """URL of the bundle to write."""
    step: int | None = None
    """Checkpoint to take. None: the last of the run."""
    best: bool = False
    """Take the checkpoint with the least masked error on held-out subjects."""
    readout: str = ""
    """How the encoder's tokens become an embedding: mean, mean_std, extremes, quantiles, spectrum (docs/model.md).
    Empty: what the model is usually read by. Everything that uses the bundle uses its readout."""
    json: bool = False
    """Print the result as JSON."""


def run(args: Args) -> int:
    from xmae_dist.train.checkpoints.export import export

    exported = export(args.run, args.out, step=args.step, best=args.best, readout=args.readout)
    if args.json:
        print(json.dumps(exported))
    else:
        print(f"bundle {exported['bundle_id']} of step {exported['step']}: {args.out}")
    return 0
