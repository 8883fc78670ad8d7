"""`xmae reembed`: whatever is new, in every cohort that has the encoder's signal. Made to be run on a schedule."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass

from xmae_dist.cli.embed import encoder_of, tell
from xmae_dist.core.errors import InputError
from xmae_dist.embed import metrics
from xmae_dist.embed.backlog import View
from xmae_dist.embed.embedding_map import embedding_map
from xmae_dist.embed.pipeline import Resources
from xmae_dist.embed.request import Encoder
from xmae_dist.embed.tick import EXIT_STATUS, Tick, look, tick
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Write embeddings of all recordings that are new or changed: one commit for each cohort with something new.

    If nothing is new, only the logs of corpus and table are read and the exit status is 0. So it may run as often as
    you like: from cron, as a KubeRay RayCronJob, or after every ingest. Rows of people who were withdrawn from the
    corpus are removed, for every bundle in the table. New recordings are compared with the cohorts in the table
    (docs/drift.md). The last line is for schedulers (docs/schedule.md). Exit status: 0 all is embedded, 1 a cohort or
    the tick failed, 2 bad usage or input, or a store that does not answer, 3 a cohort is held back, or behind with
    --look.
    """

    corpus: str
    """URL of the corpus."""
    bundle: str = ""
    """URL of the encoder bundle; give this or --model."""
    model: str = ""
    """Alias of a bundle in the table's registry, such as champion (`xmae promote`)."""
    table: str
    """URL of the embedding table; created if it does not exist."""
    max_actors: int = 64
    """Largest number of encoding processes (Ray actors); at most one per batch of recordings."""
    gpus: float | None = None
    """GPUs of each process: 0.25 places four on one GPU; 0: CPUs only. None: 0.25 if the cluster has free GPUs, else
    0."""
    hold_on_drift: bool = False
    """Do not commit cohorts that differ from every known cohort. After you have checked such a cohort, commit it with
    `xmae embed`."""
    look: bool = False
    """Embed nothing: report which cohorts are behind, and for how long."""
    metrics: str = ""
    """Also write gauges to this file, for node_exporter's textfile collector (a name that ends in .prom)."""
    report: str = ""
    """Also write a page about this tick, with a map of the embeddings, to this folder or URL."""
    json: bool = False
    """Print what was done as JSON."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    corpus, table = uri.normalise(args.corpus), uri.checked_place(args.table)
    encoder = encoder_of(args.bundle, args.model, table)
    resources = Resources(max_actors=args.max_actors, gpus_per_actor=args.gpus)
    if args.look:
        done = look(corpus, encoder, table)
    else:
        done = tick(corpus, encoder, table, resources, hold=args.hold_on_drift)
    if args.metrics:
        metrics.write(args.metrics, done, table)
    page = _put_page(args.report, done, View.of(corpus, table), encoder) if args.report else ""
    if args.json:
        print(json.dumps({**done.to_dict(), "report": page or None}))
    else:
        _show(done, page)
    return EXIT_STATUS[done.state]


def _show(done: Tick, page: str) -> None:
    if not done.looked:
        tell({cohort: one for cohort, one in done.outcomes.items() if cohort not in done.failed})
    for cohort, why in done.failed.items():
        print(f"{cohort}: FAILED: {why}")
    for cohort, lag_s in done.lag.lag_s_of.items():
        print(f"{cohort}: behind for {lag_s / 3600:.1f} h")
    if page:
        print(f"report: {page}")
    print(done.line)


def _put_page(folder: str, done: Tick, view: View, encoder: Encoder) -> str:
    """Writes the page of a tick and returns its URL."""
    from xmae_dist.cli.map_picture import picture  # matplotlib is slow to import
    from xmae_dist.cli.tick_page import tick_page

    ended = datetime.datetime.now(datetime.UTC)
    try:
        drawn = picture(embedding_map(view, encoder), title="")
    except InputError:  # a table without rows yet has no map
        drawn = None
    url = uri.join(uri.normalise(folder), f"tick-{ended:%Y%m%dT%H%M%SZ}.html")
    page = tick_page(done, table_url=view.table_url, ended=f"{ended:%Y-%m-%d %H:%M} UTC", drawn=drawn)
    uri.write_bytes(url, page.encode())
    return url
