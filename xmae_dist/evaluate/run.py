"""One evaluation: what is to be fitted, what has been committed already, and the fit itself.

plan  -> every (encoder, task) with its request id; all checks of labels and folds happen here, before any fit
fanout (Ray) embeds what tasks want, once by each encoder, and runs the fits that are missing
each result is committed as it arrives

Protocols: `linear` (the probe), `knn`, `few` (the probe with few labelled people, a fit for each point of the curve),
`finetune` (the encoder moves too; needs its windows, so its fits run elsewhere and come here to be scored).
"""

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.data.store.window_store import MEASURES_REVISION, WindowStore, made_of, open_store, stores_below
from xmae_dist.data.windows.cut_reader import Origin
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.evaluate.examples import Examples
from xmae_dist.evaluate.gathering import Limit, gathered
from xmae_dist.evaluate.pooling import POOLINGS, Embedded
from xmae_dist.evaluate.protocols.few import FewConfig, few_fit, usable_sizes
from xmae_dist.evaluate.protocols.finetune_config import FinetuneConfig
from xmae_dist.evaluate.protocols.knn import KnnConfig, knn_fit
from xmae_dist.evaluate.protocols.probe import Fit, ProbeConfig, cross_fit
from xmae_dist.evaluate.results import Result, request_id
from xmae_dist.evaluate.scores import bootstrap, metrics
from xmae_dist.evaluate.scores.folds import check_folds, subject_folds
from xmae_dist.evaluate.tasks import Suite, Task
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus

