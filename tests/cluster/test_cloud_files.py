"""`cluster/aws.yaml` and `gcp.yaml` through Ray's own schema, preparation and each provider's bootstrap.

AWS's calls go to moto's EC2 and IAM, Google's are answered here. `test_ray_up_aws.py` runs `ray up` itself.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import boto3
import httplib2
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from xmae_dist.testing.s3_server import S3Server

FILES = ["aws.yaml", "gcp.yaml"]
PLACEHOLDER = re.compile(r"(?<![\w$/-])[A-Z][A-Z_]{3,}(?![\w=-])")


@pytest.fixture(params=["aws", "gcp"])
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    filled: dict[str, Any] = request.getfixturevalue(f"{request.param}_config")
    return copy.deepcopy(filled)


@pytest.fixture
def aws_config(filled: Any, s3: S3Server) -> dict[str, Any]:
    """Without a cloud behind it: the words alone."""
    words = {"REGION": "us-east-1", "REGISTRY": "registry.example", "CUDA_DIGEST": "0" * 64, "CPU_DIGEST": "0" * 64}
    loaded: dict[str, Any] = yaml.safe_load(filled("aws.yaml", words))
    return loaded


def pools(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}


def starts(config: dict[str, Any]) -> list[str]:
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"].keys() == config["available_node_types"].keys()
    # Ray's defaults for a cloud install packages of their own; ours must have taken their place.
    for name in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert prepared[name] == [], name


def test_ray_refuses_a_field_that_it_does_not_know(config: dict[str, Any]) -> None:
    config["available_node_types"]["data"]["label"] = {"xmae/pool": "data"}
    with pytest.raises(Exception, match="label"):
        validate_config(prepare_config(config))


def test_the_head_does_no_work_and_pools_scale_from_zero(config: dict[str, Any]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"]["CPU"] == 0 and "spot" not in str(head["node_config"]).lower()
    assert all(kind["min_workers"] == 0 for kind in pools(config).values())
    assert sum(kind["max_workers"] for kind in pools(config).values()) <= config["max_workers"]
    cards = {kind["resources"].get("GPU", 0) for kind in pools(config).values()}
    assert cards == {0, 1, 8}
    for name, kind in pools(config).items():
        spot = kind["labels"]["xmae/market"] == "spot"
        assert ("spot" in str(kind["node_config"]).lower()) == spot, name
        assert kind["resources"].get("trainer", 0) == kind["resources"].get("GPU", 0), name
        if kind["resources"].get("GPU"):
            assert kind["priority"] == (10 if spot else 0), f"{name}: on-demand is what spot falls back to"
            assert "xmae-cuda@" in config["docker"]["image"]
        else:
            assert "xmae-cpu@" in kind["docker"]["worker_image"]
    assert {kind["labels"]["xmae/market"] for kind in pools(config).values()} == {"spot", "on-demand"}
    assert [name for name, kind in pools(config).items() if kind["max_workers"]] == ["data", "trainer-1x-h100"]


def test_ray_listens_behind_a_token_and_spills_to_the_local_disk(config: dict[str, Any]) -> None:
    assert len(starts(config)) == 2
    for start in starts(config):
        assert "RAY_AUTH_MODE=token" in start and "--object-spilling-directory=/mnt/xmae/spill" in start
    assert "--dashboard-host=127.0.0.1" in starts(config)[0]
    assert list(config["file_mounts"]) == ["/home/ray/.ray/auth_token"]
    assert config["provider"]["use_internal_ips"] is True
    assert "-v /mnt/xmae:/mnt/xmae" in config["docker"]["run_options"]


def test_images_are_named_by_digest(config: dict[str, Any]) -> None:
    named = [config["docker"]["image"], config["docker"]["head_image"]]
    named += [kind["docker"]["worker_image"] for kind in pools(config).values() if "docker" in kind]
    assert len(named) == 3 and all(re.search(r"@sha256:[0-9a-f]{64}$", image) for image in named)


def test_spot_notices_and_idleness_are_watched_for(config: dict[str, Any]) -> None:
    assert any(f"notice.py {config['provider']['type']} " in command for command in config["worker_start_ray_commands"])
    assert any("idle.py --after-min" in command for command in config["head_start_ray_commands"])
    assert not any("idle.py" in command for command in config["worker_start_ray_commands"])


def startup(config: dict[str, Any], node_config: dict[str, Any]) -> str:
    if config["provider"]["type"] == "aws":
        return str(node_config["UserData"])
    return next(item["value"] for item in node_config["metadata"]["items"] if item["key"] == "startup-script")


def test_every_machine_boots_with_the_same_script(config: dict[str, Any], cluster_folder: Path) -> None:
    script = (cluster_folder / "boot.sh").read_text()
    for name, kind in config["available_node_types"].items():
        assert startup(config, kind["node_config"]).rstrip("\n") == script.rstrip("\n"), name
    if config["provider"]["type"] == "aws":
        for kind in config["available_node_types"].values():
            assert kind["node_config"]["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_the_boot_script_is_valid_bash(cluster_folder: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(cluster_folder / "boot.sh")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_shellcheck_finds_nothing(cluster_folder: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck (Debian's package) is not installed")
    checked = subprocess.run(["shellcheck", str(cluster_folder / "boot.sh")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(("running", "minutes"), [(0, 20), (15, 35)])
def test_the_guard_switches_a_machine_off_20_minutes_after_its_raylet(
    cluster_folder: Path, tmp_path: Path, running: int, minutes: int
) -> None:
    """Its minutes pass at once: `sleep`, `pgrep` and `shutdown` are stood in for, this machine must stay on."""
    guard = (cluster_folder / "boot.sh").read_text().split("<< 'GUARD'\n")[1].split("GUARD\n")[0]
    (tmp_path / "guard").write_text(guard)
    stand_ins = {
        "sleep": 'echo "$@" >> slept; [ "$(wc -l < slept)" -lt 100 ]',
        "pgrep": f'[ "$*" = "-x raylet" ] && [ "$(wc -l < slept)" -le {running} ]',
        "shutdown": 'echo "$@" > ended',
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    subprocess.run(["bash", str(tmp_path / "guard")], cwd=tmp_path, env={"PATH": path}, check=True, timeout=60)
    assert (tmp_path / "ended").read_text() == "-h now\n"
    assert (tmp_path / "slept").read_text().split() == ["60"] * minutes


@pytest.mark.parametrize("name", FILES)
def test_what_is_to_fill_in_is_told_in_the_operations_page(cluster_folder: Path, name: str) -> None:
    words = set(PLACEHOLDER.findall(yaml.dump(yaml.safe_load((cluster_folder / name).read_text()))))
    words -= {"AWS", "SPOT", "DELETE", "TERMINATE", "STANDARD", "GUARD", "NAME", "PATH"}
    page = (cluster_folder.parent / "docs/operations.md").read_text()
    assert {"REGION", "CUDA_DIGEST"} <= words
    assert not [word for word in words if f"`{word}`" not in page]


def test_bootstrap_on_aws_makes_nothing_of_its_own(filled: Any, network: dict[str, str]) -> None:
    """Ray would otherwise make a role that may do anything in EC2 and S3, a key pair, a group open on port 22."""
    from ray.autoscaler._private.aws.config import bootstrap_aws

    config = prepare_config(yaml.safe_load(filled("aws.yaml", network)))
    config["auth"]["ssh_private_key"] = "/nowhere/xmae-cluster.pem"
    ec2, iam = boto3.client("ec2", region_name="us-east-1"), boto3.client("iam", region_name="us-east-1")

    def made() -> tuple[int, ...]:
        return (
            len(ec2.describe_security_groups()["SecurityGroups"]),
            len(ec2.describe_key_pairs()["KeyPairs"]),
            len(iam.list_roles()["Roles"]),
            len(iam.list_instance_profiles()["InstanceProfiles"]),
        )

    before = made()
    done = bootstrap_aws(config)
    assert made() == before
    assert done["head_node"] == {}
    for name, kind in done["available_node_types"].items():
        assert kind["node_config"]["SubnetIds"] == [network["PRIVATE_SUBNET_A"], network["PRIVATE_SUBNET_B"]], name
        assert kind["node_config"]["SecurityGroupIds"] == [network["SECURITY_GROUP"]], name
        role = {"Name": "xmae-head" if name == "head" else "xmae-node"}
        assert kind["node_config"]["IamInstanceProfile"] == role, name


class Google:
    """Answers what bootstrap asks of Google's interfaces, and keeps the requests."""

    def __init__(self, member: str) -> None:
        self.asked: list[tuple[str, str]] = []
        self._member = member

    def request(self, _: Any, uri: str, method: str = "GET", **__: Any) -> tuple[httplib2.Response, bytes]:
        self.asked.append((method, uri.split("?")[0]))
        roles = ["roles/storage.objectAdmin", "roles/compute.admin", "roles/iam.serviceAccountUser"]
        roles += ["roles/storage.admin", "roles/iam.roleViewer"]
        if uri.split("?")[0].endswith(":getIamPolicy"):
            answer: dict[str, Any] = {"bindings": [{"role": role, "members": [self._member]} for role in roles]}
        elif "/serviceAccounts/" in uri:
            answer = {"email": self._member.split(":")[1], "projectId": "study"}
        else:
            answer = {"projectId": "study", "lifecycleState": "ACTIVE"}
        return httplib2.Response({"status": "200", "content-type": "application/json"}), json.dumps(answer).encode()


