"""`xmae reembed`: whatever is new, in every cohort that has the encoder's signal. Made to be run on a schedule."""

from __future__ import annotations

from dataclasses import dataclass

from xmae_dist.cli.embed import encoder_of, tell
from xmae_dist.embed.pipeline import Resources, reembed
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Embed whatever is new since the last time: one commit per cohort with something new.

    With nothing new it reads what the logs of corpus and table state, no rows, says so and exits 0, so it may run as
    often as you like: from cron, as a KubeRay RayCronJob, or after every ingest. Whoever was withdrawn from the corpus
    leaves the rows of every bundle in the table, not only of this one.
    """

    corpus: str
    """URL of the corpus."""
    bundle: str = ""
    """URL of the encoder bundle; or --model."""
    model: str = ""
    """Alias of a bundle in the table's registry, such as champion (`xmae promote`)."""
    table: str
    """URL of the embedding table; made if there is none."""
    max_actors: int = 64
    """Encoding actors at most; there are never more than batches of recordings."""
    gpus: float | None = None
    """GPUs of each actor, which Ray must give it (0.25 packs four actors on one); 0: CPUs alone. None: 0.25 where the
    cluster has GPUs that are free, else 0."""
    json: bool = False
    """Print what was done as JSON."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    corpus, table = uri.normalise(args.corpus), uri.checked_place(args.table)
    encoder = encoder_of(args.bundle, args.model, table)
    resources = Resources(max_actors=args.max_actors, gpus_per_actor=args.gpus)
    tell(reembed(corpus, encoder, table, resources), as_json=args.json)
    return 0
