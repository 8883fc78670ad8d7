"""`xmae reembed`: whatever is new, in every cohort that has the encoder's signal. Made to be run on a schedule."""

from __future__ import annotations

import json
from dataclasses import dataclass

from xmae_dist.cli.embed import encoder_of, tell
from xmae_dist.embed import metrics
from xmae_dist.embed.backlog import View
from xmae_dist.embed.lag import lag
from xmae_dist.embed.pipeline import Resources
from xmae_dist.embed.tick import ATTENTION, EXIT_STATUS, Tick, likeness_of, tick
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Embed whatever is new since the last time: one commit per cohort with something new.

    With nothing new it reads what the logs of corpus and table state, no rows, says so and exits 0, so it may run as
    often as you like: from cron, as a KubeRay RayCronJob, or after every ingest. Whoever was withdrawn from the corpus
    leaves the rows of every bundle in the table, not only of this one. What is new is compared with the cohorts that
    the table knows (docs/drift.md). The last line is for schedulers (docs/schedule.md). Exit status: 0 all is embedded,
    1 some cohort or the tick failed, 2 bad usage or input, 3 some cohort is held back, or behind with --look.
    """

    corpus: str
    """URL of the corpus."""
    bundle: str = ""
    """URL of the encoder bundle; or --model."""
    model: str = ""
    """Alias of a bundle in the table's registry, such as champion (`xmae promote`)."""
    table: str
    """URL of the embedding table; made if there is none."""
    max_actors: int = 64
    """Encoding actors at most; there are never more than batches of recordings."""
    gpus: float | None = None
    """GPUs of each actor, which Ray must give it (0.25 packs four actors on one); 0: CPUs alone. None: 0.25 where the
    cluster has GPUs that are free, else 0."""
    hold_on_drift: bool = False
    """Do not commit what is like no known cohort; `xmae embed` commits it after you have looked."""
    look: bool = False
    """Embed nothing: say which cohorts are behind, and for how long."""
    metrics: str = ""
    """Also write gauges to this file, for node_exporter's textfile collector (a name that ends in .prom)."""
    json: bool = False
    """Print what was done as JSON."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    corpus, table = uri.normalise(args.corpus), uri.checked_place(args.table)
    encoder = encoder_of(args.bundle, args.model, table)
    resources = Resources(max_actors=args.max_actors, gpus_per_actor=args.gpus)
    if args.look:
        view = View.of(corpus, table)
        nothing = dict.fromkeys(view.cohorts(encoder))
        likeness = likeness_of(view, encoder)
        done = Tick(model_id=encoder.model_id, outcomes=nothing, failed={}, lag=lag(view, encoder), likeness=likeness)
    else:
        done = tick(corpus, encoder, table, resources, hold=args.hold_on_drift)
    if args.metrics:
        metrics.write(args.metrics, done, table)
    if args.json:
        print(json.dumps(done.to_dict()))
    else:
        _show(done, looked=args.look)
    if args.look and done.lag.lag_s_of:
        return EXIT_STATUS[ATTENTION]
    return EXIT_STATUS[done.state]


def _show(done: Tick, *, looked: bool) -> None:
    if not looked:
        tell({cohort: one for cohort, one in done.outcomes.items() if cohort not in done.failed})
    for cohort, why in done.failed.items():
        print(f"{cohort}: FAILED: {why}")
    for cohort, lag_s in done.lag.lag_s_of.items():
        print(f"{cohort}: behind for {lag_s / 3600:.1f} h")
    print(done.line)
