"""`xmae promote`: lets an alias such as `champion` mean a bundle, if it is no worse than what the alias means now."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from xmae_dist.core.errors import InputError, UsageError, XmaeError
from xmae_dist.core.optional import check_mlflow
from xmae_dist.embed.mlflow_aliases import tell_mlflow
from xmae_dist.embed.registry import Model, Move, Registry, State, checked
from xmae_dist.evaluate.promotion import Evidence, Judgement, Margins, evidence, judge
from xmae_dist.evaluate.scores.metrics import METRICS
from xmae_dist.model.bundle import load
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Point an alias of an embedding table to a bundle, in one commit; `xmae reembed --model ALIAS` then embeds with
    it.

    The bundle must have been evaluated. If the alias already points to another bundle, the two are compared task by
    task (paired by person if one evaluation contains both), and the change is refused if the new bundle is worse by
    more than the margins (docs/promotion.md). No rows are embedded or removed. Exit status: 0 the alias was moved, or
    already pointed to the bundle; 1 the alias was moved, but MLflow could not be updated; 2 refused.
    """

    bundle: Annotated[str, tyro.conf.Positional] = ""
    """URL of the encoder bundle."""
    alias: Annotated[str, tyro.conf.arg(name="as")]
    """Alias to move, such as champion."""
    table: str
    """URL of the embedding table."""
    evaluation: str = ""
    """URL of an evaluation of the bundle (--out of `xmae evaluate`). Results of the present bundle are taken from it
    too, if it contains them, otherwise from the evaluation that the present bundle was promoted with."""
    margin: float = Margins.score
    """Largest decrease of a score (AUROC, F1, R², …) that still counts as equally good."""
    error_margin: float = Margins.error_share
    """Largest increase of an error that still counts as equally good, as a share of the error of the present bundle."""
    force: bool = False
    """Promote the bundle even if it is worse or cannot be compared; the registry records this. An evaluation is still
    required."""
    back: bool = False
    """Point the alias back to the bundle from before its last promotion; give no BUNDLE. Nothing is embedded again."""
    mlflow: str | None = None
    """URI of an MLflow server; the same alias is set in its model registry. Credentials come from MLflow's own
    environment variables. With neither a bundle nor --back, only MLflow is updated. Needs `pip install
    'xmae_dist[mlflow]'`."""
    mlflow_model: str = "xmae-encoder"
    """Name of the registered model there; each bundle becomes a version of it."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    checked(args.alias)
    if args.mlflow:
        check_mlflow("--mlflow", args.mlflow)
    registry = Registry(args.table)
    if not _only_mlflow(args):
        _move(args, registry)
    if args.mlflow:
        version = tell_mlflow(registry, args.alias, tracking_uri=args.mlflow, model=args.mlflow_model)
        print(f"MLflow: {args.alias} is version {version} of {args.mlflow_model}", file=sys.stderr)
    return 0


def _only_mlflow(args: Args) -> bool:
    return bool(args.mlflow) and not (args.bundle or args.back or args.evaluation)


def _move(args: Args, registry: Registry) -> None:
    if args.back:
        _refuse_beside_back(args)
        _tell(args, registry.go_back(args.alias), None, moved=True)
        return
    _require(args)
    bundle_url = uri.normalise(args.bundle)
    bundle = load(bundle_url)  # a half-written one is found here
    found = evidence(uri.normalise(args.evaluation), bundle.bundle_id)
    state = registry.state()
    present = state.meant_by(args.alias)
    if present is not None and present.model_id == bundle.bundle_id and present.bundle == bundle_url:
        _tell(args, present, None, moved=False)
        return
    judgement = _judged(args, found, present, bundle.bundle_id)
    model = Model(
        model_id=bundle.bundle_id,
        bundle=bundle_url,
        evaluation=found.evaluation,
        evaluation_version=found.version,
        comparison=json.dumps(judgement.to_dict() if judgement else _scores(found)),
        run=str(bundle.lineage.get("run", "")),
    )
    _tell(args, _moved(args, registry, model, state, judgement), judgement, moved=True)


def _moved(args: Args, registry: Registry, model: Model, seen: State, judgement: Judgement | None) -> Move:
    refusals = judgement.refusals() if judgement else []
    if refusals and not args.force:
        _show(judgement)
        raise InputError(
            f"bundle {model.bundle}",
            value="; ".join(refusals),
            expected=f"no worse than what {args.alias!r} means now",
            fix="keep the present one, evaluate both in one command and with more people, or --force",
        )
    return registry.promote(args.alias, model, seen=seen, forced=bool(refusals))


def _judged(args: Args, found: Evidence, present: Move | None, model_id: str) -> Judgement | None:
    """None where there is nothing to compare with: no bundle yet, or the same weights at another URL."""
    if present is None or present.model_id == model_id:
        return None
    try:
        return judge(found, _evidence_of(present, found), Margins(score=args.margin, error_share=args.error_margin))
    except XmaeError as error:
        return Judgement(tasks=(), missing=(), failure=str(error))


def _evidence_of(present: Move, found: Evidence) -> Evidence:
    """The present bundle's results: those that can be paired, and of other tasks those it was promoted on."""
    sources = dict.fromkeys(url for url in (present.evaluation, found.evaluation) if url)
    known, failed = [], None
    for url in sources:
        try:
            known.append(evidence(url, present.model_id))
        except XmaeError as error:
            failed = error
    if not known:
        raise failed or InputError(f"bundle {present.model_id}", value="no evaluation", expected="one to compare with")
    results = {key: result for one in known for key, result in one.results.items()}
    return dataclasses.replace(known[-1], results=results)


