"""`xmae neighbours`: the windows of an embedding table nearest to those of a recording."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from xmae_dist.cli.embed import encoder_of, newest_table
from xmae_dist.core.tables import show, terminal
from xmae_dist.embed.neighbours import Query, neighbours
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """For each window of a recording, find the nearest windows among all rows of the bundle in the table.

    Exact: every row is read once, in bounded memory. Windows of the same person are left out unless --same-person is
    given.
    """

    table: str
    """URL of the embedding table."""
    cohort: str
    """Cohort of the recording."""
    recording: str
    """Its id, as in the table."""
    start_s: float | None = None
    """Use only the window that starts at this time, or the last one before it, in seconds from the start of the
    recording. None: use every window."""
    bundle: str = ""
    """URL of the encoder bundle; give this or --model."""
    model: str = ""
    """Alias of a bundle in the table's registry, such as champion."""
    k: int = 10
    """Neighbours of each window."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """How far two embeddings are from one another."""
    cohorts: tuple[str, ...] = ()
    """Search only windows of these cohorts; all if none is given."""
    same_person: bool = False
    """Also search the other windows of the same person."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    url = uri.checked_place(args.table)
    encoder = encoder_of(args.bundle, args.model, url)
    table = newest_table(url)
    found = neighbours(
        table,
        encoder,
        cohort=args.cohort,
        recording_id=args.recording,
        start_s=args.start_s,
        k=args.k,
        distance=args.distance,
        cohorts=args.cohorts,
        same_person=args.same_person,
    )
    if args.json:
        print(
            json.dumps({"model_id": encoder.model_id, "version": table.version, "windows": [asdict(q) for q in found]})
        )
    else:
        _show(found)
    return 0


def _show(found: list[Query]) -> None:
    columns = ("distance", "person", "cohort", "recording", "start (s)", "quality")
    for query in found:
        window = query.window
        of = f"{window.cohort}/{window.recording_id} at {window.start_s:g} s, {window.subject_id}"
        if not query.neighbours:
            print(f"{of}\n  there are no other windows to search")
            continue
        rows = [
            (f"{one.distance:.4f}", one.subject_id, one.cohort, one.recording_id, f"{one.start_s:g}",
             f"{one.quality:.2f}")
            for one in query.neighbours
        ]  # fmt: skip
        show(terminal(), of, columns, rows, numbers=("distance", "start (s)", "quality"))
