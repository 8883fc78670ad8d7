"""A store that is down delays metrics and loses none; what else goes wrong beside training is told to it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from xmae_dist.train.observe.metrics import MetricsWriter, Row, read_metrics


def test_rows_around_a_checkpoint_survive_an_outage(tmp_path: Path) -> None:
    run, blocked = f"file://{tmp_path}", tmp_path / "metrics"
    with MetricsWriter(run, 0, every_s=0.05) as metrics:
        metrics.add("step", {"step": 1})
        metrics.flush()
        blocked.rename(tmp_path / "aside")
        blocked.touch()  # a file where the folder should be: nothing can be written
        metrics.add("step", {"step": 2})
        metrics.add("checkpoint", {"step": 2})
        metrics.add("step", {"step": 3})
        metrics.flush()
        metrics.add("step", {"step": 4})
        metrics.flush()
        blocked.unlink()
        metrics.add("step", {"step": 5})
        metrics.flush()
    kinds = [(row["kind"], row["step"]) for row in read_metrics(run)]
    assert kinds == [("step", 1), ("checkpoint", 2), ("step", 2), ("step", 3), ("step", 4), ("step", 5)]
    assert sorted(file.name for file in blocked.iterdir()) == ["from-00000000.jsonl", "from-00000002.jsonl"]


def test_who_listens_is_not_lost_in_silence(tmp_path: Path) -> None:
    def deaf(rows: list[Row]) -> None:
        raise ConnectionError("the driver does not answer")

    metrics = MetricsWriter(f"file://{tmp_path}", 0, every_s=0.01, listen=deaf)
    with pytest.raises(ConnectionError, match="driver"), metrics:
        metrics.add("step", {"step": 1})


def test_curves_that_cannot_be_drawn_cost_no_metrics(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()  # a file where the folder should be
    with MetricsWriter(f"file://{tmp_path}", 0, every_s=0.05) as metrics:
        metrics.add("step", {"step": 1, "loss": 0.5})
        metrics.flush()
        metrics.add("step", {"step": 2, "loss": 0.4})
    assert [row["step"] for row in read_metrics(f"file://{tmp_path}")] == [1, 2]


def test_what_the_store_refuses_to_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMAE_STORE_PATIENCE_S", "0.5")
    (tmp_path / "metrics").touch()  # a file where the folder should be
    heard: list[Row] = []
    with MetricsWriter(f"file://{tmp_path}", 7, every_s=0.05, listen=heard.extend) as metrics:
        metrics.add("step", {"step": 8})
    assert [(row["kind"], row.get("what")) for row in heard] == [("step", None), ("metrics_lost", "rows after step 7")]


def test_a_store_that_comes_back_after_the_last_step_loses_no_row(tmp_path: Path) -> None:
    blocked, heard = tmp_path / "metrics", list[Row]()
    blocked.touch()
    threading.Timer(1.0, blocked.unlink).start()
    with MetricsWriter(f"file://{tmp_path}", 0, every_s=0.05, listen=heard.extend) as metrics:
        metrics.add("step", {"step": 1})
    assert [row["step"] for row in read_metrics(f"file://{tmp_path}")] == [1] and len(heard) == 1


def test_what_others_leave_among_the_metrics_is_passed_over(tmp_path: Path) -> None:
    with MetricsWriter(f"file://{tmp_path}", 0, every_s=0.05) as metrics:
        metrics.add("step", {"step": 1})
    for stray in (".DS_Store", "from-00000000.jsonl.bak", "notes.txt"):
        (tmp_path / "metrics" / stray).write_bytes(b"\x00 not ours")
    assert [row["step"] for row in read_metrics(f"file://{tmp_path}")] == [1]
