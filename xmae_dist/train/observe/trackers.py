"""Experiment trackers: the run's rows to MLflow or Weights & Biases, where configured.

A tracker is somebody else's server, so nothing depends on it: each is told in a thread of its own, an error ends that
tracker and is told once, and training goes on. A run that is continued continues its run there too.

Neither library is a requirement (`pip install 'xmae_dist[mlflow]'`, `'xmae_dist[wandb]'`); each is imported only where
it is asked for. Credentials and servers come from the libraries' own environment (`MLFLOW_TRACKING_TOKEN`,
`WANDB_API_KEY`, `WANDB_MODE=offline`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from xmae_dist.core.fingerprint import digest_json
from xmae_dist.core.optional import check_installed, check_mlflow
from xmae_dist.train.observe.metrics import Row, numbers

_MOST_METRICS = 1000
"""In one MLflow request."""
_MOST_PARAMETERS = 100


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """Trackers that also receive the metrics."""

    mlflow: str | None = None
    """MLflow tracking URI, such as https://mlflow.example.org; credentials from MLflow's own environment."""
    wandb: str | None = None
    """Weights & Biases project; the key from WANDB_API_KEY, and WANDB_MODE=offline keeps everything local."""
    experiment: str = "xmae"
    """MLflow experiment."""

    def check(self) -> None:
        """Raises ConfigError where a library that is asked for is not installed, or a password would be kept: the
        configuration is written into checkpoints and told to trackers.
        """
        if self.mlflow:
            check_mlflow("--track.mlflow", self.mlflow)
        if self.wandb:
            check_installed("wandb", "--track.wandb", self.wandb)


class Tracker(Protocol):
    """Somebody who keeps the numbers of a run. Making one may take long, and raise what its `errors` name."""

    def log(self, step: int, time_s: float, numbers: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class Trackers:
    """Tells those that are configured what `tell` hears; `settings` is the run's configuration as plain values.

    `failed(why)` hears of one that gave up, in that tracker's thread. `close` waits for what is on its way, but not for
    long.
    """

    def __init__(
        self, config: TrackConfig, run_url: str, settings: Mapping[str, Any], failed: Callable[[str], None]
    ) -> None:
        self._failed = failed
        self._threads: list[tuple[threading.Thread, queue.SimpleQueue[list[Row] | None]]] = []
        uri, project = config.mlflow, config.wandb
        if uri:
            self._start(lambda: Mlflow(uri, config.experiment, run_url, settings), Mlflow.errors)
        if project:
            self._start(lambda: Wandb(project, run_url, settings), Wandb.errors)

    def tell(self, rows: list[Row]) -> None:
        for thread, incoming in self._threads:
            if rows and thread.is_alive():  # one that gave up reads no more
                incoming.put(rows)

    def close(self, patience_s: float = 30.0) -> None:
        for _, incoming in self._threads:
            incoming.put(None)
        for thread, _ in self._threads:
            thread.join(patience_s)

    def _start(self, make: Callable[[], Tracker], errors: Callable[[], tuple[type[Exception], ...]]) -> None:
        incoming: queue.SimpleQueue[list[Row] | None] = queue.SimpleQueue()
        thread = threading.Thread(target=self._work, args=(make, errors, incoming), name="tracker", daemon=True)
        thread.start()
        self._threads.append((thread, incoming))

    def _work(
        self,
        make: Callable[[], Tracker],
        errors: Callable[[], tuple[type[Exception], ...]],
        incoming: queue.SimpleQueue[list[Row] | None],
    ) -> None:
        try:
            tracker = make()
            while (rows := incoming.get()) is not None:
                for row in rows:
                    tracker.log(row["step"], row["time_s"], numbers(row))
            tracker.close()
        except errors() as error:
            self._failed(f"{type(error).__name__}: {error}")


class Mlflow:
    """A run of an MLflow experiment, found again by a tag that holds this run's URL."""

    def __init__(self, tracking_uri: str, experiment: str, run_url: str, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(tracking_uri=tracking_uri)
        found = self._client.get_experiment_by_name(experiment)
        where = found.experiment_id if found is not None else self._client.create_experiment(experiment)
        earlier = self._client.search_runs([where], filter_string=f"tags.\"xmae.run\" = '{run_url}'", max_results=1)
        if earlier:
            self._run_id = earlier[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        name = run_url.rstrip("/").rsplit("/", 1)[-1]
        self._run_id = self._client.create_run(where, tags={"xmae.run": run_url}, run_name=name).info.run_id
        parameters = [Param(key, str(value)[:500]) for key, value in _flat(settings)]
        for start in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(self._run_id, params=parameters[start : start + _MOST_PARAMETERS])

    def log(self, step: int, time_s: float, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, round(time_s * 1e3), step) for name, value in numbers.items()]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _MOST_METRICS])

    def close(self) -> None:
        self._client.set_terminated(self._run_id)

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        from mlflow.exceptions import MlflowException

        return MlflowException, OSError


class Wandb:
    """A Weights & Biases run whose id is a digest of this run's URL."""

    def __init__(self, project: str, run_url: str, settings: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=project,
            id=digest_json(run_url),
            name=run_url.rstrip("/").rsplit("/", 1)[-1],
            resume="allow",
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off"),
        )
        # W&B's own count must never go back, and a validation's result comes after later steps.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, time_s: float, numbers: Mapping[str, float]) -> None:
        self._run.log({**numbers, "step": step, "time_s": time_s})

    def close(self) -> None:
        self._run.finish()

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        from wandb.errors import Error

        return Error, OSError


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"train": {"steps": 3}}` as ("train.steps", 3)."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
