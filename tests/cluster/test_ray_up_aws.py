"""`cluster/aws.yaml` through Ray's schema and preparation, and `ray up` and `ray down` against moto's EC2.

What is not real here: the machines. Where Ray would log in to them, programs of the test stand for `ssh` and `rsync`,
keep what they were asked, and answer as a machine with Docker would.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REGION = "us-east-1"
RAY = str(Path(sys.executable).with_name("ray"))
SSH = """#!/bin/bash
printf '%s\\n' "$*" >> "$KEPT/ssh.log"
case "$*" in
  *"command -v docker"*) echo /usr/bin/docker ;;
  *".Config.Env"*) echo '["HOME=/home/ray"]' ;;
  *"printenv HOME"*) echo /home/ray ;;
  *"/proc/meminfo"*) echo "MemAvailable:   30000000 kB" ;;
  *"docker info"*) echo runc ;;
esac
"""
RSYNC = """#!/bin/bash
printf '%s\\n' "$*" >> "$KEPT/rsync.log"
for word; do
  case "$word" in */ray-bootstrap-*) cp "$word" "$KEPT/bootstrap.yaml" ;; esac
done
"""


@dataclass(frozen=True, kw_only=True)
class Up:
    """What a `ray up` left: its output, what the head was told, and the configuration that the head was given."""

    said: str
    told: str
    copied: str
    head_config: dict[str, Any]
    file: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def up(
    filled: Callable[[str, dict[str, str]], str], network: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    bin_folder, home = folder / "bin", folder / "home"
    for path in (bin_folder, home / ".ssh", home / ".ray"):
        path.mkdir(parents=True)
    for name, text in (("ssh", SSH), ("rsync", RSYNC)):
        (bin_folder / name).write_text(text)
        (bin_folder / name).chmod(0o755)
    for path in (home / ".ssh/xmae-cluster.pem", home / ".ray/auth_token"):
        path.write_text("planted-secret")
        path.chmod(0o600)
    file = folder / "aws.yaml"
    file.write_text(filled("aws.yaml", network))
    environment = {
        **os.environ,
        "HOME": str(home),
        "KEPT": str(folder),
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "RAY_UP_enable_autoscaler_v2": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(
        [RAY, "up", str(file), "-y", "--no-config-cache"], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    yield Up(
        said=done.stdout + done.stderr,
        told=(folder / "ssh.log").read_text(),
        copied=(folder / "rsync.log").read_text(),
        head_config=yaml.safe_load((folder / "bootstrap.yaml").read_text()),
        file=file,
        environment=environment,
    )


def instances() -> list[dict[str, Any]]:
    found = boto3.client("ec2", region_name=REGION).describe_instances(
        Filters=[
            {"Name": "tag:ray-cluster-name", "Values": ["xmae"]},
            {"Name": "instance-state-name", "Values": ["pending", "running"]},
        ]
    )
    return [instance for reservation in found["Reservations"] for instance in reservation["Instances"]]


def tags(instance: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


def test_the_head_is_on_demand_private_and_has_its_own_role(up: Up, network: dict[str, str]) -> None:
    (head,) = [found for found in instances() if tags(found)["ray-node-type"] == "head"]
    assert tags(head)["ray-node-status"] == "up-to-date"
    assert "InstanceLifecycle" not in head and head["InstanceType"] == "m7i.2xlarge"
    assert head["IamInstanceProfile"]["Arn"].endswith("/xmae-head")
    assert "PublicIpAddress" not in head and head["PrivateIpAddress"].startswith("10.9.")
    assert head["MetadataOptions"]["HttpTokens"] == "required" and head["KeyName"] == "xmae-cluster"
    assert [group["GroupId"] for group in head["SecurityGroups"]] == [network["SECURITY_GROUP"]]


def test_no_port_is_open_to_the_world_and_nothing_was_made_beside_the_head(up: Up) -> None:
    ec2, iam = boto3.client("ec2", region_name=REGION), boto3.client("iam", region_name=REGION)
    groups = ec2.describe_security_groups()["SecurityGroups"]
    rules = [rule for group in groups if group["GroupName"] != "default" for rule in group["IpPermissions"]]
    assert rules and not [rule for rule in rules if rule.get("IpRanges") or rule.get("Ipv6Ranges")]
    assert not [group["GroupName"] for group in groups if group["GroupName"].startswith("ray-autoscaler")]
    assert [pair["KeyName"] for pair in ec2.describe_key_pairs()["KeyPairs"]] == ["xmae-cluster"]
    assert {role["RoleName"] for role in iam.list_roles()["Roles"]} == {"xmae-head", "xmae-node"}


def test_the_head_starts_ray_from_the_image_and_installs_nothing(up: Up) -> None:
    assert "docker pull registry.example/xmae-cpu@sha256:" in up.told
    run = next(line for line in up.told.splitlines() if "docker run" in line)
    for option in ("no-new-privileges", "-v /mnt/xmae:/mnt/xmae", "-e AWS_REGION=us-east-1", "--shm-size="):
        assert option in run
    assert "--privileged" not in run
    start = next(line for line in up.told.splitlines() if "ray start --head" in line)
    for word in ("RAY_enable_autoscaler_v2=1", "RAY_AUTH_MODE=token", "--dashboard-host=127.0.0.1"):
        assert word in start
    assert '"object_store_memory":4294967296' in start and '"xmae/pool":"head"' in start
    assert "pip install" not in up.told and "anaconda" not in up.told


def test_secrets_travel_as_files_and_stand_in_no_command_tag_or_output(up: Up) -> None:
    assert "/.ray/auth_token ubuntu@" in up.copied and "/.ssh/xmae-cluster.pem ubuntu@" in up.copied
    assert "planted-secret" not in up.told + up.said + up.copied + str(up.head_config) + str(instances())


def test_the_head_can_start_a_machine_of_every_pool(up: Up) -> None:
    """With the configuration that `ray up` gave it, and the provider that its autoscaler uses."""
    from ray.autoscaler._private.providers import _get_node_provider

    config = up.head_config
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    pools = {name: kind for name, kind in config["available_node_types"].items() if name != "head"}
    for name, kind in pools.items():
        labels = {"ray-node-type": "worker", "ray-launch-config": "test", "ray-user-node-type": name}
        provider.create_node(kind["node_config"], labels, 1)
    made = {tags(found)["ray-user-node-type"]: found for found in instances()}
    for name, kind in pools.items():
        machine = made[name]
        assert ("InstanceLifecycle" in machine) == (kind["labels"]["xmae/market"] == "spot"), name
        assert machine["IamInstanceProfile"]["Arn"].endswith("/xmae-node") and "PublicIpAddress" not in machine
        spoken = boto3.client("ec2", region_name=REGION).describe_instance_types(
            InstanceTypes=[machine["InstanceType"]]
        )
        (truth,) = spoken["InstanceTypes"]
        cards = list(truth.get("GpuInfo", {}).get("Gpus", []))
        assert kind["resources"].get("GPU", 0) == sum(card["Count"] for card in cards), name
        assert kind["resources"]["CPU"] == truth["VCpuInfo"]["DefaultVCpus"], name
        assert all(kind["resources"][f"accelerator_type:{card['Name']}"] for card in cards), name
        # /dev/shm is sized by Ray to a third of the memory that is free, and object stores must fit into it.
        assert kind["resources"]["object_store_memory"] < 0.3 * truth["MemoryInfo"]["SizeInMiB"] * 2**20, name
        assert truth["InstanceStorageSupported"], f"{name}: no local disk for spill and segments"


def test_the_heads_role_grants_every_call_that_its_autoscaler_makes(up: Up, cluster_folder: Path) -> None:
    from ray.autoscaler._private.providers import _get_node_provider

    config = up.head_config
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    called: set[str] = set()

    def keep(model: Any, **_: Any) -> None:
        called.add(f"ec2:{model.name}")

    for resource in (provider.ec2, provider.ec2_fail_fast):
        resource.meta.client.meta.events.register("before-call.ec2", keep)
    labels = {"ray-node-type": "worker", "ray-launch-config": "role", "ray-user-node-type": "data"}
    provider.create_node(config["available_node_types"]["data"]["node_config"], labels, 1)
    (made,) = provider.non_terminated_nodes({"ray-launch-config": "role"})
    assert provider.internal_ip(made).startswith("10.9.")
    provider.set_node_tags(made, {"ray-node-status": "up-to-date"})
    provider.terminate_node(made)
    provider.fillout_available_node_types_resources(config)
    policy = json.loads((cluster_folder / "aws/head-policy.json").read_text())
    granted = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert {"ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances"} <= called
    assert called <= granted, f"not granted: {called - granted}"


def test_ray_down_ends_every_machine(up: Up) -> None:
    assert instances()
    done = subprocess.run(
        [RAY, "down", str(up.file), "-y"], env=up.environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not instances()
