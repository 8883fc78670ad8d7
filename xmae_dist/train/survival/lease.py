"""One driver a run: a lease in the run's store, kept by a heartbeat, and taken over when that has stopped.

    <run>/lease/00000001.json    who holds it; made by a conditional put, so of several drivers one gets it
    <run>/lease/00000001.beat    a count, rewritten by the holder every few seconds; "released" once it has ended

The highest number is the lease. A driver that finds one watches its heartbeat: where that moves, the run is refused;
where it has not moved for long enough, or the holder was a process of this machine that is gone, the next number is
made. So no two clocks are compared, and a holder that was only cut off for a while finds the higher number at its next
heartbeat, or rank 0 before the next checkpoint is committed, and stops.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xmae_dist.core.errors import ConfigError, RunError, StorageError
from xmae_dist.storage import uri

BEAT_S = 5.0
STALE_S = 60.0
_RELEASED = b"released"


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The lease that one driver got; sent to rank 0."""

    run_url: str
    number: int

    def check(self) -> None:
        """Raises RunError where another driver has taken the run over, StorageError where the store does not say."""
        newest = _newest(self.run_url)
        if newest > self.number:
            raise RunError(
                f"run {self.run_url}",
                value=f"taken over by {_told(_holder(self.run_url, newest))}",
                expected="one driver for a run",
                fix="nothing to do: this driver has stopped and changes nothing more; the other continues from the "
                "newest checkpoint",
            )


class Held:
    """A lease while its heartbeat runs. `check()` raises what the heartbeat found out."""

    def __init__(self, lease: Lease, beat_s: float) -> None:
        self.lease, self._beat_s = lease, beat_s
        self._lost: RunError | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, name="lease", daemon=True)

    def check(self) -> None:
        if self._lost is not None:
            raise self._lost

    def begin(self) -> None:
        self._beat(b"0")
        self._thread.start()

    def release(self) -> None:
        self._done.set()
        self._thread.join()
        if self._lost is None:
            with suppress(StorageError):  # it goes stale
                self._beat(_RELEASED)

    def _work(self) -> None:
        count = 0
        while not self._done.wait(self._beat_s):
            count += 1
            try:
                self._beat(str(count).encode())
                self.lease.check()
            except StorageError:
                continue  # the lease is ours until another driver has it
            except RunError as error:
                self._lost = error
                return

    def _beat(self, said: bytes) -> None:
        uri.write_bytes(_url(self.lease.run_url, self.lease.number, "beat"), said)


@contextmanager
def hold(run_url: str, *, beat_s: float = BEAT_S, stale_s: float = STALE_S) -> Iterator[Held]:
    """The lease of a run for as long as the block runs.

    Raises ConfigError where another driver holds it and is alive, StorageError where the store cannot keep one.
    """
    held = Held(_acquired(run_url, beat_s, stale_s), beat_s)
    held.begin()
    try:
        yield held
    finally:
        held.release()


def _acquired(run_url: str, beat_s: float, stale_s: float) -> Lease:
    mine = json.dumps(_me()).encode()
    while True:
        newest = _newest(run_url)
        if newest:
            _wait_until_free(run_url, newest, beat_s, stale_s)
        else:
            uri.probe_conditional_put(run_url)
        if uri.create_exclusively(_url(run_url, newest + 1, "json"), mine):
            _forget(run_url, newest)
            return Lease(run_url=run_url, number=newest + 1)


def _wait_until_free(run_url: str, number: int, beat_s: float, stale_s: float) -> None:
    holder, first = _holder(run_url, number), _heard(run_url, number)
    if first == _RELEASED or _is_gone(holder):
        return
    print(
        f"pretrain: {_told(holder)} held this run; waiting up to {stale_s:.0f} s to see whether it still does",
        file=sys.stderr,
        flush=True,
    )
    deadline = time.monotonic() + stale_s
    while time.monotonic() < deadline:
        time.sleep(beat_s / 4)
        now = _heard(run_url, number)
        if now == _RELEASED or _is_gone(holder):
            return
        if now != first:
            raise ConfigError(
                "--run",
                value=f"{run_url}, which {_told(holder)} is training",
                expected="a run that no other driver holds",
                fix=f"let that one end or stop it (it may be taken over {stale_s:.0f} s after its last heartbeat), or "
                "use another --run",
            )


def _url(run_url: str, number: int, kind: str) -> str:
    return uri.join(run_url, "lease", f"{number:08d}.{kind}")


def _newest(run_url: str) -> int:
    """The highest number, 0 where there is none."""
    return max(_numbers(run_url), default=0)


def _numbers(run_url: str) -> list[int]:
    names = (url.rsplit("/", 1)[-1] for url in uri.list_urls(uri.join(run_url, "lease")))
    return [int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()]


def _holder(run_url: str, number: int) -> dict[str, Any]:
    holder: dict[str, Any] = json.loads(uri.read_bytes(_url(run_url, number, "json")))
    return holder


def _heard(run_url: str, number: int) -> bytes:
    """The last heartbeat; nothing where the holder has not come to its first."""
    url = _url(run_url, number, "beat")
    return uri.read_bytes(url) if uri.exists(url) else b""


def _forget(run_url: str, number: int) -> None:
    """Removes what lies before `number`, which others may still be reading."""
    for old in _numbers(run_url):
        if old < number:
            uri.delete(_url(run_url, old, "beat"))
            uri.delete(_url(run_url, old, "json"))


def _told(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"


def _me() -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "started": _started(os.getpid()),
    }


def _is_gone(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is no more; containers' processes are told apart."""
    return bool(holder["machine"]) and holder["machine"] == _machine() and holder["started"] != _started(holder["pid"])


def _machine() -> str:
    """Names the boot of this machine and the space of process ids; nothing where Linux does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process began, in ticks since the boot: a process id may be used again."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
