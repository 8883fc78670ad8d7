"""One run of Ray Train: from a `Job` to what its worker group did, or the one error that says why it could not."""

from __future__ import annotations

import tempfile
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from xmae_dist.cluster import fanout, spares
from xmae_dist.core.errors import RunError, XmaeError
from xmae_dist.train.config import PretrainConfig
from xmae_dist.train.job import Job
from xmae_dist.train.process_group import ProcessGroup
from xmae_dist.train.survival.watch import Watch

# Host memory in huge pages, where the kernel leaves that to the process: on CPUs activations then cost fewer page
# faults and misses of the TLB. Older C libraries than glibc 2.35 pass over it.
_WORKER_ENV = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
# Read tasks that wait are demand enough, with their labels. What Ray Data would ask for beside them, once it finds its
# share of the cluster busy, has no labels and joins one request with the workers of all runs; where that is more than
# there can be, the autoscaler starts no node at all, not even in place of a lost one. So it never finds it busy.
_NEVER = "1e9"
_WORKER_ENV |= {
    f"RAY_DATA_DEFAULT_CLUSTER_SCALING_UP_{resource}_UTIL_THRESHOLD": _NEVER
    for resource in ("CPU", "GPU", "MEMORY", "OBJECT_STORE_MEMORY")
}
# Nothing here asks a GPU for anything: Ray says which are visible when a process gets its first work.
_IMPORTS = ("ray.train.v2._internal.execution.worker_group.worker", "ray.train.torch", "xmae_dist.train.worker")


class Trainer(DataParallelTrainer):  # type: ignore[misc]
    """Ray Train's trainer without what a run of ours pays for and has no use of.

    An actor for datasets, anew with every worker group, given datasets or not: each rank streams its own share. And a
    detached actor that removes the placement group of a controller that died: the driver then ends, and Ray removes
    what was its job's. Each is a process of 2 s of CPU at every start and about 1 % of a core from then on.
    """

    _WITHOUT = (DatasetsCallback, PlacementGroupCleanerCallback)

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [one for one in callbacks if not isinstance(one, self._WITHOUT)]


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """The function that Ray Train runs on every worker; `settings["job"]` is a `Job`."""
    from xmae_dist.train import worker  # torch with it, which this process has and the driver and the controller not

    return worker.train(settings["job"])


def fit_result(job: Job) -> dict[str, Any] | BaseException:
    """What rank 0 did, or what ended the run."""
    try:
        return _fit(job)
    except TrainingFailedError as error:
        return _told(error)
    except BaseException as error:  # noqa: BLE001  (raised again in the main thread)
        return error


def _fit(job: Job) -> dict[str, Any]:
    """One `Trainer` run; returns what rank 0 did."""
    config = job.config
    settings, resources = config.train, config.resources
    fewest = settings.min_workers or settings.workers
    watch = Watch(board=job.board, silence_s=settings.silence_s, wait_s=settings.collective_timeout_s)
    with tempfile.TemporaryDirectory(prefix="xmae-ray-train-") as folder:
        trainer = Trainer(
            train,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(
                num_workers=(fewest, settings.workers) if fewest < settings.workers else settings.workers,  # type: ignore[arg-type]
                elastic_resize_monitor_interval_s=settings.resize_check_s,  # type: ignore[call-arg]
                use_gpu=resources.gpus,
                resources_per_worker=resources.each,
            ),
            # The watch names who is to blame; where it cannot (the controller is lost), the group still ends.
            backend_config=ProcessGroup(timeout_s=settings.collective_timeout_s + 30),
            run_config=RunConfig(
                storage_path=folder,
                name="run",
                failure_config=FailureConfig(  # type: ignore[call-arg]
                    max_failures=settings.max_failures, controller_failure_limit=settings.max_controller_failures
                ),
                callbacks=[watch],  # type: ignore[list-item]
                worker_runtime_env={"env_vars": _worker_environment(config)},
            ),
        )
        result = trainer.fit()
    return dict(result.return_value or {})  # type: ignore[attr-defined]


def _worker_environment(config: PretrainConfig) -> dict[str, str]:
    chosen = _WORKER_ENV | config.engine.environment
    if config.resources.spares and fanout.cluster_address() is not None:
        chosen |= spares.environment(_IMPORTS)
    return chosen


def _told(error: Exception) -> XmaeError:
    """A failed worker group as one error: the worker's own where it is one of ours."""
    failures = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, XmaeError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return RunError(
        "training workers",
        value=" / ".join(lines[-3:])[:600],
        fix="the workers' logs (XMAE_WORKER_LOGS=1 shows them here) tell more; the same command goes on from the "
        "newest checkpoint",
    )
