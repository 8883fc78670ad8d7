"""A store that answers slowly, wrongly or not at all costs time, never data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from xmae_dist.core.errors import StorageError
from xmae_dist.storage import index
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.snapshot import array_reader
from xmae_dist.storage.table import Table
from xmae_dist.storage.verify import verify
from xmae_dist.testing.conformance_storage import content, write_part
from xmae_dist.testing.flaky_s3 import FlakyS3, Rule, flaky_s3
from xmae_dist.testing.s3_server import S3Server


@pytest.fixture
def flaky(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyS3]:
    with flaky_s3(s3.endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint_url)
        yield proxy


@pytest.mark.parametrize(
    ("kind", "methods"),
    [("busy", ("GET", "PUT", "HEAD")), ("reset", ("GET", "PUT", "HEAD")), ("cut", ("GET",))],
)
def test_a_corpus_comes_through(s3: S3Server, flaky: FlakyS3, kind: str, methods: tuple[str, ...]) -> None:
    corpus = Corpus.create(s3.bucket_url())
    flaky.follow(Rule(kind=kind, methods=methods, every=5))
    rows = []
    for i in range(2):
        part = write_part(corpus, f"p{i}", [f"s{i}"])
        assert corpus.commit_part(part, f"run {i}") is not None
        rows += part
    array_reader.cache_clear()
    snapshot = Corpus.open(corpus.url).snapshot()
    assert content(snapshot) == {(r.subject_id, r.recording_id, r.channel): r.digest for r in rows}
    assert list(verify(snapshot)) == []
    assert flaky.did()[kind] >= 3


def test_a_commit_whose_answer_was_lost_is_our_own(s3: S3Server, flaky: FlakyS3) -> None:
    corpus = Corpus.create(s3.bucket_url())
    rows = write_part(corpus, "p0", ["s0"])
    flaky.follow(Rule(kind="lost", methods=("PUT",), path_has="_delta_log", times=1))
    assert corpus.commit_part(rows, "run 1") == 1
    assert flaky.did()["lost"] == 1
    assert corpus.index.version() == 1
    assert len(list(corpus.snapshot().rows())) == len(rows)


def test_a_claim_whose_answer_was_lost_is_our_own(s3: S3Server, flaky: FlakyS3) -> None:
    corpus = Corpus.create(s3.bucket_url())
    flaky.follow(Rule(kind="lost", methods=("PUT",), path_has="part.json", times=1))
    part = corpus.begin_part("patch", "p0")
    assert flaky.did()["lost"] == 1
    assert part.part == "p0"
    assert corpus.begin_part("patch", "p0").part == "p0.2"


def test_lost_answers_do_not_make_a_safe_store_unsafe(s3: S3Server, flaky: FlakyS3) -> None:
    flaky.follow(Rule(kind="lost", methods=("PUT",), path_has="_probe-", times=1))
    corpus = Corpus.create(s3.bucket_url())
    assert flaky.did()["lost"] == 1
    flaky.follow(Rule(kind="lost", methods=("PUT",), path_has="corpus.json", times=1))
    assert Corpus.create(s3.bucket_url()).id != corpus.id
    assert flaky.did()["lost"] == 1


def test_a_store_without_conditional_put_is_refused(s3: S3Server, flaky: FlakyS3) -> None:
    flaky.follow(Rule(kind="careless"))
    with pytest.raises(StorageError, match=r"If-None-Match.*fix: use a store with conditional writes"):
        Corpus.create(s3.bucket_url())
    with pytest.raises(StorageError, match="If-None-Match"):
        Table(s3.bucket_url() + "/t").create(index.arrow_schema())


def test_a_store_that_stays_busy_is_told(s3: S3Server, flaky: FlakyS3) -> None:
    url = s3.bucket_url()
    flaky.follow(Rule(kind="busy"))
    with pytest.raises(StorageError, match="after retries"):
        Corpus.open(url)
