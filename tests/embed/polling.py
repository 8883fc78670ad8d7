"""A reader that reads a table all the while others change it, and must never see part of a request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.embed.jobs import told
from xmae_dist.core.errors import StorageError

State = dict[tuple[str, str, float], float]


@dataclass
class Reader:
    """What a reader may see, what it saw, and what went wrong."""

    states: list[State]
    """Whole states, in their order; more may be added before they come about."""
    seen: list[int] = field(default_factory=list)
    """Of each read, which state."""
    unanswered: int = 0
    """Reads that the store did not answer."""
    wrong: list[object] = field(default_factory=list)

    def read(self, table: str, *, patient: bool) -> None:
        try:
            rows = told(table)
            self.seen.append(self.states.index(rows))
        except StorageError as error:
            self.unanswered += 1
            if not patient:
                self.wrong.append(error)
        except (AssertionError, ValueError) as error:  # a window twice; rows that are no state
            self.wrong.append(error)


@contextmanager
def polled(table: str, states: list[State], *, every_s: float = 0.05, patient: bool = False) -> Iterator[Reader]:
    """While the block runs a reader reads; every state that it sees must be one of `states`, and none comes back.

    `patient`: a read that fails is no fault, as where files of the version that it read were swept meanwhile.
    """
    stop, reader = threading.Event(), Reader(states)

    def poll() -> None:
        while not stop.wait(every_s):
            reader.read(table, patient=patient)

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield reader
    finally:
        stop.set()
        thread.join()
    assert not reader.wrong, reader.wrong[:3]
    assert reader.seen, "the reader read nothing"
    assert reader.seen == sorted(reader.seen), "an older state came back"
