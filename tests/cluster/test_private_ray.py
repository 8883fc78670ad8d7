"""A Ray of our own runs our tasks and nobody else's, and a folder it cannot use is told at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_HOST = """
import os, sys
import ray
from xmae_dist.cluster import fanout
fanout.connect()
token = ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote())
print(ray.get_runtime_context().gcs_address, token, "RAY_AUTH_TOKEN" in os.environ, flush=True)
sys.stdin.read()
"""
_GUEST = """
import sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print("a task ran:", ray.get(ray.remote(num_cpus=0)(lambda: 6 * 7).remote()))
"""


def _environment(**more: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**ours, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture(scope="module")
def host() -> Iterator[tuple[str, str]]:
    """Address and token of a Ray that a local run has started; an old setting that opens it is in the environment."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOST],
        env=_environment(RAY_AUTH_MODE="disabled"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address, token, left = process.stdout.readline().split()
        assert left == "False", "the token is no business of what else the process starts"
        yield address, token
    finally:
        process.communicate("", timeout=60)


def _visit(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _GUEST, address],
        env=_environment(**environment),
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_a_stranger_is_refused(host: tuple[str, str]) -> None:
    address, token = host
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    for mode, secret in (("disabled", ""), ("token", "0" * 64)):
        refused = _visit(address, RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN=secret)
        assert refused.returncode != 0 and "a task ran" not in refused.stdout, (mode, refused.stderr)
    known = _visit(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
    assert known.stdout.strip() == "a task ran: 42", "the refusals must be for the token: " + known.stderr


def _connected(**environment: str) -> tuple[str, float]:
    script = (
        "from xmae_dist.cluster import fanout\n"
        "from xmae_dist.core.errors import XmaeError\n"
        "try:\n    fanout.connect()\nexcept XmaeError as error:\n    print(error)\n"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], env=_environment(**environment), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), time.monotonic() - started


def test_a_folder_that_ray_cannot_write_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told, took_s = _connected(RAY_TMPDIR=str(tmp_path / "file"))
    assert re.fullmatch(r"Ray's folder \S+/file/ray: got .*; expected .*; fix: .*RAY_TMPDIR=.*", told)
    assert took_s < 25, "Ray itself takes half a minute to give up"
    told, _ = _connected(RAY_TMPDIR="/proc")
    assert told.startswith("Ray's folder /proc/ray: got ")


def test_a_full_folder_of_ray_is_told_at_once(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system to fill cannot be mounted here")
    try:
        told, _ = _connected(RAY_TMPDIR=str(tmp_path))
        assert "MiB free; expected" in told and "RAY_TMPDIR" in told
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_every_ray_of_the_project_is_started_with_a_token() -> None:
    """`private_ray`, or a cluster of `ray start`; whoever else calls `ray.init` joins one that runs already."""
    opened = []
    for folder in ("xmae_dist", "tests", "bench", "cluster", "jobs"):
        for file in sorted((ROOT / folder).rglob("*")):
            text = file.read_text() if file.suffix in (".py", ".yaml") else ""
            if file == Path(__file__).resolve():
                continue
            opens = re.search(r"RAY_AUTH_MODE\W+disabled", text)
            starts = [call for call in re.findall(r"ray\.init\(([^)]*)\)", text) if "address=" not in call]
            if opens or (starts and file.name not in ("private_ray.py", "test_prometheus.py")):
                opened.append(str(file.relative_to(ROOT)))
    assert not opened, f"start Ray with xmae_dist.cluster.private_ray: {opened}"


_BUSY_AT_FIRST = """
import ray
from xmae_dist.cluster import private_ray
real, failures = ray.init, iter(__import__("sys").argv[1:])
def init(*words, **options):
    if said := next(failures, None):
        raise Exception(said)
    return real(*words, **options)
ray.init = init
private_ray.start(num_cpus=1)
print(ray.get(ray.remote(lambda: 6 * 7).remote()))
"""


@pytest.mark.parametrize(
    ("said", "comes_up"),
    [
        (["The current node timed out during startup. This could happen because …"], True),
        (["The current node timed out during startup."] * 2, False),
        (["no space left"], False),
    ],
)
def test_a_machine_that_was_too_busy_once_gets_another_try(said: list[str], comes_up: bool) -> None:
    command = [sys.executable, "-c", _BUSY_AT_FIRST, *said]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=240, check=False)
    assert (done.stdout.strip() == "42") == comes_up, done.stderr[-1000:]
    assert ("RunError: Ray on this machine" in done.stderr) != comes_up
