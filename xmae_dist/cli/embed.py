"""`xmae embed`: one cohort into the embedding table."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from xmae_dist.core.errors import UsageError
from xmae_dist.embed.pipeline import Resources, embed_cohort
from xmae_dist.embed.publish import Published
from xmae_dist.embed.registry import encoder_meant
from xmae_dist.embed.request import Encoder, read_encoder
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Embed one cohort with an exported encoder, in one commit to a Delta table.

    Only recordings that the table does not hold for this bundle and window specification are read. The same command
    again does nothing; a killed one goes on where it was.
    """

    corpus: str
    """URL of the corpus."""
    bundle: str = ""
    """URL of the encoder bundle; or --model."""
    model: str = ""
    """Alias of a bundle in the table's registry, such as champion (`xmae promote`)."""
    table: str
    """URL of the embedding table; made if there is none."""
    cohort: str
    """Which cohort."""
    max_actors: int = 64
    """Encoding actors at most; there are never more than batches of recordings."""
    gpus: float | None = None
    """GPUs of each actor, which Ray must give it (0.25 packs four actors on one); 0: CPUs alone. None: 0.25 where the
    cluster has GPUs that are free, else 0."""
    json: bool = False
    """Print what was done as JSON."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    table = uri.checked_place(args.table)
    encoder = encoder_of(args.bundle, args.model, table)
    resources = Resources(max_actors=args.max_actors, gpus_per_actor=args.gpus)
    done = embed_cohort(uri.normalise(args.corpus), encoder, table, args.cohort, resources)
    tell({args.cohort: done}, as_json=args.json)
    return 0


def encoder_of(bundle: str, model: str, table_url: str) -> Encoder:
    """The encoder that --bundle or --model names. Raises UsageError unless it is one of them."""
    if bool(bundle) == bool(model):
        raise UsageError(
            "--bundle or --model",
            value="both" if bundle else "neither",
            expected="one of them",
            fix="a bundle's URL, or an alias that `xmae models` lists",
        )
    return encoder_meant(table_url, model) if model else read_encoder(uri.normalise(bundle))


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
