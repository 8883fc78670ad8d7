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
    """Let an alias of an embedding table mean a bundle, in one commit; `xmae reembed --model ALIAS` embeds with it.

    The bundle must have been evaluated. Where the alias means another bundle already, both are compared task by task,
    paired by people where one evaluation has both, and the change is refused where the new one is worse beyond the
    margins (docs/promotion.md). Nothing is embedded or taken away here. Exit status: 0 moved, or it meant the bundle
    already; 1 moved, but MLflow could not be told; 2 refused.
    """

    bundle: Annotated[str, tyro.conf.Positional] = ""
    """URL of the encoder bundle."""
    alias: Annotated[str, tyro.conf.arg(name="as")]
    """The alias."""
    table: str
    """URL of the embedding table."""
    evaluation: str = ""
    """URL given to `xmae evaluate --out`; the present bundle is looked for there too, then in its own evaluation."""
    margin: float = Margins.score
    """How much less of a score (AUROC, F1, R², …) is still as good."""
    error_margin: float = Margins.error_share
    """How much more of an error is still as good, as a share of the present one."""
    force: bool = False
    """Promote it although it is worse, or cannot be compared; kept in the registry. An evaluation is needed all the
    same."""
    back: bool = False
    """Go back to what the alias meant before its last promotion, without a bundle. Embeds nothing again."""
    mlflow: str | None = None
    """URI of an MLflow server whose model registry is to have the same alias; credentials from MLflow's own
    environment. Without a bundle and --back, only this is done. Needs `pip install 'xmae_dist[mlflow]'`."""
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
            fix="leave one out",
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
