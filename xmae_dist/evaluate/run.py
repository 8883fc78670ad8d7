"""One evaluation: what is to be fitted, what has been committed already, and the fit itself.

plan  -> every (encoder, task) with its request id; all checks of labels and folds happen here, before any fit
fanout (Ray) embeds each encoder once and runs the fits that are missing
each result is committed as it arrives
"""

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.data.window_spec import WindowSpec
from xmae_dist.data.window_store import WindowStore
from xmae_dist.evaluate import bootstrap, metrics
from xmae_dist.evaluate.encoder_spec import EncoderSpec
from xmae_dist.evaluate.examples import Examples, examples
from xmae_dist.evaluate.folds import check_folds, subject_folds
from xmae_dist.evaluate.probe import ProbeConfig, cross_fit
from xmae_dist.evaluate.results import Result, request_id
from xmae_dist.evaluate.tasks import Suite, Task
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus

PROTOCOL = "linear-probe/v1"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What decides an evaluation's numbers, beside the store, the suite and the encoders."""

    seed: int = 0
    n_replicates: int = 1000
    n_train_replicates: int = 200
    max_windows_per_subject: int = 100
    splits: tuple[str, ...] = ("train", "val", "test")
    probe: ProbeConfig = field(default_factory=ProbeConfig)


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """One fit, ready to be sent to a node."""

    request: str
    suite: str
    suite_title: str
    task: Task
    encoder: EncoderSpec
    store: str
    config: EvaluateConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The fits of an evaluation, the examples of each task, and the tasks left out with the reason."""

    requests: tuple[FitRequest, ...]
    examples_of_task: dict[str, Examples]
    skipped: dict[str, str]


def plan(
    suite: Suite,
    encoders: tuple[EncoderSpec, ...],
    windows: pa.Table,
    store: str,
    config: EvaluateConfig,
    *,
    skip_unusable: bool = False,
) -> Plan:
    """Check every task against the windows and name every fit.

    Raises the first task's InputError, unless `skip_unusable` and some task can be used. Encoders must be resolved.
    """
    usable: dict[str, Examples] = {}
    skipped: dict[str, str] = {}
    for task in suite.tasks:
        try:
            found = examples(task, windows, max_windows_per_subject=config.max_windows_per_subject, seed=config.seed)
            folds_of(task, found, config)
            usable[task.name] = found
        except InputError as error:
            if not skip_unusable:
                raise
            skipped[task.name] = str(error)
    if not usable:
        raise InputError(
            "evaluation suite",
            value=f"no usable task; {next(iter(skipped.values()))}",
            expected="one or more",
            fix="choose another --suite or more recordings",
        )
    shared = {"store": store, "config": _identity(config), "protocol": PROTOCOL}
    requests = tuple(
        FitRequest(
            request=request_id(encoder=encoder.identity, task=task.identity(), **shared),
            suite=suite.name,
            suite_title=suite.title,
            task=task,
            encoder=encoder,
            store=store,
            config=config,
        )
        for task in suite.tasks
        if task.name in usable
        for encoder in encoders
    )
    return Plan(requests=requests, examples_of_task=usable, skipped=skipped)


def folds_of(task: Task, found: Examples, config: EvaluateConfig) -> NDArray[np.int64]:
    """The outer folds of a task, checked. Raises InputError (see `folds`)."""
    fold_N = subject_folds(
        found.subject_N, found.y_N, kind=task.kind, n_folds=config.probe.n_folds, seed=config.seed, task=task.name
    )
    check_folds(found.subject_N, found.y_N, fold_N, kind=task.kind, task=task.name)
    return fold_N


def fit(request: FitRequest, found: Examples, embedding_WE: NDArray[np.float32]) -> Result:
    """Probe one encoder on one task: nested cross-fit, every metric of the task's kind, intervals over subjects."""
    started_s = time.monotonic()
    task, config = request.task, request.config
    fold_N = folds_of(task, found, config)
    fitted = cross_fit(
        found.features(embedding_WE),
        found.y_N,
        found.subject_N,
        fold_N,
        kind=task.kind,
        config=config.probe,
        task=task.name,
    )
    draws_RS = draws_of(task, len(np.unique(found.subject_N)), config.seed, config.n_replicates)
    train_Q = bootstrap.training_effect(task.metric, fitted.retrained, draws_RS[: config.n_train_replicates])
    factor = bootstrap.stretch(bootstrap.replicates(task.metric, fitted.predictions, draws_RS), train_Q)
    names = metrics.metrics_of(task.kind)
    return Result(
        request=request.request,
        suite=request.suite,
        suite_title=request.suite_title,
        task=task,
        encoder=request.encoder.name,
        encoder_id=request.encoder.identity,
        role=request.encoder.role,
        store=request.store,
        seed=config.seed,
        n_replicates=config.n_replicates,
        scores={name: bootstrap.score_interval(name, fitted.predictions, draws_RS, factor) for name in names},
        n_windows=len(found.rows_M),
        n_fits=fitted.n_fits,
        seconds=time.monotonic() - started_s,
        penalties=fitted.penalty_of_fold,
        unit_names=tuple(found.name_N.tolist()),
        scored=bootstrap.Scored(predictions=fitted.predictions, train_Q=train_Q),
    )


def draws_of(task: Task, n_subjects: int, seed: int, n_replicates: int) -> NDArray[np.float64]:
    """The subject draws that every encoder of a task shares."""
    return bootstrap.draws(n_subjects, n_replicates, seed, task.name)


def find_store(url: str, *, corpus_url: str = "", spec: WindowSpec | None = None) -> WindowStore:
    """The window store at `url`, or the one below it that fits `spec` and the newest snapshot of `corpus_url`.

    With a corpus and no such store, it is made. Raises InputError when several fit, or none does.
    """
    if uri.exists(uri.join(url, "store.json")):
        return WindowStore.open(url)
    spec = spec or WindowSpec()
    if corpus_url:
        from xmae_dist.data.materialise import StoreConfig, materialise

        snapshot = Corpus.open(corpus_url).snapshot().fingerprint
        fitting = [s for s in _stores_below(url) if s.spec == spec and s.snapshot["fingerprint"] == snapshot]
        return fitting[0] if fitting else materialise(corpus_url, url, StoreConfig(spec=spec))
    stores = _stores_below(url)
    if len(stores) != 1:
        raise InputError(
            "--windows",
            value=f"{len(stores)} complete window stores under {url}",
            expected="one",
            fix="name the store itself, or give --corpus to choose (or make) the one of its newest snapshot",
        )
    return stores[0]


def _stores_below(url: str) -> list[WindowStore]:
    if not uri.exists(url):
        return []
    folders = [child.rstrip("/") for child in uri.list_urls(url)]
    return [WindowStore.open(f) for f in folders if uri.exists(uri.join(f, "index", "_delta_log"))]


def window_table(store: WindowStore, splits: Iterable[str]) -> pa.Table:
    """The windows of `splits` with their ids, in the order of the ids."""
    return pa.concat_tables([store.meta(split) for split in splits]).sort_by("window_id")


def _identity(config: EvaluateConfig) -> dict[str, object]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(config).items()}
