"""`xmae export-encoder BUNDLE --out encoder.onnx`: an encoder for programs without this package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import tyro

from xmae_dist.core.errors import ConfigError
from xmae_dist.model import bundle
from xmae_dist.model.exported import FORMATS, export_encoder
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write the encoder of a bundle for programs without this package.

    Either one file (ONNX, which needs no torch, or a torch.export program), or with --format transformers a folder for
    AutoModel.from_pretrained(folder, trust_remote_code=True). It computes embeddings from windows, at any batch size.
    Before it is written, its embeddings are compared with those of the model. Windows must be prepared as in
    pretraining (rate, filter, scaling): the window specification is stored in the file, under the name `xmae`, or in
    the folder's configuration, under `about`.
    """

    bundle: Annotated[str, tyro.conf.Positional]
    """URL of a bundle, as `xmae export` wrote it."""
    out: str
    """URL of the file to write: encoder.onnx for ONNX, encoder.pt2 for a torch.export program; or of the folder."""
    format: Literal["file", "transformers"] = "file"
    """file: as the name in --out says. transformers: a folder, with `pip install 'xmae_dist[transformers]'`."""
    json: bool = False
    """Print the result as JSON."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    if args.format == "transformers":
        return _folder(args)
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
    exported = export_encoder(loaded.model, suffix, _about(loaded))
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


def _folder(args: Args) -> int:
    from xmae_dist.model.hub.folder import folder_files

    uri.checked_place(args.out)
    loaded = bundle.load(args.bundle)
    files = folder_files(loaded.model, _about(loaded))
    for name, content in files.items():
        uri.write_bytes(uri.join(args.out, name), content)
    told = {"out": args.out, "bundle_id": loaded.bundle_id, "embedding_width": loaded.model.embedding_width}
    if args.json:
        print(json.dumps(told))
    else:
        print(f"{args.out}: encoder of bundle {loaded.bundle_id} for AutoModel.from_pretrained, {len(files)} files")
    return 0


def _about(loaded: bundle.Bundle) -> dict[str, Any]:
    return {"bundle_id": loaded.bundle_id, "signal": loaded.model.embeds, "window_spec": loaded.window_spec}
