"""How the process of a command ends: what the machine did to it is told in one line, with a status that says so.

A full disk, a read-only or deleted folder, a closed pipe and SIGTERM are no defects of ours, so they leave no
traceback. What is one keeps it.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xmae_dist.cluster import fanout
from xmae_dist.core.errors import XmaeError

TERMINATED = 128 + signal.SIGTERM


def ended(name: str, work: Callable[[], int]) -> int:
    """The exit status of `work`: 143 where SIGTERM ended it, 1 where its output could not be written.

    With XMAE_TRACEBACK set, errors of ours and of the system are raised instead.
    """
    with _sigterm() as received, _watched_output() as output:
        try:
            status = _caught(name, work, output)
        except KeyboardInterrupt:
            fanout.leave()
            status = _said(name, "terminated", TERMINATED) if received else _said(name, "interrupted", 1)
        except SystemExit:  # the parser has said what is wrong or given its help, or rich found its pipe closed
            if output.refusal() is None:
                raise
            status = 0
        return _written(name, status, output)


def _caught(name: str, work: Callable[[], int], output: _Output) -> int:
    try:
        return work()
    except XmaeError as error:
        if os.environ.get("XMAE_TRACEBACK"):
            raise
        return _said(name, f"error: {error}", error.exit_status)
    except OSError as error:
        if output.refusal() is not None:
            return 0  # told by `_written`, which makes a status of it
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


class _Output(io.FileIO):
    """Standard output that remembers why it could not be written: the error itself does not say which file it was."""

    refused: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.refused = error
            raise

    def refusal(self) -> OSError | None:
        """Why what was printed cannot be written; None where it was."""
        with contextlib.suppress(OSError):
            if sys.stdout is not None:
                sys.stdout.flush()
        return self.refused


@contextlib.contextmanager
def _watched_output() -> Iterator[_Output]:
    """Standard output through an `_Output`, where it is a file of the system's and not a test's."""
    if sys.stdout is None:  # closed by whoever started us; libraries ask it questions all the same
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
    before: Any = sys.stdout  # a TextIOWrapper, as a rule
    buffer = getattr(before, "buffer", None)
    if not isinstance(getattr(buffer, "raw", buffer), io.FileIO):
        with open(os.devnull, "wb") as nowhere:
            yield _Output(nowhere.fileno(), "wb", closefd=False)
        return
    before.flush()
    output = _Output(before.fileno(), "wb", closefd=False)
    sys.stdout = io.TextIOWrapper(
        output if isinstance(buffer, io.FileIO) else io.BufferedWriter(output),  # the first with PYTHONUNBUFFERED
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )
    try:
        yield output
    finally:
        if output.refusal() is not None:
            # What is left in the buffer would be tried once more, and complained of.
            os.dup2(os.open(os.devnull, os.O_WRONLY), before.fileno())
        sys.stdout = before


def _written(name: str, status: int, output: _Output) -> int:
    """`status`, or 1 where what was printed could not be written and nothing worse has happened."""
    error = output.refusal()
    if error is None or isinstance(error, BrokenPipeError):
        return status  # a reader (`| head`) that has gone has what it wanted
    told = (
        f"error: standard output: got {error.strerror}; expected room for what is printed; fix: redirect it elsewhere"
    )
    return _said(name, told, status or 1)
