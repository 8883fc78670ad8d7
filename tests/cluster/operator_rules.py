"""What KubeRay 1.7's operator refuses although its schemas allow it, and Kueue's limits on what it queues.

Rules of our own wording after the operator's validation; `problems` lists what is wrong with one document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

LONGEST_NAME = {"RayCluster": 63, "RayJob": 47, "RayCronJob": 36}
GATES = {
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
    "historyServerOptions": "RayClusterHistoryServer",
}
MANAGED = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"}
QUEUE = "kueue.x-k8s.io/queue-name"


def problems(document: dict[str, Any], gates: frozenset[str] = frozenset()) -> list[str]:
    """One line a rule that `document` breaks, with the operator's feature gates that are on."""
    kind, name, spec = document["kind"], document["metadata"]["name"], document["spec"]
    found = list(_name(kind, name))
    found += list(_queue(kind, document["metadata"].get("labels", {}), spec))
    if kind == "RayCluster":
        return found + list(_cluster(spec, gates))
    if kind == "RayJob":
        return found + list(_job(spec, gates))
    if kind == "RayCronJob":
        return found + list(_cron(spec, gates))
    return [f"{kind}: no kind of KubeRay that we use"]


def _name(kind: str, name: str) -> Iterator[str]:
    if len(name) > LONGEST_NAME.get(kind, 63):
        yield f"name {name!r}: {len(name)} characters, {LONGEST_NAME[kind]} allowed"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"name {name!r}: not a DNS label"


def _queue(kind: str, labels: dict[str, str], spec: dict[str, Any]) -> Iterator[str]:
    if QUEUE not in labels:
        return
    if kind == "RayJob" and (spec.get("clusterSelector") or not spec.get("shutdownAfterJobFinishes")):
        yield "Kueue: a queued RayJob has a cluster of its own that goes with it"
    if (spec if kind == "RayCluster" else spec.get("rayClusterSpec") or {}).get("enableInTreeAutoscaling"):
        yield "Kueue: a queued cluster does not scale by itself"


def _cron(spec: dict[str, Any], gates: frozenset[str]) -> Iterator[str]:
    if "RayCronJob" not in gates:
        yield "RayCronJob: the operator's feature gate RayCronJob is off"
    if "TZ" in spec["schedule"]:
        yield "schedule: no TZ in it, there is timeZone"
    if len(spec["schedule"].split()) != 5 and not spec["schedule"].startswith("@"):
        yield f"schedule {spec['schedule']!r}: five fields"
    if spec.get("timeZone") == "":
        yield "timeZone: empty"
    yield from _job(spec["jobTemplate"], gates)


def _job(spec: dict[str, Any], gates: frozenset[str]) -> Iterator[str]:
    selector, cluster = spec.get("clusterSelector"), spec.get("rayClusterSpec")
    mode = spec.get("submissionMode", "K8sJobMode")
    if not selector and not cluster:
        yield "neither rayClusterSpec nor clusterSelector"
    if selector and not selector.get("ray.io/cluster"):
        yield "clusterSelector: no ray.io/cluster"
    if selector and spec.get("backoffLimit", 0) > 0:
        yield "backoffLimit with clusterSelector"
    if selector and mode == "SidecarMode":
        yield "clusterSelector in SidecarMode"
    if spec.get("suspend") and (selector or not spec.get("shutdownAfterJobFinishes")):
        yield "suspend wants a cluster of its own and shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not spec.get("shutdownAfterJobFinishes"):
        yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "backoffLimit in InteractiveMode"
    if mode == "SidecarMode" and (spec.get("submitterPodTemplate") or spec.get("submitterConfig")):
        yield "a submitter in SidecarMode"
    if spec.get("deletionStrategy") and "RayJobDeletionPolicy" not in gates:
        yield "deletionStrategy: the feature gate RayJobDeletionPolicy is off"
    for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(field, 1) <= 0:
            yield f"{field}: not positive"
    if cluster:
        if cluster.get("upgradeStrategy"):
            yield "upgradeStrategy on a job's cluster"
        if (cluster.get("authOptions") or {}).get("enableK8sTokenAuth"):
            yield "enableK8sTokenAuth: not for a RayJob"
        yield from _cluster(cluster, gates)


