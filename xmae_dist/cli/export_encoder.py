"""`xmae export-encoder BUNDLE --out encoder.onnx`: an encoder as one file for programs without this package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

import tyro

from xmae_dist.core.errors import ConfigError
from xmae_dist.model import bundle
from xmae_dist.model.exported import FORMATS, export_encoder
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write the encoder of a bundle as one file that runs without this package and, as ONNX, without torch.

    The file computes embeddings from windows, at any batch size. Before it is written, its embeddings are compared with
    those of the model. Windows must be prepared as in pretraining (rate, filter, scaling): the window specification is
    stored in the file, under the name `xmae`.
    """

    bundle: Annotated[str, tyro.conf.Positional]
    """URL of a bundle, as `xmae export` wrote it."""
    out: str
    """URL of the file to write: encoder.onnx for ONNX, encoder.pt2 for a torch.export program."""
    json: bool = False
    """Print the result as JSON."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    suffix = PurePosixPath(args.out).suffix
    if suffix not in FORMATS:
        raise ConfigError(
            "--out",
            value=args.out,
            expected="a name that ends in " + " or ".join(f"{name} ({what})" for name, what in FORMATS.items()),
            fix="--out encoder.onnx",
        )
    uri.checked_place(args.out)  # told before the work, not after it
    loaded = bundle.load(args.bundle)
    about = {"bundle_id": loaded.bundle_id, "signal": loaded.model.embeds, "window_spec": loaded.window_spec}
    exported = export_encoder(loaded.model, suffix, about)
    uri.write_bytes(args.out, exported.content)
    if args.json:
        told = {"bytes": len(exported.content), "window": exported.shape, "embedding_width": exported.embedding_width}
        print(json.dumps({"out": args.out, "bundle_id": loaded.bundle_id, "worst": exported.worst, **told}))
        return 0
    rate_hz = loaded.window_spec.get("rate_hz")
    signal = loaded.model.embeds + (f" at {rate_hz:g} Hz" if rate_hz else "")
    window = ", ".join(map(str, ("B", *exported.shape)))
    print(
        f"{args.out}: encoder of bundle {loaded.bundle_id}, {len(exported.content) / 1e6:.1f} MB\n"
        f"  in   float32 ({window}): {signal}, prepared as the window specification in the file says\n"
        f"  out  float32 (B, {exported.embedding_width}), within {exported.worst:.1g} of the model's (random windows)"
    )
    return 0
