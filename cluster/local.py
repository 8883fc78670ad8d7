"""A Ray cluster of several raylets and an S3 server on this machine, to submit jobs to, until Ctrl-C.

    python cluster/local.py --raylets 3

prints the environment for a second terminal; there `ray job submit --working-dir . -- python jobs/pretrain.py …`
works as it does in the cloud, token authentication included. Objects live in memory and end with it.

    python cluster/local.py --raylets 1 --cpus-per-raylet 0 \\
      --node-type data:CPU=1,max=2 --node-type trainer:CPU=1,GPU=1,trainer=1,max=3,boot_s=20

starts nothing but a head; Ray's autoscaler adds nodes of these types on demand and ends idle ones, as in cloud files.
GPUs are counted for scheduling and not there: train with `--resources.node-resource trainer`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from xmae_dist.core.errors import XmaeError
from xmae_dist.testing.autoscaling import NodeType
from xmae_dist.testing.local_cluster import local_cluster
from xmae_dist.testing.s3_server import serve_s3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raylets", type=int, default=2, help="nodes, the head among them (default 2)")
    parser.add_argument("--cpus-per-raylet", type=float, default=2, help="logical CPUs a node offers (default 2)")
    parser.add_argument("--bucket", default="xmae", help="bucket that is made on the S3 server (default xmae)")
    parser.add_argument("--dashboard-port", type=int, default=8265, help="port of dashboard and job server")
    parser.add_argument("--node-type", action="append", default=[], help="NAME:KEY=NUMBER,…: nodes that come on demand")
    parser.add_argument("--idle-timeout-s", type=float, default=60.0, help="idle nodes end after so long (default 60)")
    options = parser.parse_args()
    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stop.set())
    try:
        with (
            serve_s3() as server,
            local_cluster(
                raylets=options.raylets,
                num_cpus=options.cpus_per_raylet,
                environment=server.environment(),
                dashboard_port=options.dashboard_port,
                node_types=[NodeType.parse(text) for text in options.node_type],
                idle_timeout_s=options.idle_timeout_s,
            ) as cluster,
        ):
            url = server.bucket_url(options.bucket)
            print("# paste into another terminal:")
            for name, value in {**server.environment(), **cluster.environment()}.items():
                print(f"export {name}={value}")
            print(f"# object store: {url}    dashboard: {cluster.dashboard_url}    Ctrl-C ends all", flush=True)
            stop.wait()
    except XmaeError as error:
        print(f"cluster/local.py: error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
