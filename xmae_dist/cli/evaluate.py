"""`xmae evaluate`: encoders on downstream tasks, in parallel, beside their controls."""

from __future__ import annotations

import dataclasses
import json
import shutil
import textwrap
from dataclasses import dataclass
from typing import Annotated

import tyro

from xmae_dist.cli.follow import Watch, checkpoints
from xmae_dist.core import tables
from xmae_dist.core.errors import UsageError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SPLITS
from xmae_dist.evaluate import kept
from xmae_dist.evaluate.chosen import ChosenWindows
from xmae_dist.evaluate.encoders.degradation import parse_degradations
from xmae_dist.evaluate.encoders.frozen import resolve
from xmae_dist.evaluate.encoders.pretrained import Pretrained, check_unseen, pretrained, recalled, remember
from xmae_dist.evaluate.encoders.spec import EncoderSpec, parse_bundles, with_controls
from xmae_dist.evaluate.fanout import run_fits, run_rows
from xmae_dist.evaluate.report import findings
from xmae_dist.evaluate.report.compare import Comparison, by_task, comparisons, tallies
from xmae_dist.evaluate.report.write import as_json, write_report
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.run import EvaluateConfig, Plan, find_store, plan
from xmae_dist.evaluate.scores.metrics import METRICS
from xmae_dist.evaluate.tasks import load_suite
from xmae_dist.evaluate.transfer.requests import plan_transfer
from xmae_dist.evaluate.transfer.worn import with_index_columns
from xmae_dist.model.bundle import describe
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Fit probes on frozen encoders for downstream tasks, with a random-weight encoder and pulse features as controls.

    Labels and folds are checked before any fit. Fits run as Ray tasks. Each result is committed once, so the same
    command again computes only what is missing. Writes a report (HTML, JSON, Parquet) to OUT/report.
    """

    windows: str
    """URL of a window store, or of the folder with window stores."""
    out: str
    """URL for embeddings, results and the report."""
    bundle: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """URL of an encoder bundle, or name=URL; may be given several times. The random control copies the first one."""
    control: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """name=URL of a bundle to use as a control; may be given several times."""
    readout: str = ""
    """How embeddings are computed from tokens, for every bundle and the random control: mean, mean_std, extremes,
    quantiles or spectrum (docs/model.md). Empty: as stated in each bundle."""
    protocols: tuple[str, ...] = ("linear",)
    """One or more of linear (probe), knn, few (the probe with few labelled people), finetune."""
    cohorts: tuple[str, ...] = ()
    """Use only windows of these cohorts."""
    suite: str = "simulated"
    """A built-in suite of tasks, or the URL of a .toml file."""
    corpus: str = ""
    """URL of the corpus: finds or creates, below --windows, the store of its newest snapshot with the specification and
    split of the first bundle."""
    tasks: tuple[str, ...] = ()
    """Use only these tasks of the suite."""
    run: str = ""
    """URL of a pretraining run, to include its figures in the report."""
    seed: int = 0
    """Determines folds, bootstrap draws, sampled windows and the random control."""
    splits: tuple[str, ...] = SPLITS
    """Splits of the window store whose subjects are used. Leaving out train needs bundles that were pretrained with the
    split of the store, so that pretraining saw none of these subjects."""
    replicates: int = 1000
    """Bootstrap draws of subjects."""
    max_windows_per_subject: int = 100
    """Largest number of windows of a subject in a window-level task, chosen by a hash; 0: all."""
    max_units: int = 200_000
    """Largest number of predictions (windows, epochs, recordings or subjects) of a task; 0: all. If there are more,
    every subject gives the same number, or all that it has, chosen by a hash."""
    transfer_by: tuple[str, ...] = ()
    """Train on one condition and test on the others, as a matrix, by cohort, device or body_site (the last two need
    --corpus), or by any label of the windows, such as site.
    """
    degrade: tuple[str, ...] = ()
    """Also test on degraded windows: rate (levels in Hz), noise (in dB) or motion (in multiples of the pulse), with
    levels if wanted: rate=50,25 noise=10,0."""
    max_windows_per_recording: int = 0
    """Largest number of windows of a recording to use, evenly spaced; 0: all. Fewer make embedding faster."""
    pooling: str = "mean"
    """How windows of a recording or a person are combined: mean, or moments (mean, standard deviation, smallest and
    largest value of each feature: a mean hides rare beats)."""
    gpus: float | None = None
    """GPUs of each embedding or fine-tuning task: 0.25 places four on one GPU; 0: CPUs only. None: 0.25 if the cluster
    has free GPUs, else 0."""
    skip_unusable: bool = False
    """Report and leave out tasks whose labels cannot be evaluated, instead of stopping."""
    follow: str = ""
    """URL of a pretraining run: evaluate each of its checkpoints as it appears, during training."""
    last_step: int | None = None
    """With --follow: stop after the checkpoint of this step."""
    poll_s: float = 20.0
    """With --follow: seconds between checks for new checkpoints."""
    patience_s: float = 3600.0
    """With --follow: stop if no checkpoint appears for this time."""
    json: bool = False
    """Print results as JSON instead of a table."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    if not args.bundle and not args.follow:
        raise UsageError("--bundle", value="none", expected="the URL of a bundle, or --follow RUN")
    uri.checked_place(args.out)  # told before the work, not after it
    if args.follow:
        return _follow(args)
    results, planned = _evaluate(args, with_controls(_bundles(args), args.seed))
    report = write_report(args.out, uri.join(args.out, "report"), run_url=args.run, skipped=planned.skipped)
    _show(results, planned, report, args)
    return 0


def _bundles(args: Args) -> tuple[EncoderSpec, ...]:
    return parse_bundles(args.bundle, controls=args.control, readout=args.readout)


