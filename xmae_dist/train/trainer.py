"""One run of Ray Train: from a `Job` to what its worker group did, or the one error that says why it could not."""

from __future__ import annotations

import tempfile
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

from xmae_dist.core.errors import RunError, XmaeError
from xmae_dist.train.config import EngineConfig
from xmae_dist.train.engines.precision import DETERMINISTIC_ENVIRONMENT
from xmae_dist.train.survival.watch import Watch
from xmae_dist.train.worker import Job, train

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


class Trainer(TorchTrainer):  # type: ignore[misc]
    """A `TorchTrainer` without datasets: each rank streams its own share.

    Ray Train starts an actor for datasets anew with every worker group, given datasets or not: 2.4 s of CPU of each
    start, and about 1 % of a core for as long as the group runs.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [one for one in callbacks if not isinstance(one, DatasetsCallback)]


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
            train,  # type: ignore[arg-type]
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(
                num_workers=(fewest, settings.workers) if fewest < settings.workers else settings.workers,  # type: ignore[arg-type]
                elastic_resize_monitor_interval_s=settings.resize_check_s,  # type: ignore[call-arg]
                use_gpu=resources.gpus,
                resources_per_worker=resources.each,
            ),
            # The watch names who is to blame; where it cannot (the controller is lost), the group still ends.
            torch_config=TorchConfig(timeout_s=settings.collective_timeout_s + 30),
            run_config=RunConfig(
                storage_path=folder,
                name="run",
                failure_config=FailureConfig(  # type: ignore[call-arg]
                    max_failures=settings.max_failures, controller_failure_limit=settings.max_controller_failures
                ),
                callbacks=[watch],  # type: ignore[list-item]
                worker_runtime_env={"env_vars": _worker_environment(config.engine)},
            ),
        )
        result = trainer.fit()
    return dict(result.return_value or {})  # type: ignore[attr-defined]


def _worker_environment(engine: EngineConfig) -> dict[str, str]:
    return _WORKER_ENV | (DETERMINISTIC_ENVIRONMENT if engine.deterministic else {})


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
