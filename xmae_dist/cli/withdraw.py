"""`xmae withdraw`: takes subjects out of a corpus, as when consent is withdrawn."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import tyro

from xmae_dist.core.errors import InputError
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.snapshot import Recording


@dataclass(frozen=True, kw_only=True)
class Args:
    """Remove subjects from a corpus: creates a snapshot without them. Older snapshots that hold them no longer open.

    The subjects are added to the list of withdrawn people: later ingests leave out their files until `xmae readmit`.
    Without --apply nothing is changed; the command shows what would be removed. `xmae vacuum` deletes the bytes later.
    Window stores and models made earlier are not changed: window stores beside the corpus are listed, and `xmae audit`
    lists the steps of a run that used a subject. --table, or the next `xmae reembed`, removes rows of embedding tables.
    """

    corpus: Annotated[str, tyro.conf.Positional]
    """URL of the corpus."""
    subject: tuple[str, ...]
    """Ids of the subjects to withdraw."""
    reason: str = ""
    """Reason, stored in the history of the index."""
    table: tuple[str, ...] = ()
    """URLs of embedding tables of this corpus: with --apply, rows of these subjects are removed, for every bundle."""
    absent: bool = False
    """Accept subjects that are not in the corpus: they are added to the list, so that later ingests leave them out."""
    apply: bool = False
    """Make the change."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    corpus = Corpus.open(args.corpus)
    theirs = list(corpus.snapshot().recordings([("subject_id", "in", sorted(set(args.subject)))]))
    unknown = sorted(set(args.subject) - {one.subject_id for one in theirs})
    if unknown and not args.absent:
        raise InputError(
            f"--subject of {corpus.url}",
            value=", ".join(unknown),
            expected="subjects of the newest snapshot",
            fix="see `xmae inspect`; who was withdrawn before is not there any more (`xmae readmit` lists them); "
            "--absent to keep out who is not here",
        )
    stores = [url for url in uri.list_urls(uri.join(corpus.url, "windows")) if uri.exists(uri.join(url, "store.json"))]
    version = corpus.withdraw(args.subject, reason=args.reason) if args.apply else None
    left = {url: _left(corpus.url, url) for url in map(uri.checked_place, args.table)} if args.apply else {}
    outcome = _Outcome(theirs=theirs, absent=unknown, stores=stores, applied=args.apply, version=version, left=left)
    if args.json:
        print(json.dumps(_summary(outcome)))
    else:
        _show(outcome)
    return 0


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    theirs: list[Recording]
    absent: list[str]
    stores: list[str]
    applied: bool
    version: int | None
    left: dict[str, int]
    """Recordings that left each embedding table."""


def _left(corpus_url: str, table_url: str) -> int:
    from xmae_dist.embed.pipeline import take_away_all_who_left  # needs Ray and torch, which a corpus does not

    done = take_away_all_who_left(corpus_url, table_url)
    return sum(one.withdrawn for one in done.values() if one)


def _summary(done: _Outcome) -> dict[str, object]:
    return {
        "applied": done.applied,
        "snapshot": done.version,
        "subjects": sorted({one.subject_id for one in done.theirs}),
        "absent": done.absent,
        "recordings": dict(Counter(one.cohort for one in done.theirs)),
        "hours": round(sum(one.duration_s for one in done.theirs) / 3600, 3),
        "window_stores": done.stores,
        "embedding_tables": done.left,
    }


def _show(done: _Outcome) -> None:
    verb = "withdrawn" if done.applied else "would be withdrawn"
    for subject in sorted({one.subject_id for one in done.theirs}):
        own = [one for one in done.theirs if one.subject_id == subject]
        hours = sum(one.duration_s for one in own) / 3600
        cohorts = ", ".join(sorted({one.cohort for one in own}))
        print(f"{subject}: {len(own)} recording(s), {hours:.2f} h, of {cohorts} {verb}")
    for subject in done.absent:
        print(f"{subject}: nothing here; files of theirs {'are' if done.applied else 'would be'} left out from now on")
    if done.stores:
        print("window stores that may hold their windows (delete them, and make them again):")
        print("\n".join(f"  {url}" for url in done.stores))
    for url, recordings in done.left.items():
        print(f"{url}: {recordings} embedded recording(s) left the table")
    if not done.applied:
        print("nothing was changed: add --apply to do it")
    elif done.version is not None:
        print(f"snapshot {done.version} is without them; their bytes go with `xmae vacuum`")
