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
    """Take subjects out of a corpus: a new snapshot without them, after which old ones that hold them do not open.

    Without --apply nothing is changed: it says what would go. The bytes go with `xmae vacuum`. Whatever was made from
    the recordings earlier (window stores, models, embeddings) is not touched: window stores beside the corpus are
    listed, `xmae reembed` takes withdrawn subjects out of its table, `xmae audit` says which steps of a run saw them.
    """

    corpus: Annotated[str, tyro.conf.Positional]
    """URL of the corpus."""
    subject: tuple[str, ...]
    """Subjects to withdraw."""
    reason: str = ""
    """Kept in the history of the index."""
    apply: bool = False
    """Do it."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    corpus = Corpus.open(args.corpus)
    snapshot = corpus.snapshot()
    unknown = sorted(set(args.subject) - set(snapshot.subjects()))
    if unknown:
        raise InputError(
            f"--subject of {corpus.url}",
            value=", ".join(unknown),
            expected="subjects of the newest snapshot",
            fix="see `xmae inspect`; who was withdrawn before is not there any more",
        )
    theirs = [one for one in snapshot.recordings() if one.subject_id in args.subject]
    stores = [url for url in uri.list_urls(uri.join(corpus.url, "windows")) if uri.exists(uri.join(url, "store.json"))]
    version = corpus.withdraw(args.subject, reason=args.reason) if args.apply else None
    if args.json:
        print(json.dumps(_summary(theirs, stores, version)))
    else:
        _show(theirs, stores, version)
    return 0


def _summary(theirs: list[Recording], stores: list[str], version: int | None) -> dict[str, object]:
    return {
        "applied": version is not None,
        "snapshot": version,
        "subjects": sorted({one.subject_id for one in theirs}),
        "recordings": dict(Counter(one.cohort for one in theirs)),
        "hours": round(sum(one.duration_s for one in theirs) / 3600, 3),
        "window_stores": stores,
    }


def _show(theirs: list[Recording], stores: list[str], version: int | None) -> None:
    verb = "withdrawn" if version is not None else "would be withdrawn"
    for subject in sorted({one.subject_id for one in theirs}):
        own = [one for one in theirs if one.subject_id == subject]
        hours = sum(one.duration_s for one in own) / 3600
        cohorts = ", ".join(sorted({one.cohort for one in own}))
        print(f"{subject}: {len(own)} recording(s), {hours:.2f} h, of {cohorts} {verb}")
    if stores:
        print("window stores that may hold their windows (delete them, and make them again):")
        print("\n".join(f"  {url}" for url in stores))
    if version is None:
        print("nothing was changed: add --apply to do it")
    else:
        print(f"snapshot {version} is without them; their bytes go with `xmae vacuum`")
