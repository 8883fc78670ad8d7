"""`xmae ppg-bench BUNDLE`: what the PPG-Bench program needs to evaluate an exported encoder."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib import resources
from typing import Annotated

import tyro

from xmae_dist.core.errors import ConfigError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.model.bundle import load
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write a model description and an adapter for PPG-Bench, a separate evaluation program (GPL-3.0). PPG-Bench then
    runs the encoder as a program in this environment, over a pipe. docs/datasets.md shows the commands.
    """

    bundle: Annotated[str, tyro.conf.Positional]
    """URL of an encoder bundle."""
    out: str
    """Folder for xmae.yaml and xmae_port.py."""
    name: str = "xMAE"
    """Name of the model in the results of PPG-Bench."""
    rate_hz: int | None = None
    """Sampling rate of the windows from PPG-Bench (its --fs); that of the bundle if not given."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    bundle = load(args.bundle)
    if bundle.model.embeds != "ppg":
        raise ConfigError(f"bundle {args.bundle}", value=f"reads {bundle.model.embeds}", expected="a PPG encoder")
    spec = WindowSpec.from_dict(bundle.window_spec) if bundle.window_spec else WindowSpec()
    rate_hz = args.rate_hz or round(spec.rate_hz)
    command = [sys.executable, "-m", "xmae_dist.cli", "serve-encoder", args.bundle, "--rate-hz", str(rate_hz)]
    model = {
        "name": args.name,
        "port": "xmae_port.py:XmaePort",
        "fs": rate_hz,
        "embedding_dim": bundle.model.embedding_width,
        # The id makes the harness take another export for another model, and not reuse its features.
        "init": {"command": command, "bundle_id": bundle.bundle_id},
    }
    # JSON is YAML, and needs no library to be written.
    uri.write_bytes(uri.join(args.out, "xmae.yaml"), (json.dumps(model, indent=1) + "\n").encode())
    port = (resources.files("xmae_dist.evaluate.encoders") / "ppg_bench_port.py").read_bytes()
    uri.write_bytes(uri.join(args.out, "xmae_port.py"), port)
    print(f"model description: {uri.join(args.out, 'xmae.yaml')}")
    return 0