def _cluster(spec: dict[str, Any], gates: frozenset[str]) -> Iterator[str]:
    scales, options = spec.get("enableInTreeAutoscaling", False), spec.get("autoscalerOptions") or {}
    groups = [("head", spec["headGroupSpec"])]
    groups += [(group["groupName"], group) for group in spec.get("workerGroupSpecs", [])]
    for name, group in groups:
        yield from _group(name, group, scales, options)
    variables = {entry["name"]: entry.get("value") for entry in _container(spec["headGroupSpec"]).get("env", [])}
    if "version" in options and "RAY_enable_autoscaler_v2" in variables:
        yield "autoscaler version in two places"
    if not scales and variables.get("RAY_enable_autoscaler_v2") in ("1", "true"):
        yield "RAY_enable_autoscaler_v2 without enableInTreeAutoscaling"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "idleTimeoutSeconds: negative"
    for field, gate in GATES.items():
        if spec.get(field) and gate not in gates:
            yield f"{field}: the feature gate {gate} is off"
    yield from _token(spec)
    yield from _control_server(spec, variables, gates)


def _container(group: dict[str, Any]) -> dict[str, Any]:
    containers = group["template"]["spec"].get("containers") or [{}]
    first: dict[str, Any] = containers[0]
    return first


def _group(name: str, group: dict[str, Any], scales: bool, options: dict[str, Any]) -> Iterator[str]:
    params = group.get("rayStartParams") or {}
    if not _container(group):
        yield f"{name}: no container"
    if group.get("resources") and params.keys() & {"num-cpus", "num-gpus", "memory", "resources"}:
        yield f"{name}: resources in two places"
    if "labels" in params:
        yield f"{name}: labels in rayStartParams"
    restart = group["template"]["spec"].get("restartPolicy", "Never")
    if scales and options.get("version") == "v2" and restart != "Never":
        yield f"{name}: restartPolicy {restart} under autoscaler v2"
    if name == "head":
        return
    low, high = group.get("minReplicas"), group.get("maxReplicas")
    if not scales and (low is None or high is None):
        yield f"{name}: minReplicas and maxReplicas without an autoscaler"
    if low is not None and high is not None and not 0 <= low <= high:
        yield f"{name}: minReplicas {low}, maxReplicas {high}"
    if group.get("suspend"):
        yield f"{name}: suspended"
    if "idleTimeoutSeconds" in group and not (scales and options.get("version") == "v2"):
        yield f"{name}: idleTimeoutSeconds without autoscaler v2"


def _token(spec: dict[str, Any]) -> Iterator[str]:
    options = spec.get("authOptions") or {}
    version = tuple(int(part) for part in spec.get("rayVersion", "0.0").split(".")[:2])
    if options.get("mode") == "token" and version < (2, 52):
        yield f"token: rayVersion {spec.get('rayVersion')} is below 2.52"
    if options.get("enableK8sTokenAuth"):
        if options.get("mode") != "token" or version < (2, 55):
            yield "enableK8sTokenAuth: wants mode token and rayVersion 2.55"
        if options.get("secretName"):
            yield "enableK8sTokenAuth with secretName"


def _control_server(spec: dict[str, Any], variables: dict[str, Any], gates: frozenset[str]) -> Iterator[str]:
    options = spec.get("gcsFaultToleranceOptions")
    if set(variables) & MANAGED or "redis-password" in (spec["headGroupSpec"].get("rayStartParams") or {}):
        yield "Redis named outside gcsFaultToleranceOptions"
    if not options:
        return
    if options.get("backend") != "rocksdb":
        if options.get("storage"):
            yield "storage with Redis"
        return
    if "GCSFaultToleranceEmbeddedStorage" not in gates:
        yield "rocksdb: the feature gate GCSFaultToleranceEmbeddedStorage is off"
    if options.keys() & {"redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace"}:
        yield "rocksdb with fields of Redis"
    storage = options.get("storage") or {}
    if storage.get("claimName") and storage.keys() & {"size", "storageClassName", "accessModes"}:
        yield "storage: claimName with what a claim would be made of"
