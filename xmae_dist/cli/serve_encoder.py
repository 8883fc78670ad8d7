"""`xmae serve-encoder BUNDLE`: an encoder for programs that are no part of ours, over standard input and output."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from xmae_dist.core.errors import ConfigError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.model.bundle import load


@dataclass(frozen=True, kw_only=True)
class Args:
    """Read raw PPG windows on standard input and write their embeddings on standard output (binary; the protocol is in
    xmae_dist/evaluate/encoders/serve.py), until the input ends.
    """

    bundle: Annotated[str, tyro.conf.Positional]
    """URL of an encoder bundle."""
    rate_hz: float
    """Sampling rate of the windows that will be sent."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    from xmae_dist.evaluate.encoders.serve import serve

    if not args.rate_hz > 0:
        raise ConfigError("--rate-hz", value=args.rate_hz, expected="samples per second, above 0")
    stored = load(args.bundle).window_spec
    spec = WindowSpec.from_dict(stored) if stored else WindowSpec()
    serve(args.bundle, spec, args.rate_hz, sys.stdin.buffer, sys.stdout.buffer)
    return 0
