"""The driver of a pretraining run: checks everything, makes windows, hands the run to Ray Train, shows it.

Nothing starts before all that can be known to be wrong has been ruled out, and whatever is wrong is told with the
option that mends it. The run itself is described by its URL: the same command continues it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from xmae_dist.cluster import demand, fanout, pools
from xmae_dist.core.errors import ConfigError, RunError, XmaeError
from xmae_dist.core.fingerprint import canonical_json, digest_json
from xmae_dist.data.order.plan import plan_for
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.train.checkpoints.state import Identity
from xmae_dist.train.config import PretrainConfig, ResourceConfig, check, model_config
from xmae_dist.train.job import Job
from xmae_dist.train.observe.display import Display
from xmae_dist.train.observe.startup import Marks, process_started_s
from xmae_dist.train.observe.verdict import verdict
from xmae_dist.train.survival.board import Board
from xmae_dist.train.survival.grace import short_grace
from xmae_dist.train.survival.lease import Held, hold

_DRAW_EVERY_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished run came to."""

    run: str
    step: int
    loss: float | None
    verdict: str | None
    """Whether the model uses its source, by the last validation; None where there was none."""
    figures: list[str]


def pretrain(config: PretrainConfig) -> Outcome:
    """Runs, or continues, the run at `config.run`.

    Raises ConfigError and StorageError before any worker starts, RunError where the run fails or is stopped.
    """
    marks = Marks(process_started_s())
    marks.note("imports")
    check(config)
    if warning := short_grace(os.environ):
        print(f"pretrain: {warning}", file=sys.stderr, flush=True)
    config = _normalised(config)
    with hold(config.run) as held:
        return _pretrain(_pinned(config), held, marks)


def _pretrain(config: PretrainConfig, held: Held, marks: Marks) -> Outcome:
    flops = _flops_ahead(config)
    marks.note("checks")
    _connect(elastic=config.train.min_workers is not None, reads_by_ray=config.resources.reader == "ray")
    import ray

    from xmae_dist.train.sizing.memory import check_fits

    marks.note("ray")
    check_cluster(config)
    if not config.resources.may_grow:
        check_fits(config, ray.nodes())
    from xmae_dist.data.store.materialise import materialise
    from xmae_dist.train.observe.figures import draw_run

    store = materialise(
        config.corpus,
        str(config.windows),
        config.store_config(),
        version=config.snapshot,
        allow_withdrawn=config.allow_withdrawn,
    )
    identity = continued(config, _identity(config, store), store.snapshot.get("legacy"))
    _remember(config, store)
    marks.note("windows")
    check_growth(config)
    with Shown(config.run, config.train.steps) as shown:
        step = _train(config, store, identity, flops.result(), shown, marks, held)
    _remember(config, store, ended_step=step)
    said = verdict(shown.last_errors, store.spec.source) if shown.last_errors else None
    return Outcome(run=config.run, step=step, loss=shown.last_loss, verdict=said, figures=draw_run(config.run))


def _normalised(config: PretrainConfig) -> PretrainConfig:
    """URLs in full, since workers run in other folders; probes both stores."""
    corpus, run = uri.checked_place(config.corpus), uri.checked_place(config.run)
    windows = uri.checked_place(config.windows) if config.windows else uri.join(corpus, "windows")
    Corpus.open(corpus)
    uri.probe(run)
    return dataclasses.replace(config, corpus=corpus, run=run, windows=windows)


def _pinned(config: PretrainConfig) -> PretrainConfig:
    """With the snapshot of its checkpoints, so that a corpus that has grown does not stop the run from going on."""
    from xmae_dist.train.checkpoints import checkpoint

    remembered = uri.join(config.run, "run.json")
    trained = any(one.complete for one in checkpoint.list_checkpoints(config.run))
    if config.snapshot is not None or not trained or not uri.exists(remembered):
        return config
    return dataclasses.replace(config, snapshot=json.loads(uri.read_bytes(remembered))["snapshot"]["version"])


def _remember(config: PretrainConfig, store: WindowStore, *, ended_step: int | None = None) -> None:
    """`ended_step`: the run is over with this step, which is stored."""
    document: dict[str, Any] = {"snapshot": store.snapshot, "store": store.url, "config": config_dict(config)}
    if ended_step is not None:
        document["ended_step"] = ended_step
    uri.write_bytes(uri.join(config.run, "run.json"), json.dumps(document, indent=1).encode())


def config_dict(config: PretrainConfig) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    plain: dict[str, Any] = json.loads(canonical_json(config))
    return plain


def _identity(config: PretrainConfig, store: WindowStore) -> Identity:
    from xmae_dist.model import kinds
    from xmae_dist.train.order import order_of

    return Identity(
        snapshot=str(store.snapshot["fingerprint"]),
        windows=digest_json([store.spec.fingerprint(), store.split]),
        plan=plan_for(store, order_of(config)).fingerprint(),
        model=digest_json(kinds.to_dict(model_config(config))),
    )


