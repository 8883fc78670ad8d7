"""What the corpus itself costs: opening it, asking what it holds, and writing to it."""

from __future__ import annotations

import contextlib
import io
from collections import deque

from bench.scale.register import operation
from xmae_dist.cli.main import main
from xmae_dist.storage.corpus import Corpus


@operation("open a snapshot", aim="< 1 s, < 200 MB")
def open_snapshot(url: str) -> object:
    return len(Corpus.open(url).snapshot().cohorts())


@operation("fingerprint", aim="< 1 s")
def fingerprint(url: str) -> object:
    return Corpus.open(url).snapshot().fingerprint


@operation("inspect --json", aim="< 20 s, < 500 MB")
def inspect(url: str) -> object:
    return _command("inspect", url, "--json", "--windows", "0")


@operation("withdraw of one person, dry run", aim="< 5 s, < 300 MB")
def withdraw(url: str) -> object:
    return _command("withdraw", url, "--subject", "cohort000-s0000000", "--json")


@operation("recordings in order", aim="< 120 s, < 1 GB")
def recordings(url: str) -> object:
    last = deque(Corpus.open(url).snapshot().recordings(), maxlen=1)
    return last[0].recording_id


@operation("recordings of one cohort", aim="as 1/100 of all")
def recordings_of_a_cohort(url: str) -> object:
    snapshot = Corpus.open(url).snapshot()
    return sum(1 for _ in snapshot.cohort(snapshot.cohorts()[0]).recordings())


@operation("contents counted again", aim="< 150 s, < 500 MB")
def counted(url: str) -> object:
    from xmae_dist.storage.ledger import Ledger

    corpus = Corpus.open(url)
    return len(Ledger.counted(corpus.index.at(corpus.index.version())).cohorts)


def _command(*words: str) -> int:
    """Length of what a command prints; raises where it fails."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = main(list(words))
    if status != 0:
        raise RuntimeError(f"xmae {' '.join(words)}: status {status}")
    return len(said.getvalue())
