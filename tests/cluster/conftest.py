"""Cloud files with what is in capitals filled in, and an EC2 of moto's for them to be run against."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from xmae_dist.testing.s3_server import S3Server

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
REGION = "us-east-1"
DIGEST = "0" * 64


@pytest.fixture(scope="session")
def cluster_folder() -> Path:
    return CLUSTER


@pytest.fixture(scope="session")
def filled() -> Callable[[str, dict[str, str]], str]:
    """The text of a cluster file with words in capitals replaced; a word that is left over is an error."""

    def fill(name: str, words: dict[str, str]) -> str:
        text = (CLUSTER / name).read_text()
        for word in sorted(words, key=len, reverse=True):
            text = re.sub(rf"(?<![A-Z_]){word}(?![A-Z_])", words[word], text)
        return text

    return fill


@pytest.fixture(scope="session")
def network(s3: S3Server) -> dict[str, str]:
    """A private network, key pair and instance profiles in moto's cloud, as docs/operations.md has them made."""
    ec2, iam = boto3.client("ec2", region_name=REGION), boto3.client("iam", region_name=REGION)
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.9.{n}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"][
            "SubnetId"
        ]
        for n, zone in enumerate("ab")
    ]
    group = ec2.create_security_group(GroupName="xmae", Description="xmae", VpcId=vpc)["GroupId"]
    within = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[within])
    ec2.create_key_pair(KeyName="xmae-cluster")
    trust = (CLUSTER / "aws/trust.json").read_text()
    for name in ("xmae-head", "xmae-node"):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return {
        "REGION": REGION,
        "REGISTRY": "registry.example",
        "CUDA_DIGEST": DIGEST,
        "CPU_DIGEST": DIGEST,
        "HEAD_AMI": "ami-03cf127a",
        "GPU_AMI": "ami-760aaa0f",
        "PRIVATE_SUBNET_A": subnets[0],
        "PRIVATE_SUBNET_B": subnets[1],
        "SECURITY_GROUP": group,
    }


@pytest.fixture(scope="session")
def aws_config(filled: Callable[[str, dict[str, str]], str], network: dict[str, str]) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(filled("aws.yaml", network))
    return config


@pytest.fixture(scope="session")
def gcp_config(filled: Callable[[str, dict[str, str]], str]) -> dict[str, Any]:
    words = {
        "REGION": "europe-west4",
        "ZONE": "europe-west4-b",
        "PROJECT": "study",
        "SUBNET": "xmae",
        "REGISTRY": "registry.example/study",
        "REGISTRY_HOST": "registry.example",
        "CUDA_DIGEST": DIGEST,
        "CPU_DIGEST": DIGEST,
        "CPU_VM_IMAGE": "projects/study/global/images/cpu",
        "GPU_VM_IMAGE": "projects/study/global/images/gpu",
        "SSH_PUBLIC_KEY": "ssh-ed25519 AAAA xmae",
    }
    config: dict[str, Any] = yaml.safe_load(filled("gcp.yaml", words))
    return config
