"""`xmae withdraw --table` and `xmae vacuum --table`; what a look at a table with nothing new costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.embed.jobs import ENCODER, embed, told
from tests.embed.test_embed_killed import record
from xmae_dist.cli.main import main
from xmae_dist.embed.backlog import View
from xmae_dist.storage.corpus import Corpus
from xmae_dist.testing.s3_server import serve_s3


def test_a_person_leaves_corpus_and_table_and_then_the_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    record(corpus, "a", {"s0": 1, "s1": 1, "s2": 1})
    embed(corpus.url, table, "watch")
    before = told(table)
    asked = ["withdraw", corpus.url, "--subject", "s1", "--table", table, "--json"]
    assert main(asked) == 0 and told(table) == before
    capsys.readouterr()
    assert main([*asked, "--apply"]) == 0
    assert json.loads(capsys.readouterr().out)["embedding_tables"] == {table: 1}
    assert {key[1] for key in told(table)} == {"s0", "s2"}
    assert View.of(corpus.url, table).behind(ENCODER) == ["watch"], "taking away embeds nothing"
    embed(corpus.url, table, "watch")

    sweep = ["vacuum", corpus.url, "--table", table, "--json"]
    assert main(sweep) == 0
    assert json.loads(capsys.readouterr().out)["embedding_tables"][table]["files"] == 0, "nothing is old enough"
    assert main([*sweep, "--grace-hours", "0", "--apply"]) == 0
    swept = json.loads(capsys.readouterr().out)["embedding_tables"][table]
    assert swept["files"] >= 1 and swept["manifest_rows"] == 2, "the row that held the person, and the one that took it"
    assert {key[1] for key in told(table)} == {"s0", "s2"}
    record(corpus, "b", {"s3": 1})
    done = embed(corpus.url, table, "watch")
    assert done is not None and done.recordings == 1, "what the manifest lost is not embedded again"


def test_nothing_new_costs_the_same_for_any_number_of_cohorts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = []
    with serve_s3(log=tmp_path / "requests.log") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        corpus, table = Corpus.create(f"{server.bucket_url()}/corpus"), f"{server.bucket_url()}/table"
        for cohorts in ((0,), (1, 2, 3, 4)):
            for number in cohorts:
                record(corpus, f"p{number}", {f"s{number}": 1}, cohort=f"watch{number}")
                embed(corpus.url, table, f"watch{number}")
            before = server.requests()
            view = View.of(corpus.url, table)
            assert view.behind(ENCODER) == [] and list(view.with_people_who_left(ENCODER)) == []
            spent.append(server.requests() - before)
    more_commits = 8  # four to each log, of which a look reads an entry each
    assert spent[1] <= spent[0] + 2 * more_commits and spent[1] < 50, spent
