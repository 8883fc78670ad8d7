"""What windows cost before the first is cut: the store found again, its parts planned."""

from __future__ import annotations

import tempfile

from bench.scale.register import operation
from xmae_dist.core.fingerprint import canonical_json
from xmae_dist.data.store.materialise import Making, StoreConfig, materialise
from xmae_dist.data.store.part_index import commit_index
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus


@operation("windows: the store found again", aim="< 3 s, < 300 MB")
def found(url: str) -> object:
    """The store has one part in its index, and none that could be read: to be found it needs no more."""
    corpus, config = Corpus.open(url), StoreConfig()
    making = Making(corpus, corpus.snapshot(), config, f"{url}-windows", "")
    document = making.document()
    place = uri.join(f"{url}-windows", document["fingerprint"])
    uri.write_bytes(uri.join(place, "store.json"), canonical_json(document))
    row = {"cohort": "cohort000", "split": "train", "part": "p000000", "n_windows": 1, "dropped": {}}
    commit_index(place, document["fingerprint"], [{**row, "n_recordings": 1, "n_subjects": 1}])
    return materialise(url, f"{url}-windows", config).fingerprint


@operation("windows: parts planned", aim="< 120 s, < 1 GB")
def planned(url: str) -> object:
    """Every part with the rows of its recordings, as tasks are handed them; none is written."""
    corpus = Corpus.open(url)
    with tempfile.TemporaryDirectory(prefix="bench-plan-") as folder:
        making = Making(corpus, corpus.snapshot(), StoreConfig(), f"{url}-windows", folder)
        parts = rows = 0
        for plan in making.plans(f"{url}-windows/planned"):
            parts, rows = parts + 1, rows + plan.rows.num_rows
    return f"{parts:,} parts of {rows:,} signals"
