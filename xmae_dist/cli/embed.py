"""`xmae embed`: one cohort into the embedding table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from xmae_dist.core.errors import InputError, UsageError
from xmae_dist.embed.pipeline import Held, Outcome, Resources, embed_cohort
from xmae_dist.embed.publish import Published
from xmae_dist.embed.registry import encoder_meant
from xmae_dist.embed.request import Encoder, read_encoder
from xmae_dist.embed.tick import told
from xmae_dist.storage import uri
from xmae_dist.storage.table import PinnedTable, Table


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write embeddings of one cohort to a Delta table, in one commit.

    Only recordings that are not in the table yet, for this bundle and window specification, are read. The same command
    again does nothing; a killed command continues.
    """

    corpus: str
    """URL of the corpus."""
    bundle: str = ""
    """URL of the encoder bundle; give this or --model."""
    model: str = ""
    """Alias of a bundle in the table's registry, such as champion (`xmae promote`)."""
    table: str
    """URL of the embedding table; created if it does not exist."""
    cohort: str
    """Name of the cohort."""
    max_actors: int = 64
    """Largest number of encoding processes (Ray actors); at most one per batch of recordings."""
    gpus: float | None = None
    """GPUs of each process: 0.25 places four on one GPU; 0: CPUs only. None: 0.25 if the cluster has free GPUs, else
    0."""
    json: bool = False
    """Print what was done as JSON."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    table = uri.checked_place(args.table)
    encoder = encoder_of(args.bundle, args.model, table)
    resources = Resources(max_actors=args.max_actors, gpus_per_actor=args.gpus)
    done = embed_cohort(uri.normalise(args.corpus), encoder, table, args.cohort, resources)
    if args.json:
        print(json.dumps({args.cohort: told(done)}))
    else:
        tell({args.cohort: done})
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


def newest_table(url: str) -> PinnedTable:
    """The embedding table as it is now. Raises InputError where there is none."""
    table = Table(url).newest()
    if table is None:
        raise InputError(
            "--table", value=f"no table at {url}", expected="an embedding table", fix="`xmae embed` makes it"
        )
    return table


def tell(done: Mapping[str, Outcome]) -> None:
    """Print what each cohort got."""
    for cohort, outcome in done.items():
        if outcome is None:
            print(f"{cohort}: nothing new")
        elif isinstance(outcome, Held):
            gone = f"; {outcome.withdrawn} recordings withdrawn" if outcome.withdrawn else ""
            print(f"{cohort}: HELD, nothing committed{gone}; {outcome.familiarity}; `xmae embed` commits it")
        else:
            print(f"{cohort}: {_said(outcome)}")
    if not any(done.values()):
        print("nothing new: the table is up to date")


def _said(published: Published) -> str:
    size = f"{published.rows} windows of {published.recordings} recordings"
    who = f"committed as version {published.version}" if published.version is not None else "committed by another job"
    gone = f", {published.withdrawn} recordings withdrawn" if published.withdrawn else ""
    compared = f"; {published.familiarity}" if published.familiarity else ""
    return f"{size} {who}{gone}; {sum(published.dropped.values())} windows dropped{compared}"
