"""`xmae reembed`: whatever is new, in every cohort that has the encoder's signal. Made to be run on a schedule."""

from __future__ import annotations

from dataclasses import dataclass

from xmae_dist.cli.embed import tell
from xmae_dist.embed.pipeline import Resources, reembed
from xmae_dist.embed.request import read_encoder
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write embeddings of all recordings that are new or changed: one commit for each cohort with something new.

    If nothing is new, only the logs of corpus and table are read and the exit status is 0. So it may run as often as
    you like: from cron, as a KubeRay RayCronJob, or after every ingest. Rows of people who were withdrawn from the
    corpus are removed, for every bundle in the table.
    """

    corpus: str
    """URL of the corpus."""
    bundle: str
    """URL of the encoder bundle."""
    table: str
    """URL of the embedding table; made if there is none."""
    max_actors: int = 64
    """Largest number of encoding processes (Ray actors); never more than batches of recordings."""
    gpus: float | None = None
    """GPUs of each process: 0.25 places four on one GPU; 0: CPUs only. None: 0.25 if the cluster has free GPUs, else
    0."""
    json: bool = False
    """Print what was done as JSON."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    corpus, table = uri.normalise(args.corpus), uri.checked_place(args.table)
    encoder = read_encoder(uri.normalise(args.bundle))
    resources = Resources(max_actors=args.max_actors, gpus_per_actor=args.gpus)
    tell(reembed(corpus, encoder, table, resources), as_json=args.json)
    return 0
