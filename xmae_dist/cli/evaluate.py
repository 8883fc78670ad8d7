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
from xmae_dist.evaluate.tasks import builtin_suites, load_suite
from xmae_dist.evaluate.transfer.requests import plan_transfer
from xmae_dist.evaluate.transfer.worn import with_index_columns
from xmae_dist.model.bundle import describe
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Probe frozen encoders on downstream tasks, beside a random-weight encoder and pulse features.

    Labels and folds are checked before anything is fitted. Fits run as Ray tasks; each result is committed once, so
    the same command again computes only what is missing. Ends with a report (HTML, JSON, Parquet) under OUT/report.
    """

    windows: str
    """URL of a window store, or of the folder that holds it."""
    out: str
    """URL under which embeddings, results and the report are kept."""
    bundle: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """URL of an encoder bundle, or name=URL; may be given several times. The first is the one controls copy."""
    control: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """name=URL of a bundle to stand beside as a control; may be given several times."""
    readout: str = ""
    """How the tokens of every bundle and of the random control become an embedding: mean, mean_std, extremes, quantiles
    or spectrum (docs/model.md). Empty: as each bundle states."""
    protocols: tuple[str, ...] = ("linear",)
    """linear (probe), knn, few (the probe with few labelled people), finetune; any of them."""
    cohorts: tuple[str, ...] = ()
    """Only windows of these cohorts."""
    suite: str = "simulated"
    """A built-in suite of tasks, or the URL of a .toml file."""
    corpus: str = ""
    """URL of the corpus: chooses (or makes) the window store of its newest snapshot, with the first bundle's
    specification and split, where --windows holds several."""
    tasks: tuple[str, ...] = ()
    """Only these tasks of the suite."""
    run: str = ""
    """URL of the pretraining run whose figures the report shows."""
    seed: int = 0
    """Decides folds, bootstrap draws, sampled windows and the random control."""
    splits: tuple[str, ...] = SPLITS
    """Splits of the window store whose subjects take part. Without train only where every bundle was pretrained under
    the store's split, so that pretraining saw none of them."""
    replicates: int = 1000
    """Bootstrap draws of subjects."""
    max_windows_per_subject: int = 100
    """Windows of a subject in a window-level task, chosen by hash; 0 takes all."""
    transfer_by: tuple[str, ...] = ()
    """Train on one device and test on the others, as a matrix: cohort, device or body_site (these two with --corpus),
    or any label of the windows, such as site.
    """
    degrade: tuple[str, ...] = ()
    """Test on degraded windows: rate, noise or motion, each with levels if you like (rate=50,25 noise=10,0)."""
    max_windows_per_recording: int = 0
    """Windows of a recording that take part at all, evenly spaced; 0 takes all. Fewer make embedding shorter."""
    gpus: float | None = None
    """GPUs of each task that embeds or fine-tunes, which Ray must give it (0.25 packs four on one); 0: CPUs alone.
    None: 0.25 where the cluster has GPUs that are free, else 0."""
    skip_unusable: bool = False
    """Leave out tasks whose labels cannot be evaluated, naming them, instead of stopping."""
    follow: str = ""
    """URL of a pretraining run: evaluate each of its checkpoints as it appears, beside the training."""
    last_step: int | None = None
    """With --follow: stop after the checkpoint of this step."""
    poll_s: float = 20.0
    """With --follow: seconds between looks for new checkpoints."""
    patience_s: float = 3600.0
    """With --follow: stop when none came for so long."""
    json: bool = False
    """Print results as JSON instead of a table."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    if not args.bundle and not args.follow:
        raise UsageError("--bundle", value="none", expected=f"a bundle URL (suites: {', '.join(builtin_suites())})")
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
        max_windows_per_recording=args.max_windows_per_recording,
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
    return results, dataclasses.replace(planned, skipped=planned.skipped | dict(moved.skipped))


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
    width = max(len(r.encoder) for r in results)
    for result in results:
        score = result.headline
        unit = f" {result.task.label_unit}" if result.task.metric == "mae" and result.task.label_unit else ""
        print(
            f"{result.task.name:<16} {result.encoder:<{width}}  {METRICS[result.task.metric].title} "
            f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]{unit}  {_people(result, known)}  {_how(result)}"
        )


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
