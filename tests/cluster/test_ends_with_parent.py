"""What the demo and the tests start does not stay behind when they are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_STARTS = {
    "s3": "from xmae_dist.testing.s3_server import serve_s3\nwith serve_s3() as it:\n    mark = it.endpoint_url",
    "cluster": (
        "from xmae_dist.testing.local_cluster import local_cluster\n"
        "with local_cluster(raylets=1, num_cpus=1) as it:\n    mark = str(it.folder)"
    ),
    "machine of the autoscaler": (
        "import time\n"
        "from xmae_dist.testing.autoscaling import NodeType\n"
        "from xmae_dist.testing.local_cluster import local_cluster\n"
        "with local_cluster(raylets=1, num_cpus=0, node_types=[NodeType(name='data', min_workers=1)]) as it:\n"
        "    while len(it.alive()) < 2: time.sleep(0.2)\n"
        "    mark = it.machines()[0].process_group"
    ),
}


def _of_session(leaders: set[int]) -> list[str]:
    """Commands of the running processes that belong to these sessions."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, session = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0:4:3]
            if int(session) in leaders and state != "Z":
                found.append((entry / "cmdline").read_text().replace("\0", " ")[:80])
        except (OSError, IndexError, ValueError):
            continue
    return found


@pytest.mark.parametrize(
    "what", [pytest.param(name, marks=[pytest.mark.slow] if "autoscaler" in name else []) for name in _STARTS]
)
@pytest.mark.parametrize("sign", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_it_ends_with_the_one_that_started_it(what: str, sign: signal.Signals) -> None:
    script = _STARTS[what] + "\n    print(mark, flush=True)\n    import time; time.sleep(600)\n"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env={**environment, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    mark = parent.stdout.readline().strip()
    assert mark
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    leaders = {int(child) for child in children}
    leaders |= {int(mark)} if mark.isdigit() else set()  # which the autoscaler started
    assert _of_session(leaders)
    parent.send_signal(sign)
    parent.wait(timeout=60)
    deadline = time.monotonic() + 60
    while (left := _of_session(leaders)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for leader in leaders if left else ():
        os.killpg(leader, signal.SIGKILL)
    assert not left


def test_a_command_that_ends_by_itself_and_one_that_is_asked_to() -> None:
    from xmae_dist.testing import beside_parent

    with beside_parent.start(["sh", "-c", "exit 7"]) as process:
        assert process.wait(timeout=30) == 7
    with beside_parent.start(["sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"],
                             stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.terminate()
        assert process.wait(timeout=30) == 5
