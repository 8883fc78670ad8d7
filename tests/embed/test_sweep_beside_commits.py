"""A request that begins and is committed while a sweep looks at the manifest: nothing that is held is forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.embed.jobs import ENCODER, by_telling, embed, opened, told
from tests.embed.test_embed_killed import record
from xmae_dist.embed import manifest
from xmae_dist.embed import sweep as sweeping
from xmae_dist.embed.publish import gather
from xmae_dist.embed.retirement import retire
from xmae_dist.embed.sweep import sweep
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus


@pytest.mark.parametrize("withdrawn", [[], ["p0"], ["p0", "p1"]])
def test_a_commit_between_two_looks_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, withdrawn: list[str]
) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    record(corpus, "a", {"p0": 1, "p1": 1})
    embed(corpus.url, table, "watch")
    if withdrawn:
        corpus.withdraw(withdrawn)
        embed(corpus.url, table, "watch")
    record(corpus, "b", {"p2": 2})
    list_urls, committed = uri.list_urls, []

    def after_a_commit(url: str, *, recursive: bool = False) -> list[str]:
        if url.endswith("/_staging") and not committed:
            committed.append(embed(corpus.url, table, "watch"))
        return list_urls(url, recursive=recursive)

    monkeypatch.setattr(uri, "list_urls", after_a_commit)
    sweep(table, grace_s=600.0)
    assert committed and committed[0] is not None
    record(corpus, "c", {"p3": 3})
    embed(corpus.url, table, "watch")
    assert sorted({recording for _, recording, _ in told(table)}) == sorted({"p0", "p1", "p2", "p3"} - {*withdrawn})
    assert sweep(table, grace_s=600.0).manifest_rows == len(withdrawn) * 2, "what had left goes with the next"


def test_a_manifest_whose_rows_stay_as_they_are_but_for_those_of_a_dead_request(store_url: str) -> None:
    corpus, table = Corpus.create(f"{store_url}/corpus"), f"{store_url}/table"
    record(corpus, "a", {"p0": 1, "p1": 1})
    embed(corpus.url, table, "watch")
    corpus.withdraw(["p0"])
    embed(corpus.url, table, "watch")
    assert sweep(table, grace_s=600.0).manifest_rows == 2
    record(corpus, "b", {"p2": 2})
    job = opened(corpus.url, table, ENCODER.lineage("watch"), ENCODER)
    assert job is not None
    job.finish(by_telling)
    found = gather(job.request, job.work)
    manifest.append(table, job.request, found.windows, job.view.position(job.request.lineage))
    swept = sweep(table, grace_s=-1.0)
    assert swept.dead_requests == [job.request.id] and swept.manifest_rows == 1
    embed(corpus.url, table, "watch")
    assert sorted({recording for _, recording, _ in told(table)}) == ["p1", "p2"]


def test_a_request_that_is_committed_while_it_is_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    record(corpus, "a", {"p0": 1})
    embed(corpus.url, table, "watch")
    record(corpus, "b", {"p1": 2})
    job = opened(corpus.url, table, ENCODER.lineage("watch"), ENCODER)
    assert job is not None
    job.finish(by_telling)
    is_given_up = sweeping._is_given_up

    def after_its_commit(*words: Any) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(uri, "delete", lambda *_, **__: None)  # it has not come to removing its staging yet
            assert job.publish().version is not None
        return is_given_up(*words)

    monkeypatch.setattr(sweeping, "_is_given_up", after_its_commit)
    assert sweep(table, grace_s=-1.0).dead_requests == [job.request.id]
    assert sorted({recording for _, recording, _ in told(table)}) == ["p0", "p1"]


def test_the_manifest_of_a_retired_bundle_goes(tmp_path: Path) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    record(corpus, "a", {"p0": 1, "p1": 1})
    embed(corpus.url, table, "watch")
    retire(table, ENCODER.model_id)
    assert sweep(table, grace_s=600.0).manifest_rows == 2
    assert sweep(table, grace_s=600.0).manifest_rows == 0
