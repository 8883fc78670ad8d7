"""`xmae embedding-map`: what a bundle's embeddings look like, coloured by device, person, quality and a label."""

from __future__ import annotations

import io
from dataclasses import dataclass

from xmae_dist.cli.embed import encoder_of
from xmae_dist.embed.backlog import View
from xmae_dist.embed.embedding_map import MOST_COHORTS, embedding_map
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Draw a map of the embeddings of a bundle in two dimensions (principal components of a bounded sample).

    One picture with a panel each for device, person, signal quality and, with --label, a label of the recordings.
    Points that lie close together are similar along the two directions of largest variance; differences along other
    directions are not shown.
    """

    corpus: str
    """URL of the corpus; labels are read from it."""
    table: str
    """URL of the embedding table."""
    out: str
    """Path or URL of the picture, a PNG."""
    bundle: str = ""
    """URL of the encoder bundle; give this or --model."""
    model: str = ""
    """Alias of a bundle in the table's registry, such as champion."""
    label: str = ""
    """A label of the recordings, such as age."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    table = uri.checked_place(args.table)
    encoder = encoder_of(args.bundle, args.model, table)
    found = embedding_map(View.of(uri.normalise(args.corpus), table), encoder, label=args.label)
    from xmae_dist.cli.map_picture import picture  # matplotlib is slow to import

    image = io.BytesIO()
    picture(found, title=f"bundle {encoder.model_id}", label=args.label).savefig(image, format="png", dpi=130)
    uri.write_bytes(uri.normalise(args.out), image.getvalue())
    print(f"{len(found.cohort_N)} windows of {len(set(found.subject_N.tolist()))} people: {args.out}")
    if found.cohorts_left_out:
        print(f"{found.cohorts_left_out} more cohorts are not drawn ({MOST_COHORTS} at most)")
    return 0
