"""The cloud cluster files say what the design asks for; they are not run here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[1] / "cluster"


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / name).read_text())


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_a_cloud_cluster_scales_from_zero_behind_a_token(name: str) -> None:
    cluster = load(name)
    kinds = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head" and kinds["head"]["resources"] == {"CPU": 0}
    assert kinds["data"]["min_workers"] == kinds["trainer"]["min_workers"] == 0
    assert kinds["trainer"]["resources"]["GPU"] == 1
    assert "spot" in str(kinds["trainer"]["node_config"]).lower()
    assert "spot" not in str(kinds["head"]["node_config"]).lower()
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert any(f"cluster/notice.py {name.removesuffix('.yaml')} " in command for command in commands)


def test_a_kuberay_cluster_scales_from_zero_behind_a_token() -> None:
    spec = load("kuberay/raycluster.yaml")["spec"]
    assert spec["enableInTreeAutoscaling"] and spec["authOptions"] == {"mode": "token"}
    assert [group["minReplicas"] for group in spec["workerGroupSpecs"]] == [0, 0]


def test_the_nightly_job_runs_a_command_that_exists() -> None:
    from xmae_dist.cli.main import COMMANDS

    for name, entrypoint in (
        ("kuberay/reembed-cron.yaml", lambda spec: spec["jobTemplate"]["entrypoint"]),
        ("kuberay/pretrain-job.yaml", lambda spec: spec["entrypoint"]),
    ):
        words = entrypoint(load(name)["spec"]).split()
        assert words[:3] == ["python", "-m", "xmae_dist.cli"] and words[3] in COMMANDS


def test_the_dashboard_shows_all_that_runs_tell_prometheus_and_nothing_else() -> None:
    from xmae_dist.train.observe import prometheus

    dashboard = json.loads((CLUSTER / "grafana/xmae.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = {name for expression in asked for name in re.findall(r"ray_xmae_\w+", expression)}
    told = {f"ray_xmae_train_{name}" for name in prometheus._STEP | prometheus._RANK}
    assert shown == told | {f"ray_xmae_validation_{name}" for name in prometheus._VALIDATION}


def test_the_image_keeps_what_its_nodes_need() -> None:
    ignored = (CLUSTER.parent / ".dockerignore").read_text().split()
    assert {".git", ".venv"} <= set(ignored) and not {"cluster", "xmae_dist", "jobs", "README.md"} & set(ignored)


def test_no_cluster_file_holds_a_credential() -> None:
    for file in CLUSTER.rglob("*"):
        if file.is_file() and file.suffix in {".yaml", ".md", ".py", ".json", ""}:
            text = file.read_text()
            assert "AKIA" not in text and "SECRET_ACCESS_KEY=" not in text, file
