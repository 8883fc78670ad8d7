"""How the process of a command ends: what the machine did to it is told in one line, with a status that says so.

A full disk, a read-only or deleted folder, a closed pipe and SIGTERM are no defects of ours, so they leave no
traceback. What is one keeps it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from xmae_dist.cluster import fanout
from xmae_dist.core.errors import XmaeError

TERMINATED = 128 + signal.SIGTERM


def ended(name: str, work: Callable[[], int]) -> int:
    """The exit status of `work`: 143 where SIGTERM ended it, 1 where its output could not be written.

    With XMAE_TRACEBACK set, errors of ours and of the system are raised instead.
    """
    with _sigterm() as received:
        try:
            status = _caught(name, work)
        except KeyboardInterrupt:
            fanout.leave()
            status = _said(name, "terminated", TERMINATED) if received else _said(name, "interrupted", 1)
        except SystemExit:  # the parser has said what is wrong, or given its help
            status = _flushed(name, 0)
            if not status:
                raise
    return _flushed(name, status)


def _caught(name: str, work: Callable[[], int]) -> int:
    try:
        return work()
    except XmaeError as error:
        if os.environ.get("XMAE_TRACEBACK"):
            raise
        return _said(name, f"error: {error}", error.exit_status)
    except OSError as error:
        if _refused_output() is not None:
            return 0  # told, and turned into a status, when output is flushed
        if os.environ.get("XMAE_TRACEBACK"):
            raise
        return _said(name, f"error: {_told(error)}", 1)


@contextlib.contextmanager
def _sigterm() -> Iterator[list[int]]:
    """SIGTERM interrupts the main thread as Ctrl-C does, so that what is open is closed; a second one kills.

    KeyboardInterrupt is what libraries let through that wait in native code, Ray among them.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def interrupt(number: int, _: object) -> None:
        received.append(number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        if not received:
            signal.signal(signal.SIGTERM, before)


def _said(name: str, what: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(f"xmae{name and ' '}{name}: {what}", file=sys.stderr, flush=True)
    return status


def _told(error: OSError) -> str:
    try:
        Path.cwd()
    except FileNotFoundError:
        return "working folder: got one that was deleted; expected one that exists; fix: cd to another"
    why = error.strerror or str(error)
    if error.filename is None:
        return f"{type(error).__name__}: got {why}; fix: XMAE_TRACEBACK=1 shows where it arose"
    return f"{error.filename}: got {why}; expected a place that can be used; fix: free it, or name another"


def _flushed(name: str, status: int) -> int:
    """`status`, or 1 where what was printed could not be written and nothing worse has happened."""
    error = _refused_output()
    if error is None:
        return status
    # Python would try once more when it closes standard output, and complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return status  # the reader (`| head`) has gone, and has what it wanted
    told = (
        f"error: standard output: got {error.strerror}; expected room for what is printed; fix: redirect it elsewhere"
    )
    return _said(name, told, status or 1)


def _refused_output() -> OSError | None:
    """Why what was printed cannot be written; None where it was."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        return error
    return None
