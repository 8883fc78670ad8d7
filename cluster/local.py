"""A Ray cluster of several raylets and an S3 server on this machine, to submit jobs to, until Ctrl-C.

    python cluster/local.py --raylets 3

prints the environment for a second terminal; there `ray job submit --working-dir . -- python jobs/pretrain.py …`
works as it does in the cloud, token authentication included. Objects live in memory and end with it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from xmae_dist.core.errors import XmaeError
from xmae_dist.testing.local_cluster import local_cluster
from xmae_dist.testing.s3_server import serve_s3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raylets", type=int, default=2, help="nodes, the head among them (default 2)")
    parser.add_argument("--cpus-per-raylet", type=float, default=2, help="logical CPUs a node offers (default 2)")
    parser.add_argument("--bucket", default="xmae", help="bucket that is made on the S3 server (default xmae)")
    parser.add_argument("--dashboard-port", type=int, default=8265, help="port of dashboard and job server")
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