def _require(args: Args) -> None:
    for name, value in (("BUNDLE", args.bundle), ("--evaluation", args.evaluation)):
        if not value:
            raise UsageError(
                name, value="none", expected="a bundle and an evaluation of it", fix="see `xmae promote --help`"
            )


def _refuse_beside_back(args: Args) -> None:
    if args.bundle or args.evaluation or args.force:
        raise UsageError(
            "--back", value="a bundle, --evaluation or --force beside it", expected="--as and --table alone",
            fix="leave the bundle, --evaluation and --force out",
        )  # fmt: skip


def _scores(found: Evidence) -> dict[str, Any]:
    return {"tasks": [{"task": one.task.name, "protocol": one.protocol, "metric": one.task.metric,
                       "new": one.headline.value} for one in found.results.values()]}  # fmt: skip


def _tell(args: Args, move: Move, judgement: Judgement | None, *, moved: bool) -> None:
    if args.json:
        told = {**dataclasses.asdict(move), "at": move.at.isoformat(), "comparison": json.loads(move.comparison)}
        print(json.dumps({"moved": moved, **told}))
        return
    _show(judgement)
    if not moved:
        print(f"{args.alias} means {move.model_id} already ({move.bundle})")
    elif move.action == "returned":
        print(f"{args.alias} means {move.model_id} again ({move.bundle}); nothing is embedded again")
    else:
        print(f"{args.alias} now means {move.model_id} ({move.bundle}), {move.action}")


def _show(judgement: Judgement | None) -> None:
    """Of each task its verdict, scores, difference with its interval, and margin, in lines that fit a terminal."""
    for one in judgement.tasks if judgement else ():
        d = one.difference
        how = "paired" if one.paired else "not paired"
        protocol = f"{one.protocol} of {one.labelled_subjects}" if one.labelled_subjects else one.protocol
        print(f"{one.task}, {protocol}: {one.verdict}")
        print(
            f"  {METRICS[one.metric].title} {one.new:.3f} against {one.present:.3f}, gain {d.value:+.3f} "
            f"[{d.low:+.3f}, {d.high:+.3f}]"
        )
        print(f"  {how}, {one.n_subjects} people; margin {one.margin:.3g}")
