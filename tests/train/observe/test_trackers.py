"""Metrics to other people's trackers, kept locally: no server is asked."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from xmae_dist.core.errors import ConfigError
from xmae_dist.train.observe.metrics import Row
from xmae_dist.train.observe.trackers import TrackConfig, Trackers

RUN = "s3://bucket/runs/first"
SETTINGS = {"train": {"steps": 3}, "model": {"preset": "tiny"}}


def rows(*steps: int) -> list[Row]:
    return [
        {
            "kind": "step",
            "step": step,
            "time_s": 1000.0 + step,
            "loss": 1 / step,
            "losses": {"ecg": {"watch": 0.5}},
            "rss_mb": [3, 5],
        }
        for step in steps
    ] + [{"kind": "validation", "step": steps[0], "time_s": 1000.0, "own": 0.25}]


def told(config: TrackConfig, *steps: int) -> list[str]:
    """What failed."""
    failures: list[str] = []
    trackers = Trackers(config, RUN, SETTINGS, failures.append)
    trackers.tell(rows(*steps))
    trackers.close()
    return failures


def test_mlflow_has_every_step_and_a_continued_run_is_one_run(tmp_path: Path, monkeypatch: Any) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = TrackConfig(mlflow=f"file://{tmp_path}/mlruns", experiment="pulse")
    assert told(config, 1, 2) == told(config, 3) == []
    client = mlflow.MlflowClient(tracking_uri=config.mlflow)
    experiment = client.get_experiment_by_name("pulse")
    (run,) = client.search_runs([experiment.experiment_id])
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [
        (1, 1),
        (2, 0.5),
        (3, 1 / 3),
    ]
    assert run.data.metrics["losses/ecg/watch"] == 0.5 and run.data.metrics["largest_rss_mb"] == 5
    assert run.data.metrics["validation/own"] == 0.25
    assert run.data.params == {"train.steps": "3", "model.preset": "tiny"}
    assert (run.info.status, run.data.tags["xmae.run"]) == ("FINISHED", RUN)


def test_a_tracker_that_gave_up_is_sent_nothing_more() -> None:
    def gives_up() -> Any:
        raise OSError("no such server")

    failures: list[str] = []
    trackers = Trackers(TrackConfig(), RUN, SETTINGS, failures.append)
    trackers._start(gives_up, lambda: (OSError,))
    ((thread, incoming),) = trackers._threads
    thread.join()
    trackers.tell(rows(1))
    assert incoming.empty(), "a run of a million steps would keep them all"
    assert failures == ["OSError: no such server"]


def test_a_password_in_a_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"--track\.mlflow.*MLFLOW_TRACKING_PASSWORD") as refused:
        TrackConfig(mlflow="https://somebody:hunter2@mlflow.example.org").check()
    assert "hunter2" not in str(refused.value)


def test_a_tracker_that_fails_is_told_once_and_holds_nobody_up(monkeypatch: Any) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    failures = told(TrackConfig(mlflow="http://127.0.0.1:9"), 1, 2)
    assert len(failures) == 1 and "127.0.0.1" in failures[0]


def test_wandb_offline_keeps_the_run_locally(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert told(TrackConfig(wandb="pulse"), 1, 2) == []
    (kept,) = tmp_path.rglob("*.wandb")
    names = (b"losses/ecg/watch", b"largest_rss_mb", b"validation/own")
    until = time.monotonic() + 60  # its own process writes the file, and may end after `finish`
    while time.monotonic() < until and not all(name in kept.read_bytes() for name in names):
        time.sleep(0.2)
    assert [name for name in names if name not in kept.read_bytes()] == []


def test_a_missing_library_is_refused_with_the_extra_that_brings_it(monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--track.wandb") as refused:
        TrackConfig(wandb="pulse").check()
    assert "xmae_dist[wandb]" in str(refused.value.fix)
    TrackConfig().check()
