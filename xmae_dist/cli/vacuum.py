"""`xmae vacuum`: removes the bytes that no snapshot needs: of withdrawn subjects, and of writers that died."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro

from xmae_dist.cli.withdrawal_proof import Stores, finish_proof
from xmae_dist.core.errors import UsageError
from xmae_dist.data.store.withdrawal import remove_store, stores_with
from xmae_dist.embed.sweep import SweepReport, sweep
from xmae_dist.ingest.withdrawal import forget_outcomes
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.log_erasure import forget_files
from xmae_dist.storage.sweep import GRACE_S, VacuumReport, vacuum
from xmae_dist.storage.table import Table

_OLD_VERSIONS = (
    "the bucket keeps old versions of removed objects: withdrawn bytes remain until these are deleted, by hand or by a "
    "lifecycle rule (storage/policies/lifecycle.json)"
)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Delete what no snapshot of a corpus needs: samples and estimates of withdrawn people, unfinished parts.

    Without --apply nothing is changed; the command shows what would be deleted. A part that also holds samples of other
    people is first copied without the withdrawn ones; the first vacuum after the grace period deletes the old part.
    Names of withdrawn people are removed from the logs of tables and from the reports of ingests. The command may be
    interrupted, repeated, and run during ingests. Exit status: 1 if --proof finds data of withdrawn people, else 0.
    """

    corpus: Annotated[str, tyro.conf.Positional]
    """URL of the corpus."""
    grace_hours: float = GRACE_S / 3600
    """Nothing younger than this number of hours is deleted. Must be longer than the ingest of a part takes, and longer
    than any reader uses an old snapshot."""
    table: tuple[str, ...] = ()
    """URLs of embedding tables of this corpus: also delete there what failed jobs left, and files with rows of people
    who were removed."""
    windows: tuple[str, ...] = ()
    """URLs of window stores, or of folders with window stores: those that hold subjects who were withdrawn before the
    grace period are deleted. If none is given: CORPUS/windows."""
    evaluation: tuple[str, ...] = ()
    """URLs of evaluations (--out of `xmae evaluate`): predictions of withdrawn people are removed, and their bytes and
    all kept embeddings after the grace period."""
    proof: str = ""
    """With --apply: then search every object of all these stores for people who were withdrawn before the grace period,
    and write what was found to this file or URL, as JSON."""
    apply: bool = False
    """Make the change."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    if args.grace_hours < 0:
        raise UsageError("--grace-hours", value=args.grace_hours, expected="0 or more", fix="leave it out")
    if args.proof and not args.apply:
        raise UsageError("--proof", value=args.proof, expected="--apply with it", fix="add --apply, or leave it out")
    grace_s, dry_run = args.grace_hours * 3600, not args.apply
    corpus, until_s = Corpus.open(args.corpus), time.time() - grace_s
    report = vacuum(corpus, grace_s=grace_s, dry_run=dry_run)
    swept = {url: sweep(url, grace_s=grace_s, dry_run=dry_run) for url in map(uri.checked_place, args.table)}
    beside = _vacuum_beside(args, corpus, until_s)
    proof = _proved(args, corpus, until_s) if args.proof else None
    if args.json:
        tables = {url: asdict(one) for url, one in swept.items()}
        done = {"applied": args.apply, "bytes": report.bytes, **asdict(report), "embedding_tables": tables}
        print(json.dumps({**done, **asdict(beside), "proof": proof}))
    else:
        _show_tables(swept, args)
        _show_beside(beside, args)
        _show(report, args)
        _show_proof(proof, args)
    return 1 if proof is not None and any(one["found"] for one in proof["stores"]) else 0


@dataclass(frozen=True, kw_only=True)
class _Beside:
    """What was made of the recordings of withdrawn people, and lies elsewhere."""

    window_stores: list[str]
    """That hold them, or are of jobs that died, and are deleted."""
    reports: int
    """Reports of ingests that named them."""
    evaluations: dict[str, int]
    """Objects that went."""


def _vacuum_beside(args: Args, corpus: Corpus, until_s: float) -> _Beside:
    withdrawn = corpus.withdrawn.read(until_s)
    places = _windows(args, corpus) if withdrawn.subjects else []
    stores = [url for place in places for url in stores_with(place, withdrawn.recordings, until_s=until_s)]
    if not args.apply:
        return _Beside(window_stores=stores, reports=0, evaluations={})
    for url in stores:
        remove_store(url)
    evaluations = {url: _vacuum_evaluation(url, args, corpus) for url in map(uri.checked_place, args.evaluation)}
    reports = forget_outcomes(corpus.url, withdrawn.recordings)
    return _Beside(window_stores=stores, reports=reports, evaluations=evaluations)


def _vacuum_evaluation(url: str, args: Args, corpus: Corpus) -> int:
    from xmae_dist.evaluate.withdrawal import take_out, vacuum_evaluation  # needs SciPy, which a corpus does not

    take_out(url, corpus.withdrawn.read().subjects)
    return vacuum_evaluation(url, grace_s=args.grace_hours * 3600)


def _windows(args: Args, corpus: Corpus) -> list[str]:
    return [uri.checked_place(url) for url in args.windows] or [uri.join(corpus.url, "windows")]


def _proved(args: Args, corpus: Corpus, until_s: float) -> dict[str, Any]:
    """The proof, after what earlier versions left in the logs of tables has gone too."""
    tables = [Table(place) for url in args.table for place in (url, uri.join(url, "_manifests"))]
    tables += [Table(uri.join(url, name)) for url in args.evaluation for name in ("results", "transfer")]
    for table in (corpus.index, corpus.alignments, corpus.withdrawn.table, *tables):
        if table.exists():
            forget_files(table, (), everywhere=True)
    # What lies below the corpus is searched with it.
    beyond = [url for url in _windows(args, corpus) if not url.startswith(f"{corpus.url}/")]
    stores = Stores(tables=args.table, windows=beyond, evaluations=args.evaluation)
    return finish_proof(args.proof, corpus, stores, grace_s=args.grace_hours * 3600, until_s=until_s)


def _show_beside(done: _Beside, args: Args) -> None:
    for url in done.window_stores:
        print(f"{url}: may hold windows of withdrawn people, {'' if args.apply else 'would be '}deleted")
    for url, objects in done.evaluations.items():
        print(f"{url}: {objects} objects removed")
    if done.reports:
        print(f"reports of ingests that named withdrawn people: {done.reports} written again without them")


def _show_proof(proof: dict[str, Any] | None, args: Args) -> None:
    if proof is None:
        return
    objects = sum(one["objects"] for one in proof["stores"])
    found = [f"{one['url']}/{where['path']}" for one in proof["stores"] for where in one["found"]]
    people = len(proof["searched_for"]["people"])
    print(f"{objects} objects searched for {people} withdrawn people; found in {len(found)}: {args.proof}")
    for url in found[:20]:
        print(f"  {url}")
    if waiting := len(proof["in_grace_period"]):
        print(f"withdrawn people in the grace period, not searched for: {waiting}; run this again when it is over")
    elif not proof["erased"] and not found:
        print("old parts still hold samples that no recording refers to: run this again after the grace period")


def _show_tables(swept: dict[str, SweepReport], args: Args) -> None:
    would = "" if args.apply else "would be "
    for url, one in swept.items():
        print(
            f"{url}: {one.files} files, {one.bytes / 2**20:.1f} MiB {would}removed, of {len(one.dead_requests)} dead "
            f"jobs and of removed people; {one.manifest_rows} manifest rows {would}dropped"
        )


def _show(report: VacuumReport, args: Args) -> None:
    would = "" if args.apply else "would be "
    for name in report.compacted:
        print(f"{name}: {would}copied without withdrawn samples")
        print(f"  the first vacuum after {args.grace_hours:g} h deletes the old part")
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
        print("could not determine whether the bucket keeps old versions of removed objects (s3:GetBucketVersioning)")
