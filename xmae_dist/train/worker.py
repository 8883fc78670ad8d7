"""What each Ray Train worker does: builds its engine, restores, streams its share, trains.

Runs on every rank; whatever ranks must agree on goes through `Ranks`. A failure that no restart can cure is told to
the board before it is raised, so that the restarted group ends at once instead of failing again.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from xmae_dist.cluster import spares
from xmae_dist.core.errors import IntegrityError, StorageError, XmaeError
from xmae_dist.data.order.plan import Plan, plan_for
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.stream import direct, read_ahead
from xmae_dist.data.stream.collate import TensorBatch, tensor_batches
from xmae_dist.model import kinds, presets
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.checkpoints.retention import RetentionConfig
from xmae_dist.train.checkpoints.state import TrainState
from xmae_dist.train.checkpoints.upload import Saver
from xmae_dist.train.config import model_config
from xmae_dist.train.engines.precision import be_deterministic, computes_bf16
from xmae_dist.train.engines.protocol import Engine, Saved
from xmae_dist.train.job import Job
from xmae_dist.train.loop import Loop, LoopConfig, Stop
from xmae_dist.train.observe.losses import Cohorts
from xmae_dist.train.observe.measure import Measures, Yardstick
from xmae_dist.train.observe.metrics import MetricsWriter, Row
from xmae_dist.train.observe.prometheus import Gauges
from xmae_dist.train.observe.startup import Marks, process_started_s
from xmae_dist.train.observe.trackers import Trackers
from xmae_dist.train.order import order_of
from xmae_dist.train.sizing.flops import measured_peak_flops
from xmae_dist.train.step.batch import Masking
from xmae_dist.train.step.clock import Clock
from xmae_dist.train.step.collective import Ranks, timed_collectives
from xmae_dist.train.survival.pulse import Pulse
from xmae_dist.train.validation.held_out import held_out, save_panel
from xmae_dist.train.validation.validator import Patience, Validator


def train(job: Job) -> dict[str, Any]:
    """Trains on this worker. Returns the last step, and why it was the last if it is not that of the configuration."""
    attempt, failed, times = ray.get(job.board.begin.remote())
    if failed:
        return {"step": 0, "stop": "failed"}
    rank = ray.train.get_context().get_world_rank()
    with Pulse(rank, job.board.beat.remote) as pulse:
        try:
            return _Worker(job, attempt, pulse, _marks(job, times)).run()
        except StorageError:
            raise  # the store may be back after a restart
        except XmaeError as error:
            ray.get(job.board.fail.remote(error))
            raise


def _marks(job: Job, times: dict[str, float]) -> Marks:
    """Of a first start from the start of the driver, of a restart from when the group before was given up."""
    if "lost" in times:
        marks = Marks(times["lost"])
        marks.note("old_group", times["starting"])
    else:
        marks = Marks(job.handed_over_s)
        marks.seconds |= job.driver_s
        marks.note("controller", times["starting"])
    marks.note("processes", process_started_s())
    marks.note("worker_imports")
    return marks


class _Worker:
    """One rank's run, from process start to the last step."""

    def __init__(self, job: Job, attempt: str, pulse: Pulse, marks: Marks) -> None:
        config = job.config
        context = ray.train.get_context()
        self._job, self._config = job, config
        device = ray.train.torch.get_device()
        if device.type == "cpu":
            torch.set_num_threads(config.train.threads)
        self._ranks = Ranks(rank=context.get_world_rank(), world=context.get_world_size(), device=device)
        self._clock = Clock(device)
        self._attempt = self._ranks.from_first(attempt)
        self._stop: Stop | None = None
        self._pulse = pulse
        self._validator: Validator | None = None
        self._engine: Engine | None = None
        self._metrics: MetricsWriter | None = None
        self._gauges: Gauges | None = None
        self._trackers: Trackers | None = None
        self._cohorts: list[str] = []
        self._marks = marks
        self._marks.note("join")

    def run(self) -> dict[str, Any]:
        with timed_collectives(self._clock) as self._pulse.waiting:
            return self._run()

    def _run(self) -> dict[str, Any]:
        config = self._config
        (self._store_ref,) = ray.get(self._job.board.shared.remote())
        store: WindowStore = ray.get(self._store_ref)
        plan = plan_for(store, order_of(config))
        self._cohorts = sorted({segment.cohort for segment in store.segments("train")})
        self._marks.note("store")
        model = model_config(config)
        masking = Masking(seed=config.train.seed, n_patches=model.n_patches, mode=model.mask_mode)
        ratio = model.mask_ratio
        with tempfile.TemporaryDirectory(prefix="xmae-restore-") as folder:
            self._engine, state, validated, batches = self._begin(store, plan, model, Path(folder))
        self._marks.note("engine")
        reconstructs = self._engine.module.reconstructs
        if config.validation.windows and reconstructs:
            self._validator = self._build_validator(store, masking, ratio, str(reconstructs), validated)
        self._marks.note("held_out")
        measures = Measures(
            Cohorts.of(store.segments("train")), self._ranks, self._engine.device, self._clock, self._yardstick()
        )
        with self._telling(state.step):
            self._tell("start", step=state.step, world=self._ranks.world, **self._marks.seconds)
            self._keep_spares()
            result = self._loop(batches, masking, ratio, state, measures)
        if self._trackers is not None:
            self._trackers.close()
        return result

    def _keep_spares(self) -> None:
        context = ray.train.get_context()
        if context.get_local_rank() == 0:
            spares.keep(context.get_local_world_size() * self._config.resources.spares_a_worker)

    def _loop(
        self, batches: Iterator[TensorBatch], masking: Masking, ratio: float, state: TrainState, measures: Measures
    ) -> dict[str, Any]:
        config = self._config
        assert self._engine is not None
        retention = RetentionConfig(keep_recent=config.checkpoint.keep_recent, keep_every=config.checkpoint.keep_every)
        loop = Loop(
            config=self._loop_config(ratio),
            engine=self._engine,
            masking=masking,
            ranks=self._ranks,
            saver=Saver(
                config.run, self._ranks, retention, self._tell, self._attempt, self._before_commit, self._also_kept
            ),
            callbacks=self,
            about=self._about,
            measures=measures,
            validator=self._validator,
        )
        state, stop = loop.run(batches, state)
        return {"step": state.step, "stop": stop.value if stop else ""}

    def _loop_config(self, ratio: float) -> LoopConfig:
        config = self._config
        return LoopConfig(
            steps=config.train.steps,
            global_batch=config.train.global_batch,
            accumulation=config.accumulation(self._ranks.world),
            seed=config.train.seed,
            model_mask_ratio=ratio,
            schedule=config.schedule,
            checkpoint_every=config.checkpoint.every_steps,
            validate_every=config.validation.every_steps,
            max_bad_steps=config.train.max_bad_steps,
        )

    def _batches(self, store: WindowStore, plan: Plan, start_step: int) -> Iterator[TensorBatch]:
        resources, pin = self._config.resources, self._ranks.device.type == "cuda"
        where: dict[str, Any] = {
            "start_step": start_step,
            "stop_step": self._config.train.steps,
            "world": self._ranks.world,
            "rank": self._ranks.rank,
        }
        if resources.reader == "direct":
            return tensor_batches(direct.step_batches(store, plan, **where), pin=pin)
        reading = read_ahead.StreamConfig(
            readers=resources.readers, read_cpus=resources.read_cpus, read_label=resources.read_label
        )
        batches = read_ahead.step_batches(store, plan, **where, config=reading, store_ref=self._store_ref)
        return tensor_batches(batches, pin=pin)

    # -- state -----------------------------------------------------------------------------------------------------

    def _begin(
        self, store: WindowStore, plan: Plan, model: presets.Config, folder: Path
    ) -> tuple[Engine, TrainState, dict[int, float], Iterator[TensorBatch]]:
        """(an engine with the newest complete checkpoint whose bytes are right, or none; its state; the validations it
        knows; the batches from there on), the same on all ranks."""
        passed_over: set[str] = set()
        while (chosen := self._newest(passed_over)) is not None:
            url, manifest = chosen
            state = TrainState(**manifest["state"])
            batches = self._batches_from(store, plan, state)
            try:
                engine = self._build_engine(model, checkpoint.open_saved(url, manifest, folder, self._ranks))
                return engine, state, dict(manifest.get("validated", ())), batches
            except IntegrityError as error:  # on all ranks alike
                if self._ranks.rank == 0:
                    self._note_passed(url, str(error))
            passed_over.add(url)
        batches = self._batches_from(store, plan, TrainState())
        return self._build_engine(model, None), TrainState(), {}, batches

    def _newest(self, passed_over: set[str]) -> tuple[str, dict[str, Any]] | None:
        chosen = None
        if self._ranks.rank == 0:
            chosen = checkpoint.newest_complete(self._config.run, self._note_passed, skip=passed_over)
        chosen = self._ranks.from_first(chosen)
        if chosen is not None:
            url, manifest = chosen
            self._job.identity.check(manifest["identity"], self._config.checkpoint.accept, url)
        return chosen

    def _batches_from(self, store: WindowStore, plan: Plan, state: TrainState) -> Iterator[TensorBatch]:
        """From a state on. The first read tasks start their processes while the engine is built."""
        self._pulse.step = state.step
        self._marks.note("restore")
        return _ahead(self._batches(store, plan, state.step))

    def _note_passed(self, url: str, why: str) -> None:
        self._job.board.post.remote([{"kind": "checkpoint_passed_over", "step": 0, "url": url, "why": why}])

    def _build_engine(self, model: presets.Config, saved: Saved | None) -> Engine:
        config, ranks = self._config, self._ranks
        if config.engine.deterministic:
            be_deterministic()
        torch.manual_seed(config.train.seed)
        common: dict[str, Any] = {
            "optimizer": config.optimizer,
            "accumulation": config.accumulation(ranks.world),
            "bf16": self._bf16,
            "compile": config.engine.compile,
            "device": ranks.device,
            "saved": saved,
            "clock": self._clock,
        }
        if config.engine.kind == "torch":
            from xmae_dist.train.engines.torch import TorchEngine

            return TorchEngine(kinds.from_config(model), rank=ranks.rank, world=ranks.world, **common)
        from xmae_dist.train.engines.deepspeed import DeepSpeedEngine, ZeroConfig, divided

        zero = ZeroConfig(
            stage=config.engine.zero_stage,
            offload_optimizer=config.engine.offload_optimizer,
            offload_parameters=config.engine.offload_parameters,
        )
        # `published` gives layers their first weights after they are made, which is too late once they are divided.
        whole = zero.stage < 3 or config.model.preset == "published"
        module = kinds.from_config(model) if whole else divided(lambda: kinds.from_config(model), zero, ranks.device)
        return DeepSpeedEngine(module, zero=zero, micro_batch=config.train.micro_batch, **common)

    def _build_validator(
        self, store: WindowStore, masking: Masking, ratio: float, reconstructs: str, validated: dict[int, float]
    ) -> Validator | None:
        settings = self._config.validation
        share = held_out(store, settings.split, settings.windows, masking, ratio, self._ranks)
        if share is None:
            return None

        def keep_panel(step: int, rebuilt_BL: Any) -> None:
            rate_hz = self._config.spec.rate_hz
            try:
                save_panel(self._config.run, step, share, rebuilt_BL, reconstructs=reconstructs, rate_hz=rate_hz)
            except StorageError as error:  # a picture is not worth a run
                self._tell("metrics_lost", step=step, what="the picture of reconstructions", why=str(error))

        return Validator(
            share,
            self._ranks,
            batch=self._config.train.micro_batch,
            patience=Patience(validations=settings.patience, least_gain=settings.least_gain),
            tell=lambda **row: self._tell("validation", **row),
            keep_panel=keep_panel,
            history=validated,
        )

    def _also_kept(self) -> set[int]:
        return self._validator.kept_steps() if self._validator is not None else set()

    @property
    def _bf16(self) -> bool:
        return computes_bf16(self._config.engine.precision, self._ranks.device)

    def _yardstick(self) -> Yardstick:
        given = self._config.resources.peak_tflops
        peak = given * 1e12 if given else measured_peak_flops(self._ranks.device, bf16=self._bf16)
        return Yardstick(flops_per_window=self._job.flops_per_window, peak_flops=peak)

    def _about(self, state: TrainState) -> dict[str, Any]:
        return {
            "state": state.to_dict(),
            "validated": sorted(self._validator.history.items()) if self._validator is not None else [],
            "identity": self._job.identity.to_dict(),
            "config": self._job.config_dict,
            "model": kinds.to_dict(model_config(self._config)),
            "spec": self._config.spec.to_dict(),
            "store": self._job.store_url,
            "cohorts": self._cohorts,
            "engine": {
                "kind": self._config.engine.kind,
                "zero_stage": self._config.engine.zero_stage,
                "world": self._ranks.world,
            },
        }

    # -- telling ---------------------------------------------------------------------------------------------------

    def _telling(self, start_step: int) -> MetricsWriter | _Listener:
        if self._ranks.rank == 0:
            config = self._config
            self._gauges = Gauges(config.run)
            self._trackers = Trackers(config.track, config.run, self._job.config_dict, self._tracker_failed)
            self._metrics = MetricsWriter(config.run, start_step, listen=self._listen)
            return self._metrics
        return _Listener(self._listen)

    def _listen(self, rows: list[Row]) -> None:
        """Hands rows to the driver and hears whether it wants the run to stop; in the telling thread."""
        if _preempted():
            self._stop = Stop.PREEMPTED
        if self._gauges is not None and self._trackers is not None:
            self._gauges.set(rows)
            self._trackers.tell(rows)
        if self._ranks.rank == 0 and (why := ray.get(self._job.board.post.remote(rows))):
            self._stop = Stop(why)

    def _tell(self, kind: str, **fields: Any) -> None:
        if self._metrics is not None:
            self._metrics.add(kind, fields)

    def _tracker_failed(self, why: str) -> None:
        self._tell("tracker_failed", step=self._pulse.step, why=why)

    def _before_commit(self) -> None:
        """On rank 0: metrics up to here are stored, and the run is still this driver's."""
        if self._metrics is not None:
            self._metrics.flush()
        self._job.lease.check()

    def on_step(self, row: Row) -> None:
        self._pulse.step = row["step"]
        self._tell("step", **row)

    def on_event(self, kind: str, **fields: Any) -> None:
        self._tell(kind, **fields)

    def wants_stop(self) -> Stop | None:
        return self._stop


def _ahead(batches: Iterator[TensorBatch]) -> Iterator[TensorBatch]:
    """The same batches; the first is asked for now, in a thread, and not only when it is needed."""
    first = ThreadPoolExecutor(max_workers=1, thread_name_prefix="first-batch").submit(next, batches, None)

    def rest() -> Iterator[TensorBatch]:
        batch = first.result()
        if batch is not None:
            yield batch
            yield from batches

    return rest()


class _Listener:
    """Calls `listen([])` once a second in a thread: what ranks other than 0 have instead of a metrics writer."""

    def __init__(self, listen: Callable[[list[Row]], None]) -> None:
        self._listen, self._done = listen, threading.Event()
        self._thread = threading.Thread(target=self._work, name="listen", daemon=True)

    def __enter__(self) -> _Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._done.wait(1.0):
            self._listen([])


def _preempted() -> bool:
    # `ray.train.get_preemption_info` is a barrier through the controller; the loop has its own agreement, so only
    # what this worker has been told is asked for.
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None
