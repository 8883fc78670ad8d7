"""The configuration of a pretraining run: typed, frozen, checked before anything starts.

Every field is a dotted option (`--train.steps 200`, `--engine.zero-stage 2`); recipes are instances of
`PretrainConfig`. Checks that need no corpus and no cluster are here; the rest is in `train.launch`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from xmae_dist.core.errors import ConfigError
from xmae_dist.data.order.mixture import MixtureConfig
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.data.windows.withdrawn import check_allow_withdrawn
from xmae_dist.storage.segment_cache import CacheConfig
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.observe.trackers import TrackConfig
from xmae_dist.train.step.schedule import ScheduleConfig

if TYPE_CHECKING:
    from xmae_dist.data.store.materialise import StoreConfig
    from xmae_dist.model.presets import Config


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model, and its objective. An option that is not given keeps the value of the preset."""

    preset: str = "tiny"
    """Model and objective by name. ECG from PPG: tiny, paper, base, large, huge, published; with auxiliary heads:
    tiny_beats, paper_beats. Other objectives: reversed, symmetric, joint, ppg_mae_50, ppg_mae_75, ecg_mae_80, clip,
    clip_beats. Not trained: random. docs/model.md describes them."""
    mask_ratio: float | None = None
    """Share of patches that are masked."""
    mask_mode: str | None = None
    """Where masked patches lie. anchor: everywhere but in one visible block; block: one block; scatter: at single
    positions; mixed: half in one block, half at single positions."""
    dropout: float | None = None
    """Share of activations that training sets to zero."""
    width: int | None = None
    """Width of the tokens and the embedding."""
    heads: int | None = None
    """Attention heads of a layer; the width must be a multiple of them."""
    bridge: str | None = None
    """How the target reads the source. conv: a weight matrix for each lag; attention: attention within the lags."""
    lag_window_s: tuple[float, float] | None = None
    """Source times that a target patch can read, relative to its own time. The presets use -0.2 to 1.0 s; a device that
    delays the pulse by more than a second needs more."""

    def overrides(self) -> dict[str, object]:
        """The fields that differ from the preset."""
        return {name: value for name, value in vars(self).items() if name != "preset" and value is not None}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, batch and workers."""

    steps: int = 100
    """Optimizer steps of the whole run, including those before a restart."""
    global_batch: int = 64
    """Windows in one step, all workers together; the same for any number of workers."""
    micro_batch: int = 16
    """Largest number of windows in one forward pass of a worker; gradients of further passes are accumulated."""
    workers: int = 2
    """Largest number of workers: processes, each with one GPU if --resources.gpus is set."""
    min_workers: int | None = None
    """Smallest number of workers to continue with if the cluster shrinks. None: the number of workers is fixed."""
    seed: int = 0
    """Determines initial weights, order, masks and dropout."""
    read_windows: int | None = None
    """Neighbouring windows that are read together: 64 (a chunk) by default, or a multiple of it. More means fewer and
    larger requests, which suits remote object stores, and batches from fewer places. Changes the data order."""
    block_steps: int | None = None
    """Number of steps that share the same stretches of windows. None: as --train.read-windows, for the most diverse
    batches. A worker keeps at most (--resources.readers + 4) × block-steps × its windows per step in memory. Changes
    the data order."""
    threads: int = 1
    """Compute threads of a worker on the CPU. With 1, a run gives the same bits on all machines of one kind."""
    max_bad_steps: int = 20
    """The run fails after this number of consecutive steps that were skipped because gradients were not finite."""
    max_failures: int = 3
    """Number of restarts (after a worker died or hung, or a node was lost) that are allowed before the run fails; -1:
    no limit. A node that leaves after a notice from the cloud provider does not count."""
    max_controller_failures: int = -1
    """Number of consecutive failed starts of the workers, because the cluster has no room, that are allowed before the
    run fails; -1: no limit."""
    silence_s: float = 30.0
    """Seconds without a sign of life from a worker (because it stopped or its machine froze) after which the worker is
    reported and killed, and all workers restart."""
    collective_timeout_s: int = 300
    """Seconds that the other workers wait for one worker in a collective operation before this worker is reported and
    all workers restart."""
    resize_check_s: float = 60.0
    """Seconds between checks whether an elastic run could get more workers. It saves before it is resized."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The back end that runs the training steps."""

    kind: Literal["deepspeed", "torch"] = "deepspeed"
    """torch: the plain reference that DeepSpeed is tested against."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed: 1 divides optimizer state among workers, 2 gradients too, 3 parameters too."""
    offload_optimizer: bool = False
    """DeepSpeed: keep optimizer state in host memory."""
    offload_parameters: bool = False
    """DeepSpeed, stage 3: keep parameters in host memory."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 on GPUs with hardware for it, otherwise fp32. With bf16, the remaining float32 products use TF32; with
    fp32, none does."""
    compile: Literal["no", "blocks", "graphs"] = "no"
    """blocks: compile each transformer block. graphs: compile the whole model and launch it as CUDA graphs, for small
    models, whose speed is limited by launches. Not on CPUs, not with ZeRO stage 3. Results differ in the last bits from
    those without."""
    deterministic: bool = False
    """On GPUs: use only kernels that always give the same bits, so that a run with a restart ends like one without.
    Slower. Without it, two runs agree closely but not to the bit. CPUs always give the same bits."""

    @property
    def environment(self) -> dict[str, str]:
        """What a worker's process must have when it starts: cuBLAS reads this before a process first uses a GPU."""
        return {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if self.deterministic else {}


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save, what to keep, what to accept."""

    every_steps: int = 100
    """Steps between checkpoints; the last step is always saved."""
    keep_recent: int = 3
    """Newest complete checkpoints to keep."""
    keep_every: int = 0
    """Never delete checkpoints at multiples of this step; 0: no such checkpoints."""
    accept: tuple[Literal["snapshot", "windows", "plan"], ...] = ()
    """Continue even if these differ from those of the checkpoint: snapshot (version of the corpus), windows (window
    store), plan (order of windows: batch, seed, mixture, stretches). Empty: such a run is refused."""


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Error in masked patches on held-out subjects, compared for four cases: the window's own source, the source of
    another subject, no source, and the mean as the prediction."""

    every_steps: int = 100
    """Steps between validations; the last step is always validated. 0: only the last."""
    windows: int = 256
    """Number of held-out windows (evenly spaced, always the same); 0 turns validation off. Training continues
    meanwhile, except under ZeRO-3, where no worker has the whole model."""
    split: str = "val"
    """Split of the window store whose subjects are held out."""
    patience: int = 0
    """End the run after this number of validations in a row without an improvement; 0: never. The best checkpoint is
    always kept (`xmae export --best`)."""
    least_gain: float = 0.0
    """Smallest relative decrease of the masked error that counts as an improvement, such as 0.01."""


@dataclass(frozen=True, kw_only=True)
class ResourceConfig:
    """Resources of the cluster that a worker and its readers take."""

    worker_cpus: float = 1.0
    """Logical CPUs of a worker."""
    gpus: bool = False
    """Each worker takes one GPU."""
    node_resource: str = ""
    """Name of a custom Ray resource; each worker takes one of it. So workers run only on nodes that have it (`ray start
    --resources`, `resources` of a node type), and the autoscaler adds only such nodes. The GPU pools of `cluster/` have
    `trainer`, one for each card."""
    reader: Literal["ray", "direct"] = "ray"
    """ray: Ray Data tasks read ahead, on any node; direct: the worker itself reads."""
    read_cpus: float = 0.0
    """Logical CPUs of a Ray Data read task. With 0, reads also run on nodes whose CPUs are all taken by workers; with
    1, only on nodes with free CPUs."""
    read_label: str = ""
    """key=value: read tasks run only on nodes with this Ray label (`ray start --labels`), such as a pool of CPU nodes
    that cut windows on the fly. Empty: read tasks that reserve CPUs avoid the pool `trainer`, others run anywhere."""
    readers: int = 2
    """Read tasks of one worker at a time."""
    cache_gib: float = 0.0
    """Disk space on each node for copies of a remote window store. Each object is fetched once, in large requests, and
    then read locally. Must be large enough for the whole store. 0: every read goes to the store."""
    cache_folder: str = ""
    """Local folder for the copies of --resources.cache-gib, best on a fast disk. Empty: below the system's temporary
    folder."""
    peak_tflops: float | None = None
    """Peak speed of one worker's device in TFLOP/s, for the share of peak in the metrics. None: measured at the start
    with a matrix product, which on GPUs gives about two thirds of the data sheet."""
    may_grow: bool = False
    """The cluster can add nodes: wait for workers that do not fit yet. A run is refused only if Ray's autoscaler states
    that it can never give all of --train.workers at once."""
    spares: bool = False
    """On a cluster, keep idle processes ready on each training node: one per worker and one for its reads. A restarted
    group of workers then begins within seconds. Each process takes about 0.4 GB of memory. Uses a raylet request that
    is not a public API of Ray; if fewer processes start than requested, workers start as without this option."""

    @property
    def each(self) -> dict[str, float]:
        """What one worker takes, as Ray names it."""
        taken = {"CPU": self.worker_cpus}
        if self.gpus:
            taken["GPU"] = 1.0
        if self.node_resource:
            taken[self.node_resource] = 1.0
        return taken

    @property
    def spares_a_worker(self) -> int:
        """Processes to keep ready for each worker: itself, and the first read task where these run beside it."""
        return 2 if self.reader == "ray" and not self.read_cpus and not self.read_label else 1

    @property
    def cache(self) -> CacheConfig | None:
        return CacheConfig(max_gib=self.cache_gib, folder=self.cache_folder) if self.cache_gib > 0 else None


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining run."""

    corpus: str = ""
    """URL of the corpus (s3://bucket/key, gs://…, file:///path, or a path)."""
    run: str = ""
    """URL of the run: checkpoints, metrics, figures. The same URL again continues the run."""
    windows: str | None = None
    """URL below which window stores are kept. None: `windows` below the corpus."""
    on_the_fly: bool = False
    """Store only the positions of windows; they are cut from the recordings when they are read. Batches are the same.
    Give the readers CPUs (--resources.read-cpus 1), and if necessary nodes of their own (--resources.read-label)."""
    cohorts: tuple[str, ...] = ()
    """Cohorts to train on; all of the snapshot if none is given."""
    snapshot: int | None = None
    """Version of the corpus snapshot. None: that of the run if it is continued, otherwise the newest."""
    allow_withdrawn: bool = False
    """Allow an old snapshot with subjects that were withdrawn later."""
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    resources: ResourceConfig = field(default_factory=ResourceConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    spec: WindowSpec = field(default_factory=WindowSpec)
    split: SplitConfig = field(default_factory=SplitConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)

    def store_config(self) -> StoreConfig:
        """The window store that the run reads."""
        from xmae_dist.data.store.materialise import StoreConfig

        return StoreConfig(spec=self.spec, split=self.split, cohorts=self.cohorts, on_the_fly=self.on_the_fly)

    def accumulation(self, world: int) -> int:
        """Micro-batches of each of `world` workers in one step: as few as the micro-batch allows.

        Where `world` does not divide the batch (an elastic run between its ends) the largest share decides.
        """
        share = -(-self.train.global_batch // world)
        return min(-(-share // self.train.micro_batch), self.train.global_batch // world)


def model_config(config: PretrainConfig) -> Config:
    """The model's configuration, fitted to the windows. Raises ConfigError for an unknown preset or field."""
    from xmae_dist.model import presets  # imports torch, which a command line does not need

    fitted = {"length": config.spec.length, "rate_hz": config.spec.rate_hz}
    known = {field.name for field in dataclasses.fields(presets.config(config.model.preset))}
    fitted = {name: value for name, value in fitted.items() if name in known}
    return presets.config(config.model.preset, **fitted, **config.model.overrides())


def check(config: PretrainConfig) -> None:
    """Raises ConfigError naming the first option that contradicts itself or another, and the fix."""
    for name in ("corpus", "run"):
        if not getattr(config, name):
            raise ConfigError(f"--{name}", value="nothing", expected="a URL", fix=f"give --{name} s3://bucket/key")
    for option, number in _counts(config):
        if number < 1:
            raise ConfigError(option, value=number, expected="1 or more")
    _check_workers(config.train)
    _check_order(config)
    _check_engine(config)
    _check_patience(config)
    _check_signals(config)
    _check_cache(config.resources)
    check_allow_withdrawn(allow_withdrawn=config.allow_withdrawn, on_the_fly=config.on_the_fly)
    config.track.check()


def _check_signals(config: PretrainConfig) -> None:
    """In windows of the source alone the source stands for the target: only a model of the source may have them."""
    if config.spec.paired or getattr(model_config(config), "objective", None) == "ppg_mae":
        return
    raise ConfigError(
        "--spec.require",
        value=", ".join(config.spec.require),
        expected=f"{config.spec.target} and {config.spec.source}: --model.preset {config.model.preset} needs both",
        fix="--model.preset ppg_mae_75, which learns from the source alone, or leave --spec.require out",
    )


def _check_patience(config: PretrainConfig) -> None:
    settings, save = config.validation, config.checkpoint.every_steps
    if settings.patience < 0 or not 0 <= settings.least_gain < 1:
        name, value = ("patience", settings.patience) if settings.patience < 0 else ("least-gain", settings.least_gain)
        raise ConfigError(f"--validation.{name}", value=value, expected="0 or more, and a gain below 1")
    if settings.patience and not (settings.windows and settings.every_steps):
        raise ConfigError(
            "--validation.patience",
            value=settings.patience,
            expected="--validation.windows and --validation.every-steps above 0: patience needs validations",
            fix="--validation.windows 256 --validation.every-steps 100",
        )
    if settings.patience and settings.every_steps % save:
        raise ConfigError(
            "--validation.every-steps",
            value=settings.every_steps,
            expected=f"a multiple of --checkpoint.every-steps {save}, so that the best weights have a checkpoint",
            fix=f"--validation.every-steps {-(-settings.every_steps // save) * save}",
        )


def _counts(config: PretrainConfig) -> list[tuple[str, int]]:
    train = config.train
    return [
        ("--train.steps", train.steps),
        ("--train.global-batch", train.global_batch),
        ("--train.micro-batch", train.micro_batch),
        ("--train.workers", train.workers),
        ("--train.threads", train.threads),
        ("--checkpoint.every-steps", config.checkpoint.every_steps),
        ("--checkpoint.keep-recent", config.checkpoint.keep_recent),
    ]


def _check_workers(train: TrainConfig) -> None:
    fewest = train.workers if train.min_workers is None else train.min_workers
    if not 1 <= fewest <= train.workers:
        raise ConfigError("--train.min-workers", value=fewest, expected=f"1 to {train.workers}, the number of workers")
    batch, micro = train.global_batch, _largest_micro_batch(train)
    together = train.workers * micro
    if batch % together:
        raise ConfigError(
            "--train.global-batch",
            value=f"{batch}, which {train.workers} workers × micro-batch {micro} do not divide",
            expected=f"a multiple of {together}",
            fix=_batch_advice(train),
        )


def _check_order(config: PretrainConfig) -> None:
    """A stretch of neighbouring windows must fill whole columns of a block, and fit into a worker's share of it."""
    train = config.train
    for option, number in (("--train.read-windows", train.read_windows), ("--train.block-steps", train.block_steps)):
        if number is not None and number < 1:
            raise ConfigError(option, value=number, expected="1 or more")
    if train.read_windows is None and train.block_steps is None:
        return
    chunk = config.store_config().chunk_windows
    read = train.read_windows or chunk
    if read % chunk:
        raise ConfigError(
            "--train.read-windows",
            value=read,
            expected=f"a multiple of {chunk}, the windows in a chunk",
            fix=f"--train.read-windows {-(-read // chunk) * chunk}",
        )
    steps = train.block_steps or read
    if read % steps and steps % read:
        raise ConfigError(
            "--train.block-steps",
            value=f"{steps} with --train.read-windows {read}",
            expected="a divisor or a multiple of --train.read-windows",
            fix=f"--train.block-steps {math.gcd(steps, read)}",
        )
    share = train.global_batch // train.workers
    if read > steps * share:
        raise ConfigError(
            "--train.read-windows",
            value=f"{read}, more than {steps} steps × {share} windows of a worker take",
            expected=f"at most {steps * share}",
            fix=f"--train.block-steps {read}",
        )


def _largest_micro_batch(train: TrainConfig) -> int:
    """The micro-batch when all workers are there: as set, or a worker's whole share where that is less."""
    return min(train.micro_batch, max(1, train.global_batch // train.workers))


def _batch_advice(train: TrainConfig) -> str:
    together = train.workers * _largest_micro_batch(train)
    more = f"--train.global-batch {-(-train.global_batch // together) * together}"
    if train.global_batch % train.workers:
        return more
    share = train.global_batch // train.workers
    micro = max(m for m in range(1, _largest_micro_batch(train) + 1) if share % m == 0)
    return f"--train.micro-batch {micro}, or {more}"


def _check_engine(config: PretrainConfig) -> None:
    engine, resources = config.engine, config.resources
    if engine.offload_parameters and engine.zero_stage != 3:
        raise ConfigError(
            "--engine.offload-parameters",
            value=f"with ZeRO stage {engine.zero_stage}",
            expected="stage 3",
            fix="--engine.zero-stage 3",
        )
    if engine.offload_optimizer and engine.zero_stage == 0:
        raise ConfigError(
            "--engine.offload-optimizer",
            value="with ZeRO stage 0",
            expected="stage 1, 2 or 3",
            fix="--engine.zero-stage 1",
        )
    _check_compiling(config)
    if engine.precision == "bf16" and not resources.gpus and not os.environ.get("XMAE_CPU_BF16"):
        raise ConfigError(
            "--engine.precision",
            value="bf16 on CPUs",
            expected="fp32, which is hundreds of times faster where the CPU has no bf16 units",
            fix="--engine.precision auto, or XMAE_CPU_BF16=1 to run it all the same",
        )


def _check_cache(resources: ResourceConfig) -> None:
    """A folder alone would copy nothing, and every read would go to the store without a word."""
    if resources.cache_folder and not resources.cache_gib > 0:
        raise ConfigError(
            "--resources.cache-folder",
            value=f"{resources.cache_folder} with --resources.cache-gib {resources.cache_gib:g}",
            expected="a number of GiB that may be copied there",
            fix="--resources.cache-gib N, at least the size of the window store",
        )


_UNDETERMINED = {"published": "linear interpolation", **dict.fromkeys(("clip", "clip_beats"), "cross entropy")}
"""What of a preset PyTorch has no deterministic form of on GPUs, gradient included."""


def _check_compiling(config: PretrainConfig) -> None:
    engine, preset = config.engine, config.model.preset
    if engine.compile != "no" and not config.resources.gpus:
        raise ConfigError(
            "--engine.compile",
            value=f"{engine.compile} on CPUs",
            expected="no, because compiling takes minutes at each start and gains little",
            fix="--engine.compile no",
        )
    if engine.compile != "no" and engine.kind == "deepspeed" and engine.zero_stage == 3:
        raise ConfigError(
            "--engine.compile",
            value=f"{engine.compile} with ZeRO stage 3, which gathers parameters inside each layer's call",
            expected="stage 0, 1 or 2",
            fix="--engine.zero-stage 2",
        )
    if engine.deterministic and config.resources.gpus and preset in _UNDETERMINED:
        raise ConfigError(
            "--engine.deterministic",
            value=f"with preset {preset}, whose {_UNDETERMINED[preset]} has no deterministic form on GPUs",
            expected="another preset, or a run that need not give the same bits",
            fix="--engine.no-deterministic",
        )