def continued(config: PretrainConfig, identity: Identity, legacy_snapshot: str | None) -> Identity:
    """The identity as the run's checkpoints tell it: those of before there were sums know the same snapshot by its
    `legacy_snapshot`. Raises ConfigError where the newest is of another run, and that is not accepted.
    """
    from xmae_dist.train.checkpoints import checkpoint

    newest = checkpoint.newest_complete(config.run, lambda url, why: None)
    if newest is not None:
        url, manifest = newest
        if legacy_snapshot is not None and manifest["identity"].get("snapshot") == legacy_snapshot:
            identity = dataclasses.replace(identity, snapshot=legacy_snapshot)
        identity.check(manifest["identity"], config.checkpoint.accept, url)
    return identity


# -- cluster ---------------------------------------------------------------------------------------------------------


def _connect(*, elastic: bool, reads_by_ray: bool) -> None:
    """Joins the cluster of RAY_ADDRESS (inside a Ray job, the job's), or starts a local Ray."""
    # Workers keep the working directory of the job: code is imported from there.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    # How long to wait for room for the workers. An elastic run then looks anew at how many there is room for.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15" if elastic else "300")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if fanout.cluster_address() is None:
        # One machine that is taken away takes its watcher along.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    for talkative in ("ray.data", "ray.train"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    fanout.connect(store_bytes=None, log_to_driver=bool(os.environ.get("XMAE_WORKER_LOGS")))
    if fanout.cluster_address() is not None and reads_by_ray:
        _keep_statistics_here()


def _keep_statistics_here() -> None:
    """Ray Data keeps its statistics in a detached actor on the node of the first process that reads with it, which
    would be a worker's: such a node is never idle again, so no autoscaler ends it.
    """
    from ray.data._internal.stats import get_or_create_stats_actor

    get_or_create_stats_actor()


def check_cluster(config: PretrainConfig) -> None:
    """Raises ConfigError where the workers, or a read task beside them, cannot have what they ask for."""
    import ray

    resources, train = config.resources, config.train
    if resources.may_grow:
        return
    have = ray.cluster_resources()
    fewest = train.min_workers or train.workers
    for name, each in resources.each.items():
        if each * fewest > have.get(name, 0.0) + 1e-9:
            fit = int(have.get(name, 0.0) / each + 1e-9)
            raise ConfigError(
                "--train.workers",
                value=f"{fewest}, which take {each * fewest:g} {name}s",
                expected=f"at most {fit}: the cluster has {have.get(name, 0.0):g} {name}s",
                fix=f"--train.workers {max(fit, 1)}"
                + (f", or --resources.worker-cpus {have.get('CPU', 0) / fewest:g}" if name == "CPU" else "")
                + ", or --resources.may-grow where the cluster adds nodes on demand",
            )
    if resources.reader == "ray":
        _check_readers(resources, have.get("CPU", 0.0) - fewest * resources.worker_cpus)


def check_growth(config: PretrainConfig) -> None:
    """Raises ConfigError for workers that a growing cluster can never have, all at once."""
    wanted = _demand(config)
    if not config.resources.may_grow or (room := wanted.room()) >= wanted.count or not demand.refused(wanted):
        return
    raise ConfigError(
        "--train.workers",
        value=str(wanted),
        expected=f"no more than the present nodes (room for {room}) and those that Ray's autoscaler may add can hold "
        "at once, beside the requests of other jobs; for more, the autoscaler starts no node at all",
        fix="fewer --train.workers, or a higher max_workers of a node type that has "
        + " and ".join(wanted.each)
        + " (`ray status` on the head tells what there is)",
    )


def _demand(config: PretrainConfig) -> demand.Demand:
    return demand.Demand(what="workers", count=config.train.workers, each=config.resources.each)


def _check_readers(resources: ResourceConfig, cpus_left: float) -> None:
    """Read tasks that no node can take would be waited for without end."""
    import ray

    key, _, value = resources.read_label.partition("=")
    nodes = [node for node in ray.nodes() if node["Alive"] and (not key or node["Labels"].get(key) == value)]
    if resources.read_cpus and not key:
        nodes = [node for node in nodes if pools.off_gpus(node)]
    if not nodes and not key:
        raise ConfigError(
            "--resources.read-cpus",
            value=f"{resources.read_cpus:g} of a read task",
            expected="a node off the pool `trainer`, where such tasks run",
            fix="start one, or --resources.read-cpus 0, or --resources.read-label xmae/pool=trainer",
        )
    if not nodes:
        raise ConfigError(
            "--resources.read-label",
            value=resources.read_label,
            expected="the label of a node",
            fix="start nodes with `ray start --labels`, or leave it out",
        )
    room = min(cpus_left, max(node["Resources"].get("CPU", 0.0) for node in nodes))
    if resources.read_cpus > room + 1e-9:
        raise ConfigError(
            "--resources.read-cpus",
            value=f"{resources.read_cpus:g} of a read task",
            expected=f"at most {max(room, 0.0):g}, which a node has and the workers leave",
            fix="--resources.read-cpus 0, fewer --train.workers, or --resources.may-grow",
        )


