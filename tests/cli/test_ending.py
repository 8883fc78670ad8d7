"""What the machine does to a command is told in one line, with a status that says so; each is a process of its own."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xmae_dist.storage.corpus import Corpus

ROOT = Path(__file__).resolve().parents[2]
XMAE = [sys.executable, "-m", "xmae_dist.cli"]


def environment(**more: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**ours, "PYTHONPATH": str(ROOT), **more}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "c"
    Corpus.create(str(folder))
    return folder


def one_line(said: str) -> str:
    assert "Traceback" not in said and "Exception ignored" not in said, said
    assert said.count("\n") == 1, said
    return said


@pytest.mark.parametrize("words", [["--help"], ["inspect", "--help"], ["inspect", "CORPUS"], ["plan", "no-such"]])
def test_a_full_disk_under_standard_output(words: list[str], corpus: Path) -> None:
    words = [str(corpus) if word == "CORPUS" else word for word in words]
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*XMAE, *words], stdout=full, stderr=subprocess.PIPE, text=True, env=environment())
    if words == ["plan", "no-such"]:  # nothing is printed there: the parser complains elsewhere
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return
    assert done.returncode == 1
    assert "standard output: got No space left on device" in one_line(done.stderr)


@pytest.mark.parametrize(
    "words", [["--help"], ["inspect", "--help"], ["inspect", "CORPUS"], ["inspect", "CORPUS", "--json"]]
)
def test_a_reader_that_has_gone(words: list[str], corpus: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    words = [str(corpus) if word == "CORPUS" else word for word in words]
    done = subprocess.run([*XMAE, *words], stdout=write, stderr=subprocess.PIPE, text=True, env=environment())
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_standard_output_that_was_closed(corpus: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *XMAE, "inspect", str(corpus)], stderr=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_working_folder_that_was_deleted(tmp_path: Path, corpus: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = 'rmdir "$0" && exec "$@"'
    for place, status in (("relative", 1), (str(corpus), 0)):
        gone.mkdir(exist_ok=True)
        done = subprocess.run(
            ["sh", "-c", command, str(gone), *XMAE, "inspect", place], cwd=gone, capture_output=True, text=True,
            env=environment(),
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        if status:
            assert "working folder: got one that was deleted; " in one_line(done.stderr)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    """A limit on the size of files, which also binds an administrator: they write into read-only folders."""
    corpus = tmp_path / "corpus"
    words = ["simulate", "bedside", "--corpus", str(corpus), "--subjects", "1", "--minutes", "1"]
    subprocess.run([*XMAE, *words], check=True, capture_output=True, env=environment())
    done = subprocess.run(
        [*XMAE, "inspect", str(corpus), "--picture", str(tmp_path / "corpus.png"), "--windows", "1"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        env=environment(MPLCONFIGDIR=str(tmp_path)),
    )
    assert done.returncode == 1
    assert "File too large" in one_line(done.stderr.splitlines(keepends=True)[-1])
    assert "Traceback" not in done.stderr


def _wait(true: Callable[[], bool], process: subprocess.Popen[str], patience_s: float = 240) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert process.poll() is None, f"it ended by itself: {process.stderr and process.stderr.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _terminated(words: list[str], begun: Callable[[], bool], **more: str) -> tuple[int, str]:
    process = subprocess.Popen(
        [*XMAE, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(**more)
    )
    try:
        _wait(begun, process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, said


def _task_of(ray: Path) -> bool:
    """Whether a worker of the Ray in this folder has begun a task of ours."""
    logs = ray.glob("ray/session_2*/logs/worker-*.err")
    return any("write_subjects" in log.read_text(errors="replace") for log in logs)


def test_sigterm_in_one_process(tmp_path: Path) -> None:
    words = ["simulate", "bedside", "--corpus", str(tmp_path / "c"), "--subjects", "1", "--minutes", "6000"]
    status, said = _terminated(words, lambda: (tmp_path / "c" / "signals").exists())
    assert status == 143, said
    assert said.splitlines()[-1] == "xmae simulate: terminated" and "Traceback" not in said


@pytest.mark.slow
def test_sigterm_while_ray_works(tmp_path: Path) -> None:
    corpus, ray = tmp_path / "c", Path("/tmp") / f"xr{os.getpid()}"
    ray.mkdir()
    words = ["simulate", "bedside", "--corpus", str(corpus), "--subjects", "40", "--minutes", "600"]
    words += ["--part-mib", "1"]
    try:
        status, said = _terminated(words, lambda: _task_of(ray), RAY_TMPDIR=str(ray))
        assert status == 143, said
        assert said.splitlines()[-1] == "xmae simulate: terminated", said
        for unwanted in ("Traceback", "SIGTERM received", "*** ", "PC: @", "terminate called"):
            assert unwanted not in said, said
    finally:
        with contextlib.suppress(OSError):
            subprocess.run(["rm", "-rf", str(ray)], check=False)
