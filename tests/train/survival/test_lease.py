"""One driver a run: a second is refused while the first lives, and takes over when it does not."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xmae_dist.core.errors import ConfigError, RunError, StorageError
from xmae_dist.storage import uri
from xmae_dist.testing.small_training import build, train
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.checkpoints.retention import RetentionConfig
from xmae_dist.train.checkpoints.upload import Saver
from xmae_dist.train.step.collective import Ranks
from xmae_dist.train.survival.lease import Lease, hold

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import sys, time
from xmae_dist.train.survival.lease import hold
with hold(sys.argv[1], beat_s=0.2) as held:
    print("held", flush=True)
    while True:
        time.sleep(0.05)
        held.check()
"""


@contextmanager
def driver(run: str) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the run until it is killed, or finds that it holds it no longer."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, run],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def files(run: str) -> list[str]:
    return [url.rsplit("/", 1)[-1] for url in uri.list_urls(uri.join(run, "lease"))]


def test_a_second_driver_is_refused_in_one_line_that_names_the_first(store_url: str) -> None:
    with driver(store_url) as first:
        with pytest.raises(ConfigError) as refused, hold(store_url, beat_s=0.2, stale_s=60):
            pass
        said = str(refused.value)
        assert "\n" not in said and f"process {first.pid} on " in said and "use another --run" in said
        assert first.poll() is None and files(store_url) == ["00000001.beat", "00000001.json"]


def test_a_driver_of_this_machine_that_was_killed_is_followed_at_once(store_url: str) -> None:
    with driver(store_url) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        started = time.monotonic()
        with hold(store_url, beat_s=0.2, stale_s=600) as held:
            held.check()
        assert time.monotonic() - started < 60


def test_one_that_has_ended_leaves_the_run_free(store_url: str) -> None:
    for number in (1, 2, 3):
        with hold(store_url, stale_s=600) as held:
            assert held.lease.number == number
    assert files(store_url) == [f"{number:08d}.{kind}" for number in (2, 3) for kind in ("beat", "json")]


def test_a_driver_that_has_stopped_beating_is_taken_over_and_stops_when_it_wakes(store_url: str) -> None:
    with driver(store_url) as first:
        first.send_signal(signal.SIGSTOP)  # as a machine that is cut off
        with hold(store_url, beat_s=0.2, stale_s=2) as held:
            first.send_signal(signal.SIGCONT)
            assert first.wait(timeout=60) != 0
            assert first.stderr is not None
            assert f"taken over by process {os.getpid()} on" in first.stderr.read()
            held.check()


def test_of_many_drivers_that_find_the_run_free_one_gets_it(store_url: str) -> None:
    got: list[int] = []
    refused: list[str] = []
    done, ready = threading.Event(), threading.Barrier(8)

    def drive() -> None:
        ready.wait()
        try:
            with hold(store_url, beat_s=0.2, stale_s=60) as held:
                got.append(held.lease.number)
                done.wait(60)
                held.check()
        except ConfigError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=drive) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(refused) < 7 and any(thread.is_alive() for thread in threads):
        time.sleep(0.1)
    done.set()
    for thread in threads:
        thread.join()
    assert got == [1] and len(refused) == 7


def test_a_checkpoint_is_not_committed_once_another_driver_has_the_run(tmp_path: Path) -> None:
    run = f"file://{tmp_path}"
    lease: Lease
    with hold(run) as held:
        lease = pickle.loads(pickle.dumps(held.lease))  # as it comes to a worker
    engine = build("torch", 0, 1)

    def save(step: int) -> Saver:
        saver = Saver(run, Ranks(), RetentionConfig(keep_recent=1), lambda *_, **__: None, "attempt", lease.check)
        train(engine, 0, 1, step - 1, step)
        saver.start(engine, step, {"state": {"step": step}})
        return saver

    assert save(1).finish() is None
    with hold(run), pytest.raises(RunError, match="taken over by process"):
        save(2).finish()
    assert [(one.step, one.complete) for one in checkpoint.list_checkpoints(run)] == [(2, False), (1, True)]


def test_a_store_that_cannot_say_whose_the_run_is_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = f"file://{tmp_path}", list[str]()
    check: Callable[[], None] = Lease(run_url=f"s3://no-such-bucket-{os.getpid()}/run", number=1).check
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(StorageError):
        check()
    engine = build("torch", 0, 1)
    saver = Saver(run, Ranks(), RetentionConfig(), lambda kind, **_: told.append(kind), "attempt", check)
    train(engine, 0, 1, 0, 1)
    saver.start(engine, 1, {"state": {"step": 1}})
    assert "no answer" in str(saver.finish()) and told == ["checkpoint_missed"]


def test_a_store_without_conditional_puts_keeps_no_lease(s3: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from xmae_dist.testing.flaky_s3 import Rule, flaky_s3

    bucket = s3.bucket_url()  # type: ignore[attr-defined]
    with flaky_s3(s3.endpoint_url) as proxy:  # type: ignore[attr-defined]
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
        proxy.follow(Rule(kind="careless", methods=("PUT",)))
        with pytest.raises(StorageError, match="conditional"), hold(f"{bucket}/run"):
            pass