def _evaluate(args: Args, encoders: tuple[EncoderSpec, ...]) -> tuple[list[Result], Plan]:
    suite = load_suite(args.suite).only(args.tasks)
    degradations = parse_degradations(args.degrade)
    config = EvaluateConfig(
        seed=args.seed,
        n_replicates=args.replicates,
        max_windows_per_subject=args.max_windows_per_subject,
        max_units=args.max_units,
        max_windows_per_recording=args.max_windows_per_recording,
        pooling=args.pooling,
        splits=args.splits,
        cohorts=args.cohorts,
        protocols=args.protocols,
    )
    store = find_store(
        args.windows,
        corpus_url=args.corpus,
        spec=_spec_of(encoders[0]),
        split=pretrained(encoders[0]).split,
        cohorts=args.cohorts,
    )
    encoders = tuple(resolve(spec, store.spec) for spec in encoders)
    windows = ChosenWindows(
        store=store,
        splits=config.splits,
        cohorts=config.cohorts,
        max_windows_per_recording=config.max_windows_per_recording,
    )
    check_unseen(args.splits, store.split_config, windows.subjects, encoders)
    planned = plan(suite, encoders, windows, store.fingerprint, config, skip_unusable=args.skip_unusable)
    worn = with_index_columns(windows, args.corpus, store.spec.source, args.transfer_by)
    moved = plan_transfer(planned, worn, by=args.transfer_by, degradations=degradations)
    remember(args.out, encoders)
    kept.remember(args.out, store)
    results = run_fits(planned, store, args.out, gpus=args.gpus)
    run_rows(moved, store, args.out, gpus=args.gpus)
    left_out = planned.skipped | dict(moved.skipped) | _limited(planned)
    return results, dataclasses.replace(planned, skipped=left_out)


def _limited(planned: Plan) -> dict[str, str]:
    """By task with more units than take part, how many do not."""
    return {
        name: f"{units.left_out:,} of {units.left_out + len(units.y_N):,} predictions, drawn by a hash (--max-units)"
        for name, units in planned.examples_of_task.items()
        if units.left_out
    }


def _follow(args: Args) -> int:
    """Evaluates each checkpoint as it appears; the report can be made at any time with `xmae report`."""
    watch = Watch(
        run=args.follow,
        bundles=uri.join(args.out, "bundles"),
        poll_s=args.poll_s,
        last_step=args.last_step,
        patience_s=args.patience_s,
    )
    fixed = with_controls(_bundles(args), args.seed) if args.bundle else ()
    for checkpoint in checkpoints(watch):
        results, planned = _evaluate(args, (checkpoint, *fixed))
        _show_scores(results, recalled(args.out))
        _show_left_out(planned)
    return 0


def _spec_of(first: EncoderSpec) -> WindowSpec | None:
    stored = describe(first.url)["window_spec"]
    return WindowSpec.from_dict(stored) if stored else None


def _show(results: list[Result], planned: Plan, report: str, args: Args) -> None:
    found, known = comparisons(results), recalled(args.out)
    if args.json:
        document = as_json(results, found, planned.skipped, known, shares=kept.recalled(args.out))
        print(json.dumps(document | {"report": report}))
        return
    _show_findings(results, found, known)
    _show_left_out(planned)
    for tally in tallies(found):
        print(
            f"{tally.encoder} beats {tally.against} on {tally.better} of {tally.tasks} tasks, is worse on {tally.worse}"
            f"; corrected over tasks (Holm): {tally.better_after_holm} and {tally.worse_after_holm}"
        )
    print(f"report: {report}")


def _show_scores(results: list[Result], known: dict[str, Pretrained]) -> None:
    rows = []
    for result in results:
        score, metric = result.headline, METRICS[result.task.metric].title
        if result.task.metric == "mae" and result.task.label_unit:
            metric += f", {result.task.label_unit}"
        interval = f"[{score.low:.3f}, {score.high:.3f}]"
        told = (_people(result, known), _how(result))
        rows.append((result.task.name, result.encoder, metric, f"{score.value:.3f}", interval, *told))
    columns = ("task", "encoder", "metric", "score", "95 % interval", "people", "protocol")
    tables.show(tables.terminal(), "scores", columns, rows, numbers=("score", "95 % interval"))


def _show_findings(results: list[Result], found: list[Comparison], known: dict[str, Pretrained]) -> None:
    """A sentence a task for each encoder, by the linear probe; where there is none, every score."""
    groups = by_task(results)
    if not groups:
        _show_scores(results, known)
    width = shutil.get_terminal_size().columns
    for group in groups.values():
        for result in group:
            if result.role == "encoder":
                said = f"{result.task.title}, {_people(result, known)}: {findings.sentence(result, group, found)}"
                print(textwrap.fill(said, width, subsequent_indent="  ", break_long_words=False))
    others = [result for result in results if groups and result.protocol != "linear"]
    if others:
        protocols = ", ".join(dict.fromkeys(result.protocol for result in others))
        print(f"{len(others)} more results ({protocols}) are in the report")


def _show_left_out(planned: Plan) -> None:
    for name, why in planned.skipped.items():
        # In full in the report: what is expected may be a list of every label.
        print(f"left out: {name}: {textwrap.shorten(why.removeprefix(f'task {name}: '), 160, placeholder=' …')}")


def _people(result: Result, known: dict[str, Pretrained]) -> str:
    told = known[result.encoder_id].told(result.scored.predictions.subject_N)
    return f"{result.n_subjects} subjects" + (f" ({told})" if told else "")


def _how(result: Result) -> str:
    people = f" of {result.labelled_subjects} labelled" if result.labelled_subjects else ""
    return result.protocol + people
