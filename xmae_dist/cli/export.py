"""`xmae export --run URL --out URL`: the encoder of a run as a bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write a checkpoint of a run as a bundle: safetensors, configuration, model card. Uses the last step; a run that
    has not stored its last step needs --step or --best."""

    run: str
    """URL of the run."""
    out: str
    """URL of the bundle to write."""
    step: int | None = None
    """Step of the checkpoint. None: the last step of the run."""
    best: bool = False
    """Use the checkpoint with the smallest masked error on held-out subjects."""
    readout: str = ""
    """How an embedding is computed from the encoder's tokens: mean, mean_std, extremes, quantiles, spectrum
    (docs/model.md). Empty: the default of the model. All commands that use the bundle use this readout."""
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
