"""`cluster/kuberay/`: built by kustomize, against KubeRay's schemas, the operator's further rules, and Kubernetes' own.

The schemas of KubeRay 1.7 lie beside the project (`../shared/kuberay`), and kustomize comes with `kubectl`: tests that
need one skip where it is absent. Nothing here has run on a Kubernetes.
"""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from operator_rules import problems

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "cluster/kuberay"
SCHEMAS = ROOT.parent / "shared/kuberay"
BUILDS = [
    "base",
    "jobs/pretrain",
    "jobs/pretrain-on-cluster",
    "jobs/evaluate",
    "jobs/reembed",
    "overlays/one-gpu",
    "overlays/spot-64",
]
COMPONENTS = {"kueue": "jobs/pretrain", "gcs-redis": "base", "gcs-rocksdb": "base"}
# What the cluster must be told to allow: cluster/README.md names it.
GATES = frozenset({"RayCronJob", "GCSFaultToleranceEmbeddedStorage"})
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}
OLDEST_KUBERNETES, NEWEST_KUBERNETES = "1.31", "1.37"
# The pretraining job that this project had, which the operator refuses.
OLD_JOB = """
apiVersion: ray.io/v1
kind: RayJob
metadata:
  name: xmae-pretrain
spec:
  entrypoint: python -m xmae_dist.cli pretrain large_h100x64_spot --corpus s3://BUCKET/corpus --run s3://BUCKET/runs/N
  backoffLimit: 5
  shutdownAfterJobFinishes: true
  ttlSecondsAfterFinished: 3600
  clusterSelector:
    ray.io/cluster: xmae
"""


def build(folder: Path) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which brings kustomize, is not installed")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Every build of ours, and each component on what it is for."""
    found = {name: build(KUBERAY / name) for name in BUILDS}
    folder = tmp_path_factory.mktemp("kuberay") / "kuberay"
    shutil.copytree(KUBERAY, folder)
    for component, base in COMPONENTS.items():
        (folder / "try").mkdir(exist_ok=True)
        (folder / "try/kustomization.yaml").write_text(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
            f"resources: [../{base}]\ncomponents: [../components/{component}]\n"
        )
        found[component] = build(folder / "try")
    return found


@pytest.fixture(params=[*BUILDS, *COMPONENTS])
def documents(request: pytest.FixtureRequest, built: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return built[request.param]


def of_ray(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] in KINDS]


