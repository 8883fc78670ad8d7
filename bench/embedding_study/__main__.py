"""What frozen embeddings know of people whom nobody trained on; a row for each arm and seed.

    python -m bench.embedding_study                    (or: make model-study; many hours)
    python -m bench.embedding_study --minutes 90       (goes on from what is there, and ends in time)
    python -m bench.embedding_study --minutes 0        (the page alone, from rows and results)
    python -m bench.embedding_study --further 2000     (finished encoders, further people: make model-study-further)
    python -m bench.embedding_study --budget 2048 --people 120 --arms random cross features constant     (minutes)

Every trained arm sees the same windows of the same people in the same order, `--budget` of them in batches of 32. All
models are read by the same readout. Probes are linear, nested, with folds by person, on people of the test split alone.

A table of one seed is whole before the next begins (`planning`). Arms are trained at their objective's first learning
rate; when all seeds are there, three to five rates are tried, by the loss on validation people at a quarter of the
budget and the first seed, and where another one is better, arms are trained at that rate too. Last come three arms in
the size of `paper`, in the same way.

Rows are appended as they come, an arm's scores under draws of people are written beside them, and what is there is not
computed again: with these files a study goes on, on another machine too. Predictions, folds and models stay below
--out; what needs a model that is not there has it trained again. The arm in hand is kept every 500 steps and when the
process is asked to end (SIGTERM, --minutes). The page is written after each row. Two processes may work on different
seeds beside one another, with the same --out and --rows, each with a --page and --differences of its own.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import torch

from bench.embedding_study import ceilings, page, probing
from bench.embedding_study.arms import ATTENTIVE, NAMES, TOGETHER
from bench.embedding_study.further import Further
from bench.embedding_study.people import further, made
from bench.embedding_study.planning import Planned
from bench.embedding_study.study import Study
from bench.embedding_study.unfinished import Ending

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    args = _arguments()
    torch.set_num_threads(1)
    out, ending = args.out.resolve(), Ending(args.minutes)
    planned = Planned(args.arms, args.seeds, args.budget)
    study = Study(made(args.people, args.probe_windows, out), planned, probing.SIMULATED, args.rows, ending)
    if args.further:
        more = further(args.further, args.probe_windows, out)
        study = Further(study, more, args.rows.with_name(f"{args.rows.stem}-further.jsonl"), ending)
    study.untrained |= ceilings.arms(study)

    def write() -> None:
        compared, scores = study.compared()
        keys = {job.key for jobs in compared.values() for job in jobs}
        told = page.Told(study.rows(), keys, args.budget)
        if args.further:
            page.write_further(args.page, args.differences, told, scores)
        else:
            _, at_first = study.compared(replace(planned, tried=False))
            page.write(args.page, args.differences, told, scores, at_first)

    study.run(write)
    write()
    print(args.page)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.embedding_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--budget", type=int, default=200_000, help="windows that each trained arm sees")
    parser.add_argument("--people", type=int, default=1000, help="simulated people, half of each kind of device")
    parser.add_argument("--probe-windows", type=int, default=30, help="windows probed of each held-out recording")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(NAMES), choices=NAMES, metavar="ARM", help=", ".join(NAMES))
    parser.add_argument(
        "--further",
        type=int,
        default=0,
        metavar="PEOPLE",
        help="probe the finished encoders on so many people more, with rows and a page of their own; an encoder that is"
        " not below --out is trained again",
    )
    parser.add_argument("--out", type=Path, default=Path("model-study-out"), help="people, models and results, kept")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after so many; 0: the page alone")
    results = ROOT / "bench" / "results"
    parser.add_argument("--rows", type=Path, default=results / "embedding-study.jsonl")
    parser.add_argument("--differences", type=Path, help="default: in bench/results")
    parser.add_argument("--page", type=Path, help="default: docs/model-study.md or docs/model-study-further.md")
    args = parser.parse_args()
    kind = "-further" if args.further else ""
    args.differences = args.differences or results / f"embedding-study{kind}-differences.jsonl"
    args.page = args.page or ROOT / "docs" / f"model-study{kind}.md"
    if args.budget < 4 * 32 * 32:
        parser.error(f"--budget: {args.budget} windows; give at least {4 * 32 * 32}, so that curves have six points")
    for name in args.arms:
        other = {**TOGETHER, **ATTENTIVE}.get(name, name)
        if other not in args.arms:
            parser.error(f"--arms: {name!r} without {other!r}; name both")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
