"""`xmae verify`: every stored byte of a corpus against its digest."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from typing import Annotated

import tyro

from xmae_dist.core.progress import progress
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.snapshot import Snapshot
from xmae_dist.storage.verify import Finding, size_mib, verify


@dataclass(frozen=True, kw_only=True)
class Args:
    """Read every stored byte of a corpus and compare it with its checksum and its digest.

    Damage is reported with part, array and chunk, and the recordings concerned. Exit status: 0 everything is as it was
    written, 1 something is damaged or missing, 2 the corpus cannot be reached.
    """

    corpus: Annotated[str, tyro.conf.Positional]
    """URL of the corpus."""
    snapshot: int | None = None
    """Version of the corpus; the newest if not given."""
    cohort: str | None = None
    """Only this cohort."""
    threads: int = 2
    """Arrays checked at once."""
    json: bool = False
    """Print the findings as JSON."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    snapshot = Corpus.open(args.corpus).snapshot(args.snapshot)
    if args.cohort is not None:
        snapshot = snapshot.cohort(args.cohort)
    started = time.monotonic()
    findings: list[Finding] = []
    with progress("verify", size_mib(snapshot), "MiB") as shown:
        for finding in verify(snapshot, shown.advance, threads=args.threads):
            findings.append(finding)
            if not args.json:
                print(finding, flush=True)
        checked_mib = shown.done
    took_s = time.monotonic() - started
    if args.json:
        print(_as_json(snapshot, findings, checked_mib, took_s))
    else:
        verdict = f"{len(findings)} finding(s)" if findings else "all as written"
        signals = sum(one.rows for one in snapshot.contents.values())
        print(f"{verdict}: snapshot {snapshot.version}, {signals} signals, {checked_mib:.0f} MiB in {took_s:.1f} s")
    if findings:
        print("fix: restore the named objects from a copy, or ingest their parts again", file=sys.stderr)
    return 1 if findings else 0


def _as_json(snapshot: Snapshot, findings: list[Finding], checked_mib: float, took_s: float) -> str:
    document = {
        "corpus": snapshot.url,
        "snapshot": snapshot.version,
        "fingerprint": snapshot.fingerprint,
        "signals": sum(one.rows for one in snapshot.contents.values()),
        "checked_mib": round(checked_mib, 1),
        "seconds": round(took_s, 2),
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }
    return json.dumps(document, indent=2)
