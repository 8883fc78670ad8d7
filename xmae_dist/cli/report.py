"""`xmae report`: the evaluation report again, from stored results alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from xmae_dist.evaluate.report.write import write_report
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write the report (report.html, report.json, results.parquet) again from the stored results of an evaluation."""

    evaluation: Annotated[str, tyro.conf.Positional]
    """URL given to `xmae evaluate --out`."""
    out: str = ""
    """Folder or URL for the files; by default EVALUATION/report."""
    run: str = ""
    """URL of a pretraining run, to include its figures in the report."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    print(f"report: {write_report(args.evaluation, args.out or uri.join(args.evaluation, 'report'), run_url=args.run)}")
    return 0