# What a fit of each protocol is: part of a request, so a change of algorithm asks for new fits.
PROTOCOLS = {"linear": "linear-probe/v2", "knn": "knn/v1", "few": "few-labels/v1", "finetune": "finetune/v1"}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What decides an evaluation's numbers, beside the store, the suite and the encoders."""

    seed: int = 0
    n_replicates: int = 1000
    n_train_replicates: int = 200
    max_windows_per_subject: int = 100
    max_units: int = 200_000
    """Units of a task that take part at most, everybody's share drawn by a hash; 0: all. Memory and time of a fit
    follow its units.
    """
    splits: tuple[str, ...] = ("train", "val", "test")
    cohorts: tuple[str, ...] = ()
    """Only these; none named: all."""
    max_windows_per_recording: int = 0
    """Evenly spaced windows of a recording that take part at all; 0: all. Long recordings hardly gain from more."""
    pooling: str = "mean"
    """What the windows of a recording or person come to: their mean, or `moments`: mean, standard deviation, least and
    largest of each feature, since a mean hides what is rare."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    protocols: tuple[str, ...] = ("linear",)
    knn: KnnConfig = field(default_factory=KnnConfig)
    few: FewConfig = field(default_factory=FewConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    def __post_init__(self) -> None:
        for name in self.protocols:
            if name not in PROTOCOLS:
                raise InputError("--protocols", value=name, expected=f"some of {', '.join(PROTOCOLS)}")
        if self.pooling not in POOLINGS:
            raise InputError("--pooling", value=self.pooling, expected=" | ".join(POOLINGS))

    @property
    def limit(self) -> Limit:
        """Which windows of a person take part in a task of windows, and which units of any task."""
        return Limit(windows=self.max_windows_per_subject, units=self.max_units, seed=self.seed)


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
    protocol: str = "linear"
    labelled_subjects: int = 0
    """People with labels in each training side; 0: all of it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The fits of an evaluation, the examples of each task, and the tasks left out with the reason."""

    requests: tuple[FitRequest, ...]
    examples_of_task: dict[str, Examples]
    skipped: dict[str, str]


def plan(
    suite: Suite,
    encoders: tuple[EncoderSpec, ...],
    windows: Iterable[pa.Table],
    store: str,
    config: EvaluateConfig,
    *,
    skip_unusable: bool = False,
) -> Plan:
    """Check every task against the windows (see `gathered`) and name every fit.

    Raises the first task's InputError, unless `skip_unusable` and some task can be used. Encoders must be resolved.
    """
    _check_different(encoders)
    usable: dict[str, Examples] = {}
    skipped: dict[str, str] = {}
    found = gathered(suite.tasks, windows, limit=config.limit)
    for task in suite.tasks:
        try:
            usable[task.name] = _checked(task, found[task.name], config)
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
    requests = tuple(
        _request(suite, task, encoder, store, config, protocol, n, limited=usable[task.name].left_out > 0)
        for task in suite.tasks
        if task.name in usable
        for encoder in encoders
        for protocol, n in _protocols(task, usable[task.name], encoder, config)
    )
    return Plan(requests=requests, examples_of_task=usable, skipped=skipped)


def _checked(task: Task, found: Examples | InputError, config: EvaluateConfig) -> Examples:
    if isinstance(found, InputError):
        raise found
    folds_of(task, found, config)
    return found


def _check_different(encoders: tuple[EncoderSpec, ...]) -> None:
    """Two names of one encoder would be one set of results under either name."""
    first: dict[str, str] = {}
    for spec in encoders:
        if spec.identity in first:
            raise InputError(
                f"encoder {spec.name!r}",
                value=f"the same weights as {first[spec.identity]!r}",
                expected="different encoders",
                fix="name each bundle once",
            )
        first[spec.identity] = spec.name


def _protocols(task: Task, found: Examples, encoder: EncoderSpec, config: EvaluateConfig) -> list[tuple[str, int]]:
    """What is fitted for one task and encoder: protocol, and labelled subjects (0: all)."""
    asked: list[tuple[str, int]] = []
    for protocol in config.protocols:
        if protocol == "few":
            fold_N = folds_of(task, found, config)
            asked += [("few", n) for n in usable_sizes(config.few, fold_N, found.subject_N, found.y_N, task.kind)]
        elif protocol != "finetune" or (encoder.kind != "features" and not task.centred):
            asked.append((protocol, 0))
    return asked


def _request(
    suite: Suite,
    task: Task,
    encoder: EncoderSpec,
    store: str,
    config: EvaluateConfig,
    protocol: str,
    n: int,
    *,
    limited: bool,
) -> FitRequest:
    return FitRequest(
        request=request_id(
            encoder=encoder.identity,
            task=task.identity(),
            store=store,
            config=_identity(config, protocol, limited=limited),
            protocol=PROTOCOLS[protocol],
            labelled_subjects=n,
            **metrics.revision_of(task.kind),
        ),
        suite=suite.name,
        suite_title=suite.title,
        task=task,
        encoder=encoder,
        store=store,
        config=config,
        protocol=protocol,
        labelled_subjects=n,
    )


def folds_of(task: Task, found: Examples, config: EvaluateConfig) -> NDArray[np.int64]:
    """The outer folds of a task, checked. Raises InputError (see `folds`)."""
    fold_N = subject_folds(
        found.subject_N, found.y_N, kind=task.kind, n_folds=config.probe.n_folds, seed=config.seed, task=task.name
    )
    check_folds(found.subject_N, found.y_N, fold_N, kind=task.kind, task=task.name)
    return fold_N


def fit(request: FitRequest, found: Examples, embedded: Embedded) -> Result:
    """One encoder on one task by one protocol on its embeddings, scored."""
    started_s = time.monotonic()
    task, config = request.task, request.config
    x_NE, fold_N = found.features(embedded), folds_of(task, found, config)
    data = (x_NE, found.y_N, found.subject_N, fold_N)
    if request.protocol == "knn":
        fitted = knn_fit(*data, kind=task.kind, config=config.knn, task=task.name)
    elif request.protocol == "few":
        fitted = few_fit(
            *data,
            kind=task.kind,
            n_subjects=request.labelled_subjects,
            repeats=config.few.repeats,
            config=config.probe,
            seed=config.seed,
            task=task.name,
        )
    else:
        fitted = cross_fit(*data, kind=task.kind, config=config.probe, task=task.name)
    return scored(request, found, fitted, started_s)


def scored(request: FitRequest, found: Examples, fitted: Fit, started_s: float) -> Result:
    """Every metric of the task's kind with its interval over subjects. `started_s`: monotonic time of the start."""
    task, config = request.task, request.config
    draws_RS = draws_of(task, len(np.unique(found.subject_N)), config.seed, config.n_replicates)
    train_Q = bootstrap.training_effect(task.metric, fitted.retrained, draws_RS[: config.n_train_replicates])
    kept = bootstrap.Scored(predictions=fitted.predictions, train_Q=train_Q)
    unit_names = found.name_N if fitted.unit_N is None else found.name_N[fitted.unit_N]
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
        protocol=request.protocol,
        labelled_subjects=request.labelled_subjects,
        scores=scores_of(task, kept, draws_RS),
        n_windows=found.windows.n_windows,
        n_fits=fitted.n_fits,
        seconds=time.monotonic() - started_s,
        penalties=fitted.penalty_of_fold,
        unit_names=unit_names,
        scored=kept,
    )