def test_bootstrap_on_google_cloud_gives_no_external_address(
    gcp_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.autoscaler._private.gcp.config import bootstrap_gcp

    google = Google("serviceAccount:ray-autoscaler-sa-v1@study.iam.gserviceaccount.com")
    monkeypatch.setattr(httplib2.Http, "request", lambda *words, **named: google.request(*words, **named))
    config = prepare_config(copy.deepcopy(gcp_config))
    config["provider"]["gcp_credentials"] = {"type": "credentials_token", "credentials": "none"}
    done = bootstrap_gcp(config)
    for name, kind in done["available_node_types"].items():
        node = {**done["head_node"], **kind["node_config"]} if name == "head" else kind["node_config"]
        assert all("accessConfigs" not in interface for interface in node["networkInterfaces"]), name
        account = "xmae-head" if name == "head" else "xmae-node"
        assert [sa["email"] for sa in node["serviceAccounts"]] == [f"{account}@study.iam.gserviceaccount.com"], name
    # Nothing of the project is changed: no role granted, no key added to its metadata.
    assert google.asked and not [uri for method, uri in google.asked if "set" in uri.rsplit("/", 1)[-1].lower()]


def unknown_fields(value: Any, schema: dict[str, Any], schemas: dict[str, Any], path: str) -> list[str]:
    """Paths in `value` that a discovery document's schema does not have."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"]]
    if isinstance(value, list):
        return [
            field
            for number, item in enumerate(value)
            for field in unknown_fields(item, schema.get("items", {}), schemas, f"{path}[{number}]")
        ]
    if not isinstance(value, dict):
        allowed = schema.get("enum")
        return [f"{path}={value}"] if allowed and value not in allowed else []
    known = schema.get("properties", {})
    found = [f"{path}.{name}" for name in value if name not in known]
    return found + [
        field
        for name in value.keys() & known.keys()
        for field in unknown_fields(value[name], known[name], schemas, f"{path}.{name}")
    ]


def test_google_knows_every_field_of_our_machines(gcp_config: dict[str, Any]) -> None:
    """Against Google's own description of Compute Engine v1, which its client library ships."""
    document = resources.files("googleapiclient.discovery_cache.documents").joinpath("compute.v1.json")
    schemas = json.loads(document.read_text())["schemas"]
    for name, kind in gcp_config["available_node_types"].items():
        assert unknown_fields(kind["node_config"], schemas["Instance"], schemas, name) == []
    wrong = {"scheduling": {"provisioningModel": "CHEAP", "preemtible": True}}
    assert unknown_fields(wrong, schemas["Instance"], schemas, "x") == [
        "x.scheduling.preemtible",
        "x.scheduling.provisioningModel=CHEAP",
    ]


def test_roles_grant_what_is_said_and_no_more(cluster_folder: Path) -> None:
    def statements(path: Path) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(path.read_text())["Statement"]
        return found

    head = statements(cluster_folder / "aws/head-policy.json")
    changing = [entry for entry in head if not all(action.startswith("ec2:Describe") for action in entry["Action"])]
    assert all(entry["Resource"] != "*" for entry in changing)
    ending = [entry for entry in head if "ec2:TerminateInstances" in entry["Action"]]
    assert [entry["Condition"]["StringEquals"] for entry in ending] == [{"aws:ResourceTag/ray-cluster-name": "xmae"}]
    passing = [entry for entry in head if "iam:PassRole" in entry["Action"]]
    assert [entry["Resource"] for entry in passing] == ["arn:aws:iam::ACCOUNT:role/xmae-node"]
    (kms,) = statements(cluster_folder.parent / "storage/policies/kms.json")
    assert kms["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"] and kms["Resource"] != "*"
    assert kms["Condition"] == {"StringEquals": {"kms:ViaService": "s3.REGION.amazonaws.com"}}