# -- the run ---------------------------------------------------------------------------------------------------------


def _flops_ahead(config: PretrainConfig) -> Future[int]:
    """FLOPs of a window, counted while Ray starts. Raises ConfigError for a model that cannot be."""
    from xmae_dist.train.sizing.flops import flops_per_window

    model = model_config(config)
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="flops").submit(flops_per_window, model)


def _train(
    config: PretrainConfig,
    store: WindowStore,
    identity: Identity,
    flops_per_window: int,
    shown: Shown,
    marks: Marks,
    held: Held,
) -> int:
    """Trains to the last step, again and again after preemptions; returns the step."""
    import ray

    # Once a node, whoever reads: the list of parts and where their chunks lie (0.13 bytes a window).
    board = _start_board(ray.put(store.with_cache(config.resources.cache).ready()))
    job = Job(
        config=config,
        config_dict=config_dict(config),
        store_url=store.url,
        identity=identity,
        board=board,
        lease=held.lease,
        flops_per_window=flops_per_window,
        driver_s=marks.seconds,
        handed_over_s=time.time(),
    )
    while True:
        result = _supervised(job, board, shown, held)
        if result["stop"] in ("", "converged"):
            return int(result["step"])
        if result["stop"] == "asked":
            raise RunError(
                f"run {config.run}",
                value=f"stopped at step {result['step']} of {config.train.steps}, with a checkpoint",
                fix="run the same command again to go on",
            )
        ray.get(board.note_time.remote("lost"))  # left before a machine was taken away: on with what there is


def _start_board(store_ref: Any) -> Any:
    """A board on the driver's node, so that it lives as long as the driver; it hands out the window store."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(Board).options(scheduling_strategy=here).remote([store_ref])


def _supervised(job: Any, board: Any, shown: Shown, held: Held) -> dict[str, Any]:
    """Runs Ray Train in a thread, while this one shows rows, hears signals, and holds the run."""
    import ray

    from xmae_dist.train.trainer import fit_result

    ended: queue.SimpleQueue[dict[str, Any] | BaseException] = queue.SimpleQueue()
    threading.Thread(target=lambda: ended.put(fit_result(job)), name="fit", daemon=True).start()
    told = False
    waiting = demand.waited_for(_demand(job.config), waits=lambda: bool(ray.get(board.waits.remote())))
    with _signals() as received, waiting:
        while ended.empty():
            held.check()
            if received and not told:
                told = True
                print("pretrain: stopping after this step; a checkpoint is saved", file=sys.stderr, flush=True)
                board.ask_stop.remote("asked")
            for row in ray.get(board.take.remote()):
                shown.row(row)
            time.sleep(0.2)
        for row in ray.get(board.take.remote()):
            shown.row(row)
        result = ended.get()
    error = ray.get(board.error.remote())
    if isinstance(error, XmaeError):
        raise error
    if isinstance(result, BaseException):
        raise result
    return result


@contextmanager
def _signals() -> Iterator[list[str]]:
    """Collects SIGTERM (and the first SIGINT) instead of dying of it; only in the main thread."""
    received: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, _: object) -> None:
        if number == signal.SIGINT and received:
            raise KeyboardInterrupt
        if not received:
            received.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Shown:
    """The rows of a run as they come: shown, the last loss and validation kept, and figures drawn now and then after
    validations."""

    def __init__(self, run_url: str, total_steps: int) -> None:
        self._run_url, self._display = run_url, Display(total_steps)
        self._drawing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="figures")
        self._drawn_s = time.monotonic()
        self.last_loss: float | None = None
        self.last_errors: dict[str, float] | None = None

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._display.close()
        self._drawing.shutdown(cancel_futures=True)

    def row(self, row: dict[str, Any]) -> None:
        if row["kind"] == "step":
            self.last_loss = row["loss"]
        if row["kind"] == "validation":
            self.last_errors = {name: row[name] for name in ("own", "other", "none")}
        if row["kind"] == "validation" and time.monotonic() - self._drawn_s > _DRAW_EVERY_S:
            from xmae_dist.train.observe.figures import draw_run

            self._drawn_s = time.monotonic()
            self._drawing.submit(draw_run, self._run_url)
        self._display.show(row)
