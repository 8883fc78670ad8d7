"""Passes the cloud's notice that this machine will be taken away on to Ray, which tells the training workers on it.

    python cluster/notice.py aws &          # beside `ray start` on a spot node: waits for the notice
    python cluster/notice.py gcp &
    python cluster/notice.py now            # a pod's preStop hook: the notice is that this runs

A run then saves and leaves the machine within the grace period (docs/training.md). `RAY_AUTH_MODE` and the token are
those of the node.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

AWS = "http://169.254.169.254"
GCP = "http://metadata.google.internal"
GRACE_S = {"aws": 110, "gcp": 25, "now": 25}


def aws_notice(url: str) -> bool:
    """Whether EC2 will stop or terminate this spot instance (two minutes ahead)."""
    ask = urllib.request.Request(
        f"{url}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "300"}
    )
    with urllib.request.urlopen(ask, timeout=2) as answer:
        token = answer.read().decode()
    ask = urllib.request.Request(
        f"{url}/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token}
    )
    try:
        urllib.request.urlopen(ask, timeout=2).close()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def gcp_notice(url: str) -> bool:
    """Whether Compute Engine preempts this instance (30 seconds ahead)."""
    ask = urllib.request.Request(f"{url}/computeMetadata/v1/instance/preempted", headers={"Metadata-Flavor": "Google"})
    with urllib.request.urlopen(ask, timeout=2) as answer:
        return bool(answer.read().decode().strip() == "TRUE")


def wait(cloud: str, url: str, every_s: float) -> None:
    """Until the notice comes. A metadata service that does not answer is asked again."""
    noticed = {"aws": aws_notice, "gcp": gcp_notice}[cloud]
    while True:
        try:
            if noticed(url):
                return
        except OSError as error:
            print(f"notice: {url}: {error}", file=sys.stderr, flush=True)
        time.sleep(every_s)


def drain(address: str, ip: str | None, grace_s: int, reason: str) -> int:
    """Tells Ray; returns the exit status of `ray drain-node`."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    ip = ip or ray.util.get_node_ip_address()
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] == ip]
    address = ray.get_runtime_context().gcs_address
    ray.shutdown()
    words = ["drain-node", "--address", address, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", reason]
    for node in nodes:
        command = [str(Path(sys.executable).with_name("ray")), *words, "--node-id", node]
        status = subprocess.run([*command, "--deadline-remaining-seconds", str(grace_s)], check=False).returncode
        if status:
            return status
    return 0 if nodes else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cloud", choices=("aws", "gcp", "now"))
    parser.add_argument("--grace-s", type=int, help="seconds until the machine is gone; by default the cloud's, less 5")
    parser.add_argument("--metadata-url", help="of the cloud's metadata service")
    parser.add_argument("--address", default="auto", help="of the Ray cluster")
    parser.add_argument("--node-ip", help="the node's address, where a machine has several")
    parser.add_argument("--every-s", type=float, default=2.0, help="between questions")
    args = parser.parse_args()
    if args.cloud != "now":
        wait(args.cloud, args.metadata_url or {"aws": AWS, "gcp": GCP}[args.cloud], args.every_s)
    return drain(args.address, args.node_ip, args.grace_s or GRACE_S[args.cloud], f"notice ({args.cloud})")


if __name__ == "__main__":
    raise SystemExit(main())
