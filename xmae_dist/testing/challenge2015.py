"""`make challenge2015 RECORDINGS=folder`: the main job on real bedside recordings, to a report.

Takes a folder of the PhysioNet/CinC Challenge 2015 training set with a `manifest.csv` that names the patient of each
record (`patient_proxy`): ingests it to the S3 server, inspects and verifies the corpus, pretrains by
`ray job submit`, and evaluates the encoder beside its controls.
"""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path

from xmae_dist.storage.uri import download_tree
from xmae_dist.testing.demo import Demo, on_embedded_store


def run(demo: Demo, *, recordings: Path, recipe: str, options: list[str]) -> Path:
    """All stages in order; returns the path of the report on local disk."""
    corpus, run_url = f"{demo.store}/corpus", f"{demo.store}/runs/{recipe}"
    bundle, evaluation = f"{demo.store}/bundles/{recipe}", f"{demo.store}/evaluations/{recipe}"
    ingest = (str(recordings), "--corpus", corpus, "--cohort", "challenge2015")
    labels = ("--labels", str(recordings / "manifest.csv"), "--subject-column", "patient_proxy")
    demo.command("ingest", "ingest", *ingest, *labels)
    demo.command("inspect", "inspect", corpus, "--picture", str(demo.out / "corpus.png"))
    demo.command("verify", "verify", corpus)
    demo.job("pretrain", "jobs/pretrain.py", recipe, "--corpus", corpus, "--run", run_url, *options)
    demo.command("export", "export", "--run", run_url, "--out", bundle)
    demo.job(
        *("evaluate", "jobs/evaluate.py", "--corpus", corpus, "--windows", f"{corpus}/windows"),
        *("--bundle", bundle, "--suite", "challenge2015", "--run", run_url, "--out", evaluation),
    )
    demo.command("report", "report", evaluation, "--run", run_url, "--out", str(demo.out / "report"))
    # The store ends with the demo; metrics and figures stay.
    os.environ.update({name: value for name, value in demo.environment.items() if name.startswith("AWS_")})
    download_tree(run_url, demo.out / "run")
    return demo.out / "report" / "report.html"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, help="folder of the recordings and their manifest.csv")
    parser.add_argument("--recipe", default="challenge_cpu2", help="pretraining recipe (default challenge_cpu2)")
    parser.add_argument("--out", type=Path, default=Path("challenge2015-out"), help="folder for report and logs")
    known, options = parser.parse_known_args()
    mission = functools.partial(run, recordings=known.recordings.resolve(), recipe=known.recipe, options=options)
    return on_embedded_store(mission, known.out.resolve())


if __name__ == "__main__":
    raise SystemExit(main())
