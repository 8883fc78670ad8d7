"""A writer killed at any moment, and started again, leaves the corpus of an undisturbed run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xmae_dist.core.seeds import uniform01
from xmae_dist.storage import sweep
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.verify import verify
from xmae_dist.testing.conformance_storage import NO_GRACE_S, content, write_part

PARTS = 5

# What an ingest does: part after part, each committed under its own transaction; what is committed is skipped.
WRITER = f"""
import sys
from xmae_dist.storage.corpus import Corpus
from xmae_dist.testing.conformance_storage import write_part
corpus = Corpus.open_or_create(sys.argv[1])
print("up", flush=True)
for i in range({PARTS}):
    if not corpus.committed(f"run {{i}}"):
        corpus.commit_part(write_part(corpus, f"p{{i}}", [f"s{{i}}"], seconds=20), f"run {{i}}")
"""


def run_killed_after(url: str, after_s: float | None) -> bool:
    """Runs the writer, kills it `after_s` seconds after it is up, and says whether it came to its end."""
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, url],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    process.stdout.readline()
    if after_s is not None:
        time.sleep(after_s)
        process.kill()
    return process.wait() == 0


@pytest.mark.slow
def test_kill_and_start_again(store_url: str) -> None:
    kills = 0
    while not run_killed_after(store_url, 0.05 + 0.4 * float(uniform01("kill", kills)) if kills < 5 else None):
        kills += 1
        corpus = Corpus.open(store_url)
        assert list(verify(corpus.snapshot())) == []
    corpus = Corpus.open(store_url)
    expected = Corpus.create(store_url + "-undisturbed" if "file" in store_url else store_url + "/undisturbed")
    for i in range(PARTS):
        expected.commit_part(write_part(expected, f"p{i}", [f"s{i}"], seconds=20), f"run {i}")
    assert content(corpus.snapshot()) == content(expected.snapshot())
    assert corpus.snapshot().fingerprint == expected.snapshot().fingerprint
    sweep.vacuum(corpus, grace_s=NO_GRACE_S)
    assert sweep.orphans(corpus, grace_s=NO_GRACE_S) == []
    assert content(corpus.snapshot()) == content(expected.snapshot())
