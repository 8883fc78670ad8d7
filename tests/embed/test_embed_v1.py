"""Tables of the earlier format are read, carried over and go on; nothing in them is embedded again."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from tests.embed.jobs import ENCODER, by_telling, embed, opened, told
from xmae_dist.core.errors import IntegrityError
from xmae_dist.embed.backlog import View
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table

FROZEN = Path(__file__).parent / "frozen" / "embeddings-v1.tar.gz"
"""Cohort `ring`: one generation (t0, t1). Cohort `watch`: generation 2 holds s0, s2, s3; the job of generation 3 was to
take s2 out and add s4, and died after its removal.
"""


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, str]:
    with tarfile.open(FROZEN) as archive:
        archive.extractall(tmp_path, filter="data")
    return f"file://{tmp_path}/corpus", f"file://{tmp_path}/embeddings"


def samples(corpus_url: str) -> dict[str, float]:
    rows = Corpus.open(corpus_url).snapshot().table(["recording_id", "digest"]).to_pylist()
    return {row["recording_id"]: float(int(row["digest"][:4], 16)) for row in rows}


def test_what_a_table_holds_is_not_embedded_again(places: tuple[str, str]) -> None:
    corpus, table = places
    before = told(table)
    assert View.of(corpus, table).behind(ENCODER) == ["ring", "watch"], (
        "the earlier format does not state what it is up to"
    )
    assert opened(corpus, table, ENCODER.lineage("ring"), ENCODER) is None
    assert View.of(corpus, table).behind(ENCODER) == ["watch"], "that it is up to date is noted"
    job = opened(corpus, table, ENCODER.lineage("watch"), ENCODER)
    assert job is not None and job.request.generation == 3
    assert job.request.difference.missing == 1 and job.request.difference.gone == 1
    job.finish(by_telling)
    assert job.publish().version is not None
    wanted = {name: value for name, value in samples(corpus).items() if name.startswith("s")}
    assert {key[1]: value for key, value in told(table).items() if key[0] == "watch"} == wanted
    assert {key: value for key, value in told(table).items() if key[0] == "ring"} == {
        key: value for key, value in before.items() if key[0] == "ring"
    }
    assert View.of(corpus, table).behind(ENCODER) == []


def test_a_withdrawal_after_the_change_of_format(places: tuple[str, str]) -> None:
    corpus, table = places
    embed(corpus, table, "watch")
    Corpus.open(corpus).withdraw(["s0", "t0"])
    for cohort in View.of(corpus, table).behind(ENCODER):
        done = embed(corpus, table, cohort)
        assert done is not None and done.withdrawn == 1
    assert {key[1] for key in told(table)} == {"s3", "s4", "t1"}
    assert View.of(corpus, table).behind(ENCODER) == []


def test_what_others_leave_among_the_requests_is_passed_over(places: tuple[str, str]) -> None:
    corpus, table = places
    folder = uri.join(table, "_requests", ENCODER.lineage("ring").id)
    for stray in (
        ".DS_Store",
        "notes.txt",
        "1-copy of it.json",
        "1.json",
        "x-abc.json",
        "2-abc.json.tmp",
        "sub/2-a.json",
    ):
        uri.write_bytes(uri.join(folder, stray), b"not ours")
    assert opened(corpus, table, ENCODER.lineage("ring"), ENCODER) is None
    Corpus.open(corpus).withdraw(["t0"])
    assert (embed(corpus, table, "ring") or pytest.fail("nothing done")).withdrawn == 1


def test_a_manifest_that_is_missing_is_named(places: tuple[str, str]) -> None:
    corpus, table = places
    uri.delete(uri.join(table, "_requests", ENCODER.lineage("ring").id), recursive=True)
    version = Table(table).version()
    with pytest.raises(IntegrityError, match="no manifest for generation 1 of cohort ring"):
        embed(corpus, table, "ring")
    assert Table(table).version() == version