def scores_of(
    task: Task, kept: bootstrap.Scored, draws_RS: NDArray[np.float64], names: Iterable[str] = ()
) -> dict[str, bootstrap.Interval]:
    """Metrics with their intervals over subjects, from what was kept of a fit; none named: all of the task's kind."""
    p = kept.predictions
    factor = bootstrap.stretch(bootstrap.replicates(task.metric, p, draws_RS), kept.train_Q)
    return {
        name: bootstrap.score_interval(name, p, draws_RS, factor) for name in names or metrics.metrics_of(task.kind)
    }


def draws_of(task: Task, n_subjects: int, seed: int, n_replicates: int) -> NDArray[np.float64]:
    """The subject draws that every encoder of a task shares."""
    return bootstrap.draws(n_subjects, n_replicates, seed, task.name)


def find_store(
    url: str,
    *,
    corpus_url: str = "",
    spec: WindowSpec | None = None,
    split: SplitConfig | None = None,
    cohorts: Iterable[str] = (),
) -> WindowStore:
    """The window store at `url`, or the one below it that fits `spec`, `split` and the newest snapshot of `corpus_url`.

    It holds `cohorts`, or all of the snapshot; one that keeps its windows is taken before one that cuts them when read.
    With a corpus and no such store, it is made. `split` None: any. Windows that are cut when read come from that corpus
    if one is named. Raises InputError when several fit, or none does.
    """
    if uri.exists(uri.join(url, "store.json")):
        return open_store(url, corpus_url)
    stores = stores_below(url)
    if corpus_url:
        return _store_of_corpus(url, stores, corpus_url, spec or WindowSpec(), split, set(cohorts))
    if len(stores) != 1:
        raise InputError(
            "--windows",
            value=f"{len(stores)} complete window stores under {url}",
            expected="one",
            fix="name the store itself, or give --corpus to choose (or make) the one of its newest snapshot",
        )
    return WindowStore.open(next(iter(stores)))


def _store_of_corpus(
    url: str,
    stores: dict[str, dict[str, Any]],
    corpus_url: str,
    spec: WindowSpec,
    split: SplitConfig | None,
    cohorts: set[str],
) -> WindowStore:
    snapshot = Corpus.open(corpus_url).snapshot()
    wanted = cohorts or set(snapshot.cohorts())
    fitting = [
        (bool(document.get("on_the_fly")), found)
        for found, document in stores.items()
        if WindowSpec.from_dict(document["spec"]) == spec
        and document.get("measures") == MEASURES_REVISION
        and split in (None, SplitConfig.from_dict(document["split"]))
        and wanted <= set(document.get("cohorts", ()))
        and made_of(document, snapshot)  # last: of corpora of format v1 it reads the index
    ]
    if fitting:
        return WindowStore.open(min(fitting)[1], origin=Origin(snapshot.url, snapshot.version), check_origin=False)
    from xmae_dist.data.store.materialise import StoreConfig, materialise

    return materialise(corpus_url, url, StoreConfig(spec=spec, split=split or SplitConfig()))


def _identity(config: EvaluateConfig, protocol: str, *, limited: bool) -> dict[str, object]:
    """What of the configuration decides a fit of this protocol: the settings of the others do not, nor a limit on units
    that leaves none out.
    """
    others = {"protocols", "knn", "few", "finetune"} - {protocol}
    if not limited:
        others.add("max_units")
    if config.pooling == "mean":
        others.add("pooling")  # there was no other: results from before are found
    fields = {key: value for key, value in dataclasses.asdict(config).items() if key not in others}
    if protocol == "few":
        fields["few"] = {"repeats": config.few.repeats}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}
