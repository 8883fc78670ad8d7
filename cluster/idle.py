"""Ends the cluster when it has had no job for a while. Runs on the head, beside `ray start --head`.

    python cluster/idle.py --after-min 180 &

`ray stop` on the head ends the workers' raylets within a minute, and each machine's guard (cluster/boot.sh) then
switches the machine off. `RAY_AUTH_MODE` and the token are those of the head.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}


def busy(address: str) -> bool:
    """Whether a job is pending or running, submitted ones and drivers that joined by themselves alike."""
    from ray.job_submission import JobSubmissionClient

    return any(str(job.status) not in ENDED for job in JobSubmissionClient(address).list_jobs())


def wait(address: str, after_s: float, every_s: float) -> None:
    """Until there has been no job for `after_s` seconds. A dashboard that does not answer counts as busy."""
    idle_since_s = time.monotonic()
    while time.monotonic() - idle_since_s < after_s:
        time.sleep(every_s)
        try:
            if busy(address):
                idle_since_s = time.monotonic()
        except (OSError, RuntimeError) as error:
            print(f"idle: {address}: {error}", file=sys.stderr, flush=True)
            idle_since_s = time.monotonic()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--after-min", type=float, default=180, help="minutes without a job (default 180)")
    parser.add_argument("--address", default="http://127.0.0.1:8265", help="of the dashboard")
    parser.add_argument("--every-s", type=float, default=60.0, help="between questions (default 60)")
    parser.add_argument("--then", help="command that ends the cluster (default: ray stop)")
    args = parser.parse_args()
    wait(args.address, 60 * args.after_min, args.every_s)
    print(f"idle: no job for {args.after_min:g} minutes; the cluster ends", flush=True)
    command = shlex.split(args.then) if args.then else [str(Path(sys.executable).with_name("ray")), "stop"]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