def pods(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template of a document: where it stands, and it."""

    def walk(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(value, dict):
            if "containers" in value.get("spec", {}):
                yield path, value
            for name, inner in value.items():
                yield from walk(inner, f"{path}.{name}")
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                yield from walk(inner, f"{path}[{number}]")

    yield from walk(document["spec"], f"{document['kind']}/{document['metadata']['name']}")


def clusters(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = document["spec"].get("jobTemplate", document["spec"])
    cluster = spec if document["kind"] == "RayCluster" else spec.get("rayClusterSpec")
    if cluster:
        yield cluster


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema under which a field that it does not name is an error."""
    closed = {name: strict(value) if isinstance(value, dict) else value for name, value in schema.items()}
    for name in ("anyOf", "allOf", "oneOf"):
        if name in closed:
            closed[name] = [strict(one) for one in closed[name]]
    if "properties" in closed:
        closed["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not closed.get("x-kubernetes-preserve-unknown-fields"):
            closed["additionalProperties"] = False
    return closed


@pytest.fixture(scope="session")
def schemas() -> dict[str, jsonschema.Draft202012Validator]:
    if not SCHEMAS.is_dir():
        pytest.skip("KubeRay's schemas are not beside the project (../shared/kuberay)")
    found = {}
    for kind, plural in KINDS.items():
        definition = yaml.load(
            (SCHEMAS / f"ray.io_{plural}.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        )
        (version,) = (entry for entry in definition["spec"]["versions"] if entry["name"] == "v1")
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        found[kind] = jsonschema.Draft202012Validator(schema)
    return found


def test_kuberays_schemas_accept_every_document(
    documents: list[dict[str, Any]], schemas: dict[str, jsonschema.Draft202012Validator]
) -> None:
    for document in of_ray(documents):
        wrong = [
            f"{error.json_path}: {error.message[:200]}" for error in schemas[document["kind"]].iter_errors(document)
        ]
        assert not wrong, wrong


def test_a_field_that_the_schema_does_not_have_is_an_error(
    built: dict[str, list[dict[str, Any]]], schemas: dict[str, jsonschema.Draft202012Validator]
) -> None:
    (cluster,) = (copy.deepcopy(document) for document in of_ray(built["base"]))
    cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["gracePeriod"] = 5
    assert [error.message for error in schemas["RayCluster"].iter_errors(cluster)]


def test_the_operator_refuses_nothing(documents: list[dict[str, Any]]) -> None:
    for document in of_ray(documents):
        assert problems(document, GATES) == [], document["metadata"]["name"]


def test_the_old_pretraining_job_is_refused() -> None:
    assert problems(yaml.safe_load(OLD_JOB)) == ["backoffLimit with clusterSelector"]


BROKEN = {
    "backoffLimit with clusterSelector": ("RayJob", "backoffLimit", 3),
    "clusterSelector in SidecarMode": ("RayJob", "submissionMode", "SidecarMode"),
    "ttlSecondsAfterFinished without shutdownAfterJobFinishes": ("RayJob", "ttlSecondsAfterFinished", 60),
    "suspend wants a cluster of its own and shutdownAfterJobFinishes": ("RayJob", "suspend", True),
    "deletionStrategy: the feature gate RayJobDeletionPolicy is off": (
        "RayJob",
        "deletionStrategy",
        {"deletionRules": []},
    ),
    "activeDeadlineSeconds: not positive": ("RayJob", "activeDeadlineSeconds", 0),
    "token: rayVersion 2.49.0 is below 2.52": ("RayCluster", "rayVersion", "2.49.0"),
    "networkPolicy: the feature gate RayClusterNetworkPolicy is off": (
        "RayCluster",
        "networkPolicy",
        {"mode": "DenyAll"},
    ),
    "enableK8sTokenAuth with secretName": (
        "RayCluster",
        "authOptions",
        {"mode": "token", "secretName": "x", "enableK8sTokenAuth": True},
    ),
    "rocksdb: the feature gate GCSFaultToleranceEmbeddedStorage is off": (
        "RayCluster",
        "gcsFaultToleranceOptions",
        {"backend": "rocksdb"},
    ),
    "storage with Redis": (
        "RayCluster",
        "gcsFaultToleranceOptions",
        {"redisAddress": "r:1", "storage": {"size": "1Gi"}},
    ),
}


@pytest.mark.parametrize("said", BROKEN)
def test_each_rule_can_be_broken(built: dict[str, list[dict[str, Any]]], said: str) -> None:
    kind, field, value = BROKEN[said]
    (document,) = of_ray(built["base" if kind == "RayCluster" else "jobs/evaluate"])
    broken = copy.deepcopy(document)
    broken["spec"][field] = value
    assert said in problems(broken)


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("data: resources in two places", {"resources": {"CPU": "1"}, "rayStartParams": {"num-cpus": "1"}}),
        ("data: labels in rayStartParams", {"rayStartParams": {"labels": "a=b"}}),
        ("data: minReplicas 9, maxReplicas 8", {"minReplicas": 9}),
        ("data: suspended", {"suspend": True}),
    ],
)
def test_each_rule_of_groups_can_be_broken(
    built: dict[str, list[dict[str, Any]]], said: str, change: dict[str, Any]
) -> None:
    (document,) = of_ray(built["base"])
    broken = copy.deepcopy(document)
    broken["spec"]["workerGroupSpecs"][0] |= change
    assert said in problems(broken)


def test_a_pod_that_restarts_is_refused_under_autoscaler_v2(built: dict[str, list[dict[str, Any]]]) -> None:
    (document,) = of_ray(built["base"])
    broken = copy.deepcopy(document)
    broken["spec"]["headGroupSpec"]["template"]["spec"]["restartPolicy"] = "Always"
    assert problems(broken) == ["head: restartPolicy Always under autoscaler v2"]


def test_a_queued_job_that_scales_by_itself_is_refused(built: dict[str, list[dict[str, Any]]]) -> None:
    (document,) = of_ray(built["kueue"])
    assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "xmae"
    broken = copy.deepcopy(document)
    broken["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] = True
    assert problems(broken) == ["Kueue: a queued cluster does not scale by itself"]


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
def test_kubernetes_accepts_native_kinds_and_every_pod(documents: list[dict[str, Any]], version: str) -> None:
    """Pods inside KubeRay's kinds are checked as the pods that the operator will make of them."""
    for document in documents:
        if document["kind"] not in KINDS:
            kubernetes_validate.validate(document, version, strict=True)
        for place, template in pods(document) if "spec" in document else ():
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
            try:
                kubernetes_validate.validate(pod, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                pytest.fail(f"{place}: {error}")


def test_pods_have_no_privilege(documents: list[dict[str, Any]]) -> None:
    """What kube-linter asks of a pod, and Kubernetes' own restricted profile."""
    for document in documents:
        for place, template in pods(document) if "spec" in document else ():
            spec = template["spec"]
            assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] >= 100, place
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, place
            assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, place
            assert not [volume for volume in spec.get("volumes", []) if "hostPath" in volume], place
            assert all("sizeLimit" in volume["emptyDir"] for volume in spec.get("volumes", []) if "emptyDir" in volume)
            for container in spec["containers"]:
                rights = container["securityContext"]
                assert rights["allowPrivilegeEscalation"] is False and rights["readOnlyRootFilesystem"] is True, place
                assert rights["capabilities"] == {"drop": ["ALL"]} and not rights.get("privileged"), place
                sizes = container["resources"]
                assert {"cpu", "memory", "ephemeral-storage"} <= sizes["requests"].keys() & sizes["limits"].keys(), (
                    place
                )
                assert sizes["requests"]["memory"] == sizes["limits"]["memory"], f"{place}: evicted under pressure"
                writable = {mount["mountPath"] for mount in container["volumeMounts"]}
                assert "/tmp" in writable, f"{place}: a read-only root and nowhere to write"


def test_secrets_are_referred_to_and_never_written(documents: list[dict[str, Any]]) -> None:
    assert not [document for document in documents if document["kind"] == "Secret"]
    for document in of_ray(documents):
        for cluster in clusters(document):
            assert cluster["authOptions"] == {"mode": "token", "secretName": "xmae-ray-token"}
    for document in documents:
        for place, template in pods(document) if "spec" in document else ():
            for entry in (entry for container in template["spec"]["containers"] for entry in container.get("env", [])):
                secret = re.search("TOKEN|PASSWORD|SECRET|KEY", entry["name"])
                assert not secret or "value" not in entry, f"{place}: {entry['name']} is written out"


def test_workers_have_no_rights_in_kubernetes(documents: list[dict[str, Any]]) -> None:
    for document in of_ray(documents):
        for place, template in pods(document):
            head = ".headGroupSpec" in place
            assert template["spec"]["serviceAccountName"] == ("xmae-head" if head else "xmae-node"), place
            assert head or template["spec"]["automountServiceAccountToken"] is False, place


def test_images_are_pinned(built: dict[str, list[dict[str, Any]]]) -> None:
    for name in [*BUILDS[1:], "kueue"]:
        for document in built[name]:
            for place, template in pods(document) if "spec" in document else ():
                for container in template["spec"]["containers"]:
                    assert "@sha256:" in container["image"], f"{name}: {place}"
                    cuda = "nvidia.com/gpu" in container["resources"]["limits"]
                    assert ("xmae-cuda@" in container["image"]) == cuda, f"{name}: {place}"


def test_clusters_scale_from_zero_with_autoscaler_v2(built: dict[str, list[dict[str, Any]]]) -> None:
    for name in BUILDS:
        for document in of_ray(built[name]):
            for cluster in clusters(document):
                assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2"
                assert {group["minReplicas"] for group in cluster["workerGroupSpecs"]} == {0}
                assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_ray_understands_the_groups_as_we_mean_them(built: dict[str, list[dict[str, Any]]]) -> None:
    """Through the code that Ray's autoscaler reads a RayCluster with."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    (document,) = of_ray(built["base"])
    config = _derive_autoscaling_config_from_ray_cr(document)
    found = {name: kind["resources"] for name, kind in config["available_node_types"].items()}
    assert found["headgroup"]["CPU"] == 0 and found["data"]["CPU"] == 16
    assert (found["trainer"]["GPU"], found["trainer"]["trainer"]) == (1, 1)
    assert config["available_node_types"]["trainer"]["labels"]["xmae/pool"] == "trainer"


def test_the_overlays_differ_in_size_alone(built: dict[str, list[dict[str, Any]]]) -> None:
    def size(name: str, kind: str) -> list[int]:
        (cluster,) = (found for document in built[name] if document["kind"] == kind for found in clusters(document))
        return [group["maxReplicas"] for group in cluster["workerGroupSpecs"]]

    assert size("overlays/one-gpu", "RayCluster") == [1, 1]
    assert size("overlays/spot-64", "RayJob") == [8, 64]


def test_a_pod_that_must_go_has_time_for_a_checkpoint(documents: list[dict[str, Any]]) -> None:
    """20 s are enough for a step and a rank's share of the largest recipe's checkpoint at 16 workers, at 25 MB/s."""
    needed_s = 1 + 4120 / 16 / 25
    for document in of_ray(documents):
        for place, template in pods(document):
            if "lifecycle" not in template["spec"]["containers"][0]:
                continue
            command = template["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
            grace_s, slept_s = (int(found) for found in re.findall(r"--grace-s (\d+); sleep (\d+)", command)[0])
            assert needed_s < grace_s <= slept_s < template["spec"]["terminationGracePeriodSeconds"], place
            if template["spec"].get("nodeSelector", {}).get("cloud.google.com/gke-spot"):
                assert template["spec"]["terminationGracePeriodSeconds"] <= 25, f"{place}: spot machines leave 25 s"


def test_ray_is_reached_by_whom_it_must_be_and_by_nobody_else(built: dict[str, list[dict[str, Any]]]) -> None:
    policies = {found["metadata"]["name"]: found["spec"] for found in built["base"] if found["kind"] == "NetworkPolicy"}
    ray = policies["xmae-ray"]
    assert ray["policyTypes"] == ["Ingress", "Egress"] and ray["podSelector"]["matchLabels"] == {
        "ray.io/is-ray-node": "yes"
    }
    assert all("from" in rule for rule in ray["ingress"]), "a rule without `from` lets everybody in"
    opened = {port["port"] for rule in ray["ingress"] for port in rule.get("ports", [])}
    (document,) = of_ray(built["base"])
    assert document["spec"]["headGroupSpec"]["rayStartParams"]["metrics-export-port"] == "8080"
    assert opened == {8265, 8080, 44217, 44227}


def commands() -> list[str]:
    return [
        line.split("entrypoint: ")[1]
        for file in sorted(KUBERAY.rglob("job.yaml"))
        for line in file.read_text().splitlines()
        if "entrypoint: " in line
    ]


@pytest.mark.parametrize("entrypoint", commands(), ids=lambda text: text.split()[3])
def test_jobs_run_commands_and_options_that_exist(entrypoint: str) -> None:
    import contextlib
    import io

    from xmae_dist.cli.main import COMMANDS, main

    words = entrypoint.split()
    assert words[:3] == ["python", "-m", "xmae_dist.cli"] and words[3] in COMMANDS
    said = io.StringIO()
    recipe = [words[4]] if words[3] == "pretrain" else []
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([words[3], *recipe, "--help"])
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{option}(?![\w-])", said.getvalue()), option


def test_the_nightly_job_ends_before_the_next_begins(built: dict[str, list[dict[str, Any]]]) -> None:
    (cron,) = of_ray(built["jobs/reembed"])
    assert cron["spec"]["schedule"] == "0 2 * * *" and cron["spec"]["suspend"] is False
    assert cron["spec"]["jobTemplate"]["activeDeadlineSeconds"] < 24 * 3600
