"""Real devices against bedside monitors, by the commands themselves: are they told apart, and is a monitor from itself?

FOLDER holds `challenge2015`, `butppg`, `welltory` and `wrist` (docs/datasets.md says where they come from). Each is
ingested and embedded as a cohort of its own, the monitors first, and what `xmae embed` says of each is printed. Then
the monitors' people are split at random, as `bench/drift.py` splits simulated ones.

    OMP_NUM_THREADS=1 python bench/drift_real.py FOLDER [--bundle URL] [--splits 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.drift import row, splits
from xmae_dist.cli.main import main as xmae
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed.backlog import View
from xmae_dist.embed.familiar import sample_of
from xmae_dist.embed.pipeline import Resources, embed_cohort
from xmae_dist.embed.publish import Published
from xmae_dist.embed.request import Encoder, read_encoder
from xmae_dist.model import bundle, presets

MAPPINGS = Path(__file__).resolve().parents[1] / "docs" / "mappings"
MONITORS = "challenge2015"
OTHERS = ("welltory", "butppg", "wrist")


def main() -> int:
    """Prints a line a cohort, and writes them where --json says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", default="", help="URL; without it `tiny` with random weights")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xmae-drift-real-") as place:
        found = study(args, f"file://{place}")
    for name, told in found.items():
        print(f"{name}: {told}")
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))
    return 0


def study(args: argparse.Namespace, place: str) -> dict[str, Any]:
    """By cohort: people and windows, and how they compare; all stores are made below `place`."""
    corpus, table = f"{place}/corpus", f"{place}/table"
    encoder = read_encoder(args.bundle or random_bundle(f"{place}/bundle"))
    found: dict[str, Any] = {}
    for cohort in (MONITORS, *OTHERS):
        ingested(args.folder / cohort, corpus, cohort)
        done = embed_cohort(corpus, encoder, table, cohort, Resources(max_actors=1))
        assert isinstance(done, Published)
        found[cohort] = told(done) | people(corpus, table, encoder, cohort)
    known = sample_of(View.of(corpus, table), encoder.lineage(MONITORS))
    return found | {f"{MONITORS} against itself": row(list(splits(known, args.splits)))}


def random_bundle(url: str) -> str:
    bundle.save(url, presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={"origin": "bench"})
    return url


def ingested(folder: Path, corpus: str, cohort: str) -> None:
    words = ["ingest", str(folder), "--corpus", corpus, "--cohort", cohort]
    if cohort == MONITORS:
        words += ["--labels", str(folder / "manifest.csv"), "--subject-column", "patient_proxy"]
    else:
        words += ["--mapping", str(MAPPINGS / f"{cohort}.toml")]
    if xmae(words) == 2:  # 1: some recordings could not be read, as in any download
        raise RuntimeError(f"nothing of {folder} was taken in")


def people(corpus: str, table: str, encoder: Encoder, cohort: str) -> dict[str, int]:
    sample = sample_of(View.of(corpus, table), encoder.lineage(cohort))
    return {"people": len(sample.subject_P)}


def told(done: Published) -> dict[str, Any]:
    """What the commit says: the nearest comparison is the one with the monitors, or another device."""
    compared = done.familiarity
    if compared is None:
        return {"windows": done.rows}
    rows = [
        {
            "known": one.known,
            "people on a side": one.people,
            "auc": round(one.auc, 3),
            "threshold": round(one.threshold, 3),
            "p": round(one.p_value, 3),
            "mmd2": [round(value, 4) for value in (one.mmd2.value, one.mmd2.low, one.mmd2.high)],
            "quality shift": round(one.quality_shift.value, 3),
        }
        for one in compared.comparisons
    ]
    return {"windows": done.rows, "state": compared.state, "reasons": list(compared.reasons), "against": rows}


if __name__ == "__main__":
    sys.exit(main())
