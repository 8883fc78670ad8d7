"""`xmae vacuum`: removes the bytes that no snapshot needs: of withdrawn subjects, and of writers that died."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from xmae_dist.core.errors import UsageError
from xmae_dist.embed.sweep import SweepReport, sweep
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.sweep import GRACE_S, VacuumReport, vacuum

_OLD_VERSIONS = (
    "the bucket keeps old versions of what is removed: withdrawn bytes are not gone before these are, by hand or by a "
    "lifecycle rule (storage/policies/lifecycle.json)"
)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Delete what no snapshot of a corpus needs: samples and estimates of withdrawn people, unfinished parts.

    Without --apply nothing is changed; the command shows what would be deleted. A part that also holds samples of other
    people is first copied without the withdrawn ones; the first vacuum after the grace period deletes the old part. The
    command may be interrupted, repeated, and run beside ingests.
    """

    corpus: Annotated[str, tyro.conf.Positional]
    """URL of the corpus."""
    grace_hours: float = GRACE_S / 3600
    """Nothing younger is deleted. Must be longer than the ingest of a part, and than readers use an old snapshot."""
    table: tuple[str, ...] = ()
    """URLs of embedding tables of this corpus: also delete there what failed jobs left, and files with rows of people
    who were removed."""
    apply: bool = False
    """Make the change."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    if args.grace_hours < 0:
        raise UsageError("--grace-hours", value=args.grace_hours, expected="0 or more", fix="leave it out")
    grace_s, dry_run = args.grace_hours * 3600, not args.apply
    report = vacuum(Corpus.open(args.corpus), grace_s=grace_s, dry_run=dry_run)
    swept = {url: sweep(url, grace_s=grace_s, dry_run=dry_run) for url in map(uri.checked_place, args.table)}
    if args.json:
        tables = {url: asdict(one) for url, one in swept.items()}
        print(json.dumps({"applied": args.apply, "bytes": report.bytes, **asdict(report), "embedding_tables": tables}))
    else:
        _show_tables(swept, args)
        _show(report, args)
    return 0


def _show_tables(swept: dict[str, SweepReport], args: Args) -> None:
    would = "" if args.apply else "would be "
    for url, one in swept.items():
        print(
            f"{url}: {one.files} files, {one.bytes / 2**20:.1f} MiB {would}removed, of {len(one.dead_requests)} dead "
            f"jobs and of who left; {one.manifest_rows} rows of manifests {would}dropped"
        )


def _show(report: VacuumReport, args: Args) -> None:
    would = "" if args.apply else "would be "
    for name in report.compacted:
        print(f"{name}: {would}copied without withdrawn samples; the old part goes {args.grace_hours:g} h later")
    for orphan in report.removed:
        age_h, size_mib = orphan.age_s / 3600, orphan.bytes / 2**20
        print(f"{orphan.cohort}/{orphan.part}: {would}removed, {size_mib:.1f} MiB, {age_h:.1f} h old")
    for cohort in report.merged:
        print(f"cohort {cohort}: its files of the index were merged")
    if report.estimates:
        print(f"estimates of clocks of withdrawn subjects: {report.estimates} {would}deleted")
    if report.table_files:
        print(f"files of tables that no version needs: {report.table_files} {would}removed")
    if not (report.compacted or report.removed or report.merged or report.estimates or report.table_files):
        print(f"nothing to remove that is older than {args.grace_hours:g} h")
    elif not args.apply:
        print("nothing was changed: add --apply to do it")
    if report.old_versions:
        print(_OLD_VERSIONS)
    elif report.old_versions is None:
        print("whether the bucket keeps old versions of what is removed could not be asked (s3:GetBucketVersioning)")
