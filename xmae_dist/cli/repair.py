"""`xmae repair`: recordings that stand in a corpus twice, and a way out that loses nothing."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from xmae_dist.core.errors import InputError
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.duplicates import Duplicate, drop, duplicates


@dataclass(frozen=True, kw_only=True)
class Args:
    """List recordings that are stored twice, and drop one copy of each.

    Earlier versions could store a recording twice if two ingests of overlapping files ran at once; such a corpus cannot
    be read. Without --apply nothing is changed. Of equal copies, either is dropped; if copies differ, --keep states
    which one stays. `xmae vacuum` deletes the samples later. Exit status: 1 if copies differ and --keep does not
    decide.
    """

    corpus: Annotated[str, tyro.conf.Positional]
    """URL of the corpus."""
    keep: tuple[str, ...] = ()
    """Parts whose copies stay if copies differ, as listed by this command: COHORT/PART."""
    apply: bool = False
    """Make the change."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    corpus = Corpus.open(args.corpus)
    found = duplicates(corpus, args.keep)
    unknown = sorted(set(args.keep) - {f"{one.cohort}/{part}" for one in found for part in one.parts})
    if unknown:
        raise InputError("--keep", value=", ".join(unknown), expected="parts with copies, as this command names them")
    dropped = drop(corpus, args.keep) if args.apply else 0
    if args.json:
        print(json.dumps({"dropped": dropped, "duplicates": [dataclasses.asdict(one) for one in found]}))
    else:
        _show(found, applied=args.apply)
    return 1 if any(one.kept is None for one in found) else 0


def _show(found: list[Duplicate], *, applied: bool) -> None:
    for one in found:
        parts = ", ".join(f"{one.cohort}/{part}" for part in one.parts)
        alike = "equal" if one.alike else f"which differ (subject {', '.join(one.subjects)})"
        stays = "decide with --keep COHORT/PART" if one.kept is None else f"that in {one.cohort}/{one.kept} stays"
        print(f"{one.cohort}/{one.recording_id} ({', '.join(one.channels)}): copies in {parts}, {alike}; {stays}")
    if not found:
        print("no recording stands twice")
    elif applied:
        print("the other copies are dropped; `xmae vacuum` deletes their samples")
    else:
        print("nothing was changed: add --apply to do it")
