"""`xmae leaderboard`: encoders of several evaluations in one table, computed from the predictions in their files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from xmae_dist.core.errors import UsageError
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.evaluate.report import leaderboard_page
from xmae_dist.evaluate.report.leaderboard import board
from xmae_dist.evaluate.report.rows import read
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Build one table from the results of several evaluations, yours or those of others.

    Each file is a results.parquet as `xmae report` writes it, or a file of your own with the columns that
    docs/evaluation.md lists. Digests of predictions are checked, and every score, interval and difference is computed
    from the predictions.
    """

    files: Annotated[tuple[str, ...], tyro.conf.Positional]
    """URLs of results.parquet files."""
    against: str = ""
    """Name of the encoder that the others are compared with; empty: the first of the first file."""
    protocol: str = "linear"
    """Which results are compared: linear, knn or finetune."""
    out: str = ""
    """URL of a Markdown page to write; empty: it is printed."""
    json: bool = False
    """Print one JSON object instead of a page."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    if not args.files:
        raise UsageError("files", value="none", expected="one or more results.parquet")
    digests = {url: sha256_hex(uri.read_bytes(url)) for url in args.files}
    made = board((told for url in digests for told in read(url)), against=args.against, protocol=args.protocol)
    page = leaderboard_page.markdown(made, digests)
    if args.out:
        uri.write_bytes(args.out, page.encode())
    if args.json:
        print(json.dumps(leaderboard_page.document(made, digests)))
    else:
        print(args.out or page)
    return 0
