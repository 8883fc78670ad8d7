"""`xmae embed`: one cohort into the embedding table."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from xmae_dist.embed.pipeline import Resources, embed_cohort
from xmae_dist.embed.publish import Published
from xmae_dist.embed.request import read_encoder
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write embeddings of one cohort to a Delta table, in one commit.

    Only recordings that are not in the table yet, for this bundle and window specification, are read. The same command
    again does nothing; a killed command continues.
    """

    corpus: str
    """URL of the corpus."""
    bundle: str
    """URL of the encoder bundle."""
    table: str
    """URL of the embedding table; made if there is none."""
    cohort: str
    """Name of the cohort."""
    max_actors: int = 64
    """Largest number of encoding processes (Ray actors); never more than batches of recordings."""
    gpus: float | None = None
    """GPUs of each process: 0.25 places four on one GPU; 0: CPUs only. None: 0.25 if the cluster has free GPUs, else
    0."""
    json: bool = False
    """Print what was done as JSON."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    table = uri.checked_place(args.table)
    encoder = read_encoder(uri.normalise(args.bundle))
    resources = Resources(max_actors=args.max_actors, gpus_per_actor=args.gpus)
    done = embed_cohort(uri.normalise(args.corpus), encoder, table, args.cohort, resources)
    tell({args.cohort: done}, as_json=args.json)
    return 0


def tell(done: dict[str, Published | None], *, as_json: bool) -> None:
    """Print what each cohort got."""
    if as_json:
        print(json.dumps({cohort: dataclasses.asdict(p) if p else None for cohort, p in done.items()}))
        return
    for cohort, published in done.items():
        if published is None:
            print(f"{cohort}: nothing new")
            continue
        size = f"{published.rows} windows of {published.recordings} recordings"
        who = (
            f"committed as version {published.version}" if published.version is not None else "committed by another job"
        )
        gone = f", {published.withdrawn} recordings withdrawn" if published.withdrawn else ""
        left = sum(published.dropped.values())
        print(f"{cohort}: {size} {who}{gone}; {left} windows dropped")
    if not any(done.values()):
        print("nothing new: the table is up to date")
