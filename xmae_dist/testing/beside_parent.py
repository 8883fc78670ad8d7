"""A process that does not outlive the one that started it, however that ends: `kill -9` and a lost terminal too.

Between the two stands this file as a program of its own. It holds the reading end of a pipe whose writing end the
parent has and never uses: when the parent is gone the pipe ends, and the whole process group is ended with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

_GRACE_S = 10.0


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """`subprocess.Popen` of a command in a process group of its own, which ends with this process.

    SIGTERM to what is returned reaches the command, and its status is the command's.
    """
    between = [sys.executable, "-I", "-S", __file__, *command]
    return subprocess.Popen(between, stdin=subprocess.PIPE, start_new_session=True, **options)


def _main(command: list[str]) -> int:
    child: subprocess.Popen[bytes] | None = None
    asked = threading.Event()

    def pass_on(*_: object) -> None:
        asked.set()
        if child is not None:
            child.terminate()

    signal.signal(signal.SIGTERM, pass_on)  # before the command: it may speak, and be asked to end, at once
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    if asked.is_set():
        child.terminate()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    status = child.wait()
    return status if status >= 0 else 128 - status


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(_GRACE_S)
    os.killpg(0, signal.SIGKILL)  # this process among them


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
