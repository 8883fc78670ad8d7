"""`xmae readmit`: takes subjects off the list of the withdrawn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from xmae_dist.core.errors import InputError
from xmae_dist.storage.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class Args:
    """Remove subjects from the list of withdrawn people, so that their recordings can be ingested again.

    Recordings do not come back by themselves: ingest their files again. Without --apply nothing is changed. Without
    --subject the command shows the list.
    """

    corpus: Annotated[str, tyro.conf.Positional]
    """URL of the corpus."""
    subject: tuple[str, ...] = ()
    """Subjects to readmit."""
    apply: bool = False
    """Make the change."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    corpus = Corpus.open(args.corpus)
    listed = corpus.withdrawn.read()
    unknown = sorted(set(args.subject) - listed.subjects)
    if unknown:
        raise InputError(
            f"--subject of {corpus.url}",
            value=", ".join(unknown),
            expected="subjects on the list of the withdrawn",
            fix="leave --subject out to see the list",
        )
    applied = bool(args.apply and args.subject)
    if applied:
        corpus.readmit(args.subject)
    if args.json:
        left = sorted(listed.subjects - set(args.subject if applied else ()))
        print(json.dumps({"applied": applied, "withdrawn": left, "unnamed": listed.unnamed}))
        return 0
    for subject in sorted(args.subject or listed.subjects):
        print(f"{subject}: " + ("readmitted" if applied else "would be readmitted" if args.subject else "withdrawn"))
    if listed.unnamed:
        print(f"{listed.unnamed} more were withdrawn before there was a list, and cannot be named any more")
    if not args.subject and not listed.subjects:
        print("nobody is on the list of the withdrawn")
    elif applied:
        print("ingest their files again to have their recordings back")
    elif args.subject:
        print("nothing was changed: add --apply to do it")
    return 0
