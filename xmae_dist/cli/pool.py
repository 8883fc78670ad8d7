"""`xmae pool`: one vector a person or recording, as Parquet files."""

from __future__ import annotations

import json
from dataclasses import dataclass

from xmae_dist.cli.embed import encoder_of, newest_table
from xmae_dist.embed.pooled import By, Pooling, pooled
from xmae_dist.storage import parquet, uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write one vector per person or recording from the windows of an embedding table, as Parquet.

    Writes `subjects.parquet` (one row per person, over all cohorts), or one `<cohort>.parquet` per cohort (one row per
    recording). Columns: the ids, `windows` (their number), their mean `quality`, and `embedding` (a list of fixed
    size). The metadata of a file states the bundle and the version of the table. A person who withdraws later stays in
    the file: run the command again to overwrite it.
    """

    table: str
    """URL of the embedding table."""
    out: str
    """URL of the folder for the files."""
    by: By = "subject"
    """subject: one vector per person; recording: one vector per recording."""
    pooling: Pooling = "mean"
    """How the windows of a person or recording are combined: mean, or moments (mean, standard deviation, smallest and
    largest value of each feature, concatenated: four times as long). Same as `xmae evaluate --pooling`."""
    bundle: str = ""
    """URL of the encoder bundle; give this or --model."""
    model: str = ""
    """Alias of a bundle in the table's registry, such as champion."""
    cohorts: tuple[str, ...] = ()
    """Use only windows of these cohorts; all if none is given."""
    min_quality: float = 0.0
    """Leave out windows with a quality below this value (0 to 1)."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    url, out = uri.checked_place(args.table), uri.checked_place(args.out)
    encoder = encoder_of(args.bundle, args.model, url)
    table = newest_table(url)
    about = {
        "model_id": encoder.model_id, "spec_id": encoder.spec_id, "table": url, "version": table.version,
        "by": args.by, "pooling": args.pooling, "min_quality": args.min_quality,
    }  # fmt: skip
    files = {}
    for name, rows in pooled(
        table, encoder, by=args.by, pooling=args.pooling, cohorts=args.cohorts, min_quality=args.min_quality
    ):
        file = uri.join(out, f"{name}.parquet")
        uri.write_bytes(file, parquet.encode(rows.replace_schema_metadata({"xmae": json.dumps(about)})))
        files[file] = len(rows)
        if not args.json:
            print(f"{file}: {len(rows)} {args.by}s of {sum(rows['windows'].to_pylist())} windows")
    if args.json:
        print(json.dumps({**about, "files": files}))
    return 0
