"""Prometheus rules under promtool, and rules and dashboard ask only for numbers that somebody tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from xmae_dist.embed.metrics import GAUGES

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "cluster/prometheus/rules.yaml"
METRIC = re.compile(r"(?<![\w:])(?:ray_xmae|xmae_embed|ray_node|autoscaler|xmae:)[\w:]*")


def ours() -> set[str]:
    from xmae_dist.train.observe import prometheus

    told = {f"ray_xmae_{prefix}_{name}" for prefix, names in prometheus._KINDS.values() for name in names}
    return told | {f"ray_xmae_train_{name}" for name in prometheus._RANK}


def of_ray() -> set[str]:
    """What Ray's nodes tell, and its autoscaler v2, which leaves most of the numbers of v1 at zero."""
    from ray.autoscaler.v2 import metrics_reporter
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    reported = set(re.findall(r"_prom_metrics\.(\w+)", Path(metrics_reporter.__file__).read_text()))
    return {f"autoscaler_{name}" for name in reported} | {f"ray_{name}" for name in METRICS_GAUGES}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def shown() -> list[str]:
    dashboard = json.loads((ROOT / "cluster/grafana/xmae.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_rules_and_dashboard_ask_for_numbers_that_exist() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    asked = {
        name for expression in [*shown(), *(rule["expr"] for rule in rules())] for name in METRIC.findall(expression)
    }
    assert {"ray_xmae_checkpoint_time_s", "autoscaler_pending_nodes", "ray_node_mem_used"} <= asked
    assert asked - ours() - set(GAUGES) - of_ray() - recorded == set()


def test_the_dashboard_shows_all_that_runs_tell() -> None:
    assert ours() <= {name for expression in shown() for name in METRIC.findall(expression)}


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = json.loads((ROOT / "cluster/grafana/xmae.json").read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len({panel["id"] for panel in panels}) == len(set(places)) == len(panels)


def promtool(*words: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool (Debian's package prometheus) is not installed")
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_rules() -> None:
    promtool("check", "rules", str(RULES))


def test_alerts_come_when_they_should_and_not_before() -> None:
    promtool("test", "rules", str(RULES.with_name("rules_test.yaml")))


def test_derived_numbers_stand_in_the_group_of_those_who_use_them() -> None:
    """Groups are evaluated in no order: an alert of another group would see the number of the minute before."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        derived = {rule["record"] for rule in group["rules"] if "record" in rule}
        used = {name for rule in group["rules"] for name in METRIC.findall(rule["expr"]) if name.startswith("xmae:")}
        assert used <= derived, group["name"]


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    tests = yaml.safe_load(RULES.with_name("rules_test.yaml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", []) if case["exp_alerts"]}
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert fired == alerts.keys()
    assert all({"summary", "do"} == rule["annotations"].keys() for rule in alerts.values())


def test_what_alerts_point_to_is_in_the_operations_page() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    for rule in rules():
        for row in re.findall(r"docs/operations\.md, '([^']+)'", rule.get("annotations", {}).get("do", "")):
            assert f"| {row}" in page, row
